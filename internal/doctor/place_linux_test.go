package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"flowcut/conntrack"
	"flowcut/internal/fence"
	"flowcut/internal/lab/labtest"
	"flowcut/internal/netns"
	"flowcut/internal/nft"
)

// place is a namespace where something is provoked.
type place struct {
	ns  *netns.NS
	dir string // for files
	end []func() error
}

// closes is done before the namespace is left.
func (p *place) closes(f func() error) { p.end = append(p.end, f) }

func newPlace(t *testing.T) *place {
	t.Helper()
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	p := &place{ns: ns, dir: t.TempDir()}
	t.Cleanup(func() {
		for _, f := range p.end {
			if err := f(); err != nil {
				t.Error(err)
			}
		}
		if err := ns.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// run runs a program of the system inside.
func run(words string, stdin ...string) func(*place) error {
	return func(*place) error {
		fields := strings.Fields(words)
		if strings.HasSuffix(fields[0], "tables-legacy") {
			fields = slices.Insert(fields, 1, "-w") // tests of other packages may hold the lock
		}
		cmd := exec.Command(fields[0], fields[1:]...)
		cmd.Stdin = strings.NewReader(strings.Join(stdin, "\n"))
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", words, err, out)
		}
		return nil
	}
}

func rulesOf(text string) func(*place) error { return run("nft -f -", text) }

func setSysctl(key, value string) func(*place) error {
	return func(*place) error {
		return os.WriteFile("/proc/sys/"+strings.ReplaceAll(key, ".", "/"), []byte(value), 0)
	}
}

func all(steps ...func(*place) error) func(*place) error {
	return func(p *place) error {
		for _, f := range steps {
			if err := f(p); err != nil {
				return err
			}
		}
		return nil
	}
}

// device makes one that is up, and does something with it.
func device(name string, with ...func(vnl.Link) error) func(*place) error {
	return func(*place) error {
		attrs := vnl.NewLinkAttrs()
		attrs.Name = name
		dev := &vnl.Ifb{LinkAttrs: attrs}
		if err := errors.Join(vnl.LinkAdd(dev), vnl.LinkSetUp(dev)); err != nil {
			return err
		}
		for _, f := range with {
			if err := f(dev); err != nil {
				return err
			}
		}
		return nil
	}
}

func xdp(dev vnl.Link) error {
	const pass = 2 // XDP_PASS
	return labtest.WithProgram(unix.BPF_PROG_TYPE_XDP, "look_away", pass, func(fd int) error { return vnl.LinkSetXdpFd(dev, fd) })
}

// classifier puts a program where an IFB looks at packets that it hands on.
func classifier(name string) func(vnl.Link) error {
	return func(dev vnl.Link) error {
		return labtest.WithProgram(unix.BPF_PROG_TYPE_SCHED_CLS, name, 0, func(fd int) error {
			return onEgress(dev, func(at vnl.FilterAttrs) vnl.Filter {
				return &vnl.BpfFilter{FilterAttrs: at, Fd: fd, Name: name, DirectAction: true}
			})
		})
	}
}

func onEgress(dev vnl.Link, filter func(vnl.FilterAttrs) vnl.Filter) error {
	q := &vnl.Clsact{QdiscAttrs: vnl.QdiscAttrs{LinkIndex: dev.Attrs().Index, Handle: vnl.MakeHandle(0xffff, 0), Parent: vnl.HANDLE_CLSACT}}
	if err := vnl.QdiscAdd(q); err != nil {
		return err
	}
	return vnl.FilterAdd(filter(vnl.FilterAttrs{LinkIndex: dev.Attrs().Index, Parent: vnl.HANDLE_MIN_EGRESS, Priority: 1, Protocol: unix.ETH_P_ALL}))
}

func redirect(dev vnl.Link) error {
	lo, err := vnl.LinkByName("lo")
	if err != nil {
		return err
	}
	return onEgress(dev, func(at vnl.FilterAttrs) vnl.Filter {
		return &vnl.U32{FilterAttrs: at, Actions: []vnl.Action{&vnl.MirredAction{
			ActionAttrs:  vnl.ActionAttrs{Action: vnl.TC_ACT_STOLEN},
			MirredAction: vnl.TCA_EGRESS_REDIR, Ifindex: lo.Attrs().Index,
		}}}
	})
}

// bridge joins two devices.
func bridge(*place) error {
	attrs := vnl.NewLinkAttrs()
	attrs.Name = "br0"
	br := &vnl.Bridge{LinkAttrs: attrs}
	if err := errors.Join(vnl.LinkAdd(br), vnl.LinkSetUp(br)); err != nil {
		return err
	}
	for _, name := range []string{"left", "right"} {
		enslave := func(dev vnl.Link) error { return vnl.LinkSetMaster(dev, br) }
		if err := device(name, enslave)(nil); err != nil {
			return err
		}
	}
	return nil
}

// flows makes entries, from that many ports.
func flows(from, to int) func(*place) error {
	return func(*place) error {
		c, err := conntrack.Dial(conntrack.Config{})
		if err != nil {
			return err
		}
		var made []error
		for i := from; i < to; i++ {
			t := trialTuple4
			t.SrcPort = uint16(i)
			made = append(made, c.Create(context.Background(), trialFlow(t)))
		}
		return errors.Join(errors.Join(made...), c.Close())
	}
}

func expectation(*place) error {
	c, err := conntrack.Dial(conntrack.Config{})
	if err != nil {
		return err
	}
	ctx := context.Background()
	master := trialFlow(trialTuple4)
	master.Has |= conntrack.AttrHelper
	master.Helper = "ftp"
	err = c.Create(ctx, master)
	if err == nil {
		want := trialTuple4
		want.SrcPort, want.DstPort = 0, 2020
		mask := want
		mask.Src, mask.Dst = netip.MustParseAddr("255.255.255.255"), netip.MustParseAddr("255.255.255.255")
		mask.SrcPort, mask.DstPort = 0, 0xffff
		err = c.CreateExpectation(ctx, &conntrack.Expectation{Master: trialTuple4, Tuple: want, Mask: mask, Timeout: time.Minute, Helper: "ftp"})
	}
	return errors.Join(err, c.Close())
}

// listens starts conntrack(8), under a name, and waits until it listens.
func listens(as string) func(*place) error {
	return func(p *place) error {
		real, err := exec.LookPath("conntrack")
		if err != nil {
			return err
		}
		path := filepath.Join(p.dir, as)
		if err := os.Symlink(real, path); err != nil {
			return err
		}
		cmd := exec.Command(path, "-E")
		if err := cmd.Start(); err != nil {
			return err
		}
		p.closes(func() error {
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // ended by us
			return nil
		})
		for limit := time.Now().Add(10 * time.Second); time.Now().Before(limit); time.Sleep(time.Millisecond) {
			all, err := sockets()
			if err != nil {
				return err
			}
			for _, s := range all {
				if s.groups&eventsNew != 0 {
					return nil
				}
			}
		}
		return errors.New("it does not listen")
	}
}

func fenced(p *place) error {
	f, err := fence.New(fence.Config{})
	if err != nil {
		return err
	}
	p.closes(f.Close)
	return f.Raise(context.Background(), conntrack.FamilyIPv4)
}

// owned makes a table with an owner, as firewalld does.
func owned(p *place) error {
	c, err := nft.Dial(0)
	if err != nil {
		return err
	}
	p.closes(c.Close)
	b := new(nft.Batch)
	b.AddTable(&nft.Table{Family: nft.IPv4, Name: "firewalld", Owned: true})
	return c.Commit(b)
}

// copied loads tables of a name that a fence's could have, and of one that none
// has. They belong to nobody.
func copied(*place) error {
	var text string
	for _, name := range []string{"ip flowcut-0badcafe", "ip6 flowcut-0badcafe", "inet flowcut-0badcaf", "ip flowcut-0BADCAFE", "ip not-flowcut-0badcafe"} {
		text += "table " + name + " { chain pre { type filter hook prerouting priority -198; tcp dport 7 drop; }; }\n"
	}
	return rulesOf(text)(nil)
}

// examined returns what one check says of a place.
func (p *place) examined(t *testing.T, name string) (f finding) {
	t.Helper()
	err := p.ns.Do(func() error {
		for _, c := range checks {
			if c.name == name {
				v := &visit{ctx: t.Context(), kernel: release()}
				var err error
				f, err = c.look(v)
				return errors.Join(err, v.lab.close())
			}
		}
		return errors.New("there is no such check")
	})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if f.state == "" {
		f.state = OK
	}
	return f
}
