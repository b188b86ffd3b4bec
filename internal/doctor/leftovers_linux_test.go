package doctor

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"flowcut/conntrack"
	"flowcut/internal/fence"
	"flowcut/internal/ruleset"
)

// persisting makes a table that outlives its owner, as can be made from Linux
// 6.9 on, and closes the socket that made it.
func persisting(*place) error {
	const owner, persist = 0x2, 0x4 // NFT_TABLE_F_OWNER, NFT_TABLE_F_PERSIST
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return err
	}
	bracket := func(typ netlink.HeaderType) netlink.Message {
		return netlink.Message{
			Header: netlink.Header{Type: typ, Flags: netlink.Request},
			Data:   []byte{unix.AF_UNSPEC, 0, 0, unix.NFNL_SUBSYS_NFTABLES},
		}
	}
	data := append([]byte{unix.NFPROTO_INET, 0, 0, 0}, attribute(unix.NFTA_TABLE_NAME, text("flowcut-01234567"))...)
	data = append(data, attribute(unix.NFTA_TABLE_FLAGS, []byte{0, 0, 0, owner | persist})...)
	_, err = c.SendMessages([]netlink.Message{
		bracket(unix.NFNL_MSG_BATCH_BEGIN),
		{
			Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWTABLE, Flags: netlink.Request | netlink.Create | netlink.Acknowledge},
			Data:   data,
		},
		bracket(unix.NFNL_MSG_BATCH_END),
	})
	if err == nil {
		_, err = c.Receive()
	}
	return errors.Join(err, c.Close())
}

func (p *place) tables(t *testing.T) (names []string) {
	t.Helper()
	err := p.ns.Do(func() error {
		all, err := ruleset.Tables()
		for _, t := range all {
			names = append(names, t.String())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// Leftovers are removed when that is asked for, and nothing else is.
func TestRemoveLeftovers(t *testing.T) {
	p := newPlace(t)
	if err := p.ns.Do(func() error { return all(copied, fenced, persisting)(p) }); err != nil {
		t.Fatal(err)
	}
	before := p.tables(t)
	last := func(o Options) Check {
		r, err := p.examine(t, o)
		if err != nil {
			t.Fatal(err)
		}
		if !r.Provable {
			t.Errorf("leftovers make a cut unprovable: %+v", r)
		}
		return r.Checks[len(r.Checks)-1]
	}
	const those = "table ip flowcut-0badcafe, table ip6 flowcut-0badcafe, table inet flowcut-01234567"
	if c := last(Options{}); c.State != Warning || c.Found != those || c.Do != "flowcut doctor --remove-leftovers" {
		t.Errorf("leftovers: %+v", c)
	}
	if c := last(Options{NetNS: "here"}); c.Do != "flowcut doctor --remove-leftovers --netns here" {
		t.Errorf("leftovers of a namespace that was named: %+v", c)
	}
	if diff := cmp.Diff(before, p.tables(t)); diff != "" {
		t.Errorf("an examination changed the tables (-before +after):\n%s", diff)
	}
	if c := last(Options{RemoveLeftovers: true}); c.State != OK || c.Found != "removed "+those {
		t.Errorf("leftovers: %+v", c)
	}
	var want []string
	for _, name := range before {
		if !strings.Contains(those, name) {
			want = append(want, name)
		}
	}
	if diff := cmp.Diff(want, p.tables(t)); diff != "" || len(want) != 4 { // three other names and the fence that stands
		t.Errorf("tables that are left (-want +got):\n%s", diff)
	}
	if c := last(Options{RemoveLeftovers: true}); c.State != OK || c.Found != "none" {
		t.Errorf("leftovers: %+v", c)
	}
}

// What a process that is gone has left of a fence of iptables is found and removed,
// and is not taken for rules of the host; that of one that lives is left alone.
func TestRemoveChains(t *testing.T) {
	p := newPlace(t)
	f, err := fence.NewXTables(fence.Config{NetNS: p.ns.Fd()})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Raise(t.Context(), conntrack.FamilyIPv4); err != nil {
		t.Fatal(err)
	}
	last := func(o Options) Check {
		r, err := p.examine(t, o)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range r.Checks {
			if c.Name == "notrack" && c.State != OK {
				t.Errorf("the fence's rules: %+v", c)
			}
		}
		return r.Checks[len(r.Checks)-1]
	}
	if c := last(Options{RemoveLeftovers: true}); c.State != OK || c.Found != "none" {
		t.Errorf("of a process that lives: %+v", c)
	}
	const gone = `iptables-legacy-save | sed "s/ pid [0-9]* / pid 4194305 /" | iptables-legacy-restore -w`
	err = p.ns.Do(func() error { return exec.Command("sh", "-c", gone).Run() })
	if err != nil {
		t.Fatal(err)
	}
	if c := last(Options{}); c.State != Warning || !strings.Contains(c.Found, "made by process 4194305") {
		t.Errorf("leftovers: %+v", c)
	}
	if c := last(Options{RemoveLeftovers: true}); c.State != OK || !strings.HasPrefix(c.Found, "removed chains FLOWCUT-") {
		t.Errorf("leftovers: %+v", c)
	}
	if c := last(Options{}); c.State != OK || c.Found != "none" {
		t.Errorf("leftovers: %+v", c)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

// Where nf_tables is refused, the trial of iptables is the one that decides.
func TestTryXTables(t *testing.T) {
	p := newPlace(t)
	if err := tryXTables(t.Context(), p.ns.Fd()); err != nil {
		t.Fatal(err)
	}
	f := judgeXTables(finding{state: Fail, found: "the fence does not rise", means: "nothing proven", do: "modprobe nf_tables"})
	if f.state != Warning || f.found != "the fence does not rise" || f.do != "modprobe nf_tables" {
		t.Errorf("%+v", f)
	}
}

// A leftover that cannot be removed is an error, and stays in the report.
func TestRemoveFails(t *testing.T) {
	saved := finders
	t.Cleanup(func() { finders = saved })
	finders = append(finders, func(*visit) ([]leftover, error) {
		return []leftover{
			{"chain FLOWCUT-1", func() error { return unix.EBUSY }},
			{"chain FLOWCUT-2", func() error { return nil }},
		}, nil
	})
	r, err := newPlace(t).examine(t, Options{RemoveLeftovers: true})
	if !errors.Is(err, unix.EBUSY) || !strings.Contains(fmt.Sprint(err), "chain FLOWCUT-1") {
		t.Errorf("error %v", err)
	}
	if c := r.Checks[len(r.Checks)-1]; c.State != Warning || c.Found != "chain FLOWCUT-1" {
		t.Errorf("leftovers: %+v", c)
	}
}
