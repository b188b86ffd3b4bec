package flowtext

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flowcut/conntrack"
	"flowcut/internal/conntrack8"
	"flowcut/internal/example"
	"flowcut/internal/netns"
	"flowcut/internal/sysctl"
)

// fill puts a flow of each kind into a fresh namespace, and returns a client there.
func fill(t *testing.T) (*netns.NS, *conntrack.Client) {
	t.Helper()
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	if err := ns.Do(func() error {
		return errors.Join(sysctl.Set("net.netfilter.nf_conntrack_acct", 1), sysctl.Set("net.netfilter.nf_conntrack_timestamp", 1))
	}); err != nil {
		t.Fatal(err)
	}
	c, err := conntrack.Dial(conntrack.Config{NetNS: ns.Fd()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	for name, f := range example.Flows() {
		f.Has |= conntrack.AttrStatus | conntrack.AttrTimeout
		f.Timeout = time.Hour
		if err := c.Create(t.Context(), f); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	return ns, c
}

// lists are the places where the kernel's flows are written as lines.
var lists = map[string]struct {
	format conntrack8.Format // what the lines have
	read   func() ([]byte, error)
}{
	"conntrack -L":                                    {conntrack8.Format{}, run("-L")},
	"conntrack -L -o extended,id,ktimestamp":          {conntrack8.Format{Extended: true, ID: true, KTimestamp: true}, run("-L", "-o", "extended,id,ktimestamp")},
	"/proc/net/nf_conntrack, where the kernel has it": {conntrack8.Format{Extended: true}, func() ([]byte, error) { return os.ReadFile("/proc/thread-self/net/nf_conntrack") }},
}

func run(args ...string) func() ([]byte, error) {
	return func() ([]byte, error) {
		cmd := exec.Command("conntrack", args...)
		cmd.Env = append(os.Environ(), "TZ=UTC")
		return cmd.Output()
	}
}

// What conntrack(8) and the kernel write of a real table is read as what is in it.
func TestLive(t *testing.T) {
	ns, c := fill(t)
	for name, l := range lists {
		t.Run(name, func(t *testing.T) {
			var diff string
			for range 20 { // a second may end between the two
				var text []byte
				err := ns.Do(func() (err error) { text, err = l.read(); return err })
				if err != nil {
					t.Fatal(err)
				}
				if diff = compare(t, c, l.format, string(text)); diff == "" {
					return
				}
			}
			t.Errorf("(-want +got)\n%s", diff)
		})
	}
}

// compare compares the table with what its lines are read as.
func compare(t *testing.T, c *conntrack.Client, o conntrack8.Format, text string) string {
	t.Helper()
	var want, got []Entry
	for f, err := range c.Dump(t.Context(), conntrack.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, Entry{Flow: visible(f, o)})
	}
	for line := range strings.Lines(text) {
		e, err := Reader{}.Parse(line)
		if err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		got = append(got, e)
	}
	for _, list := range [][]Entry{want, got} {
		for i := range list {
			if f := &list[i].Flow; !o.KTimestamp {
				f.Start = f.Start.Truncate(time.Minute) // an age is that of the reader's clock
			}
			list[i].Flow.Use = 0 // /proc holds one more while it is read
		}
		slices.SortFunc(list, func(a, b Entry) int { return strings.Compare(key(&a), key(&b)) })
	}
	if len(want) < len(example.Flows()) {
		t.Fatalf("only %d flows in the table", len(want))
	}
	return cmp.Diff(want, got, cmpAll)
}

func key(e *Entry) string {
	return fmt.Sprint(e.Flow.Orig, e.Flow.Zone, e.Flow.OrigZone)
}
