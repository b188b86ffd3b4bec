package differ

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sort"
	"strings"
	"time"

	"flowcut/conntrack"
)

// build makes the place's table that of w. What is there now need not be
// known, but that is faster.
func (p *place) build(ctx context.Context, w *world, there *snapshot) error {
	p.ftp.hangUp()
	if err := p.empty(ctx, there); err != nil {
		return err
	}
	flag := map[bool]string{false: "0", true: "1"}
	err := p.do(func() error {
		if err := sysctl("nf_conntrack_timestamp", flag[w.timestamps]); err != nil {
			return err
		}
		if err := sysctl("nf_conntrack_acct", "0"); err != nil {
			return err
		}
		if w.ftp {
			if err := p.ftp.open(); err != nil {
				return err
			}
		}
		if err := sysctl("nf_conntrack_acct", flag[w.counters]); err != nil || !w.counters {
			return err
		}
		return datagrams()
	})
	if err != nil {
		return err
	}
	made, err := p.client.CreateAll(ctx, slices.Values(w.flows))
	if err != nil {
		return fmt.Errorf("%d of %d flows: %w", made, len(w.flows), err)
	}
	return nil
}

// empty removes all flows.
func (p *place) empty(ctx context.Context, there *snapshot) error {
	if there != nil {
		keys := make([]conntrack.Key, len(there.flows))
		for i, e := range there.flows {
			keys[i] = e.key
		}
		if _, err := p.client.Delete(ctx, keys, nil); err != nil {
			return err
		}
	}
	n, err := p.client.Count(ctx)
	if err != nil || n == 0 {
		return err
	}
	return p.client.Flush(ctx, conntrack.FamilyBoth)
}

// datagrams makes flows with packets that are counted.
func datagrams() error {
	for i := range 3 {
		lo := net.IPv4(127, 0, 0, 1)
		to := &net.UDPAddr{IP: lo, Port: 7100 + i}
		server, err := net.ListenUDP("udp", to)
		if err != nil {
			return err
		}
		client, err := net.DialUDP("udp", &net.UDPAddr{IP: lo, Port: 7000 + i}, to)
		if err != nil {
			return err
		}
		for n := range 1 + i {
			if _, err := client.Write(make([]byte, 10*n)); err != nil {
				return err
			}
		}
		if i > 0 {
			if _, err := server.WriteTo([]byte("answer"), client.LocalAddr()); err != nil {
				return err
			}
		}
		if err := client.Close(); err != nil {
			return err
		}
		if err := server.Close(); err != nil {
			return err
		}
	}
	return nil
}

// snapshot is a table: what does not depend on time and chance as text, the
// rest apart.
type snapshot struct {
	flows  []entry
	expect []entry
}

// entry is one flow or expectation.
type entry struct {
	text    string
	timeout time.Duration
	key     conntrack.Key
}

// newEntry makes a flow comparable.
func newEntry(f *conntrack.Flow) entry {
	const varies = conntrack.AttrID | conntrack.AttrUse | conntrack.AttrTimeout | conntrack.AttrStart
	e := entry{timeout: f.Timeout, key: f.Key()}
	if f.Has&conntrack.AttrStart != 0 {
		e.text = "started "
	}
	f.Has &^= varies
	e.text += string(f.AppendJSON(nil))
	return e
}

// snapshot reads the place's table. A dump reads all buckets of the kernel's
// table, which takes long; so the flows of before are asked for one by one,
// and those that may be new, and a dump is made only if the kernel counts
// others.
func (p *place) snapshot(ctx context.Context, before *snapshot, makes []conntrack.Tuple) (s *snapshot, err error) {
	s = &snapshot{}
	if before != nil {
		if s.flows, err = p.again(ctx, before.flows, makes); err != nil {
			return nil, err
		}
	}
	n, err := p.client.Count(ctx)
	if err != nil {
		return nil, err
	}
	if int(n) != len(s.flows) {
		s.flows = nil
		for f, err := range p.client.Dump(ctx, conntrack.Filter{}) {
			if err != nil {
				return nil, err
			}
			s.flows = append(s.flows, newEntry(f))
		}
	}
	sortEntries(s.flows)
	text, err := p.expectations()
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(text) {
		left, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		var e entry
		var seconds int
		if _, err := fmt.Sscan(left, &seconds); err == nil {
			e.timeout = time.Duration(seconds) * time.Second
		}
		e.text = strings.TrimSpace(rest)
		s.expect = append(s.expect, e)
	}
	sortEntries(s.expect)
	return s, nil
}

// again reads those flows that are still there, and those of tuples.
func (p *place) again(ctx context.Context, before []entry, tuples []conntrack.Tuple) (list []entry, err error) {
	keys := make([]conntrack.Key, 0, len(before)+len(tuples)*len(zones))
	had := make(map[conntrack.Key]bool, cap(keys))
	for _, e := range before {
		keys = append(keys, e.key)
	}
	for _, t := range tuples {
		for _, z := range zones {
			keys = append(keys, conntrack.Key{Orig: t, Zone: z})
		}
	}
	for _, k := range keys {
		if k.ID = 0; had[k] {
			continue
		}
		had[k] = true
		f, err := p.client.Get(ctx, k.Orig, k.Zone)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if f.Orig == k.Orig {
			list = append(list, newEntry(&f))
		}
	}
	return list, nil
}

// zones are those that are drawn.
var zones = []conntrack.Zone{0, 1, 7, 8}

// expectations reads the kernel's list of them.
func (p *place) expectations() (text string, err error) {
	err = p.do(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/nf_conntrack_expect")
		text = string(b)
		return err
	})
	return text, err
}

func sortEntries(list []entry) {
	sort.SliceStable(list, func(i, j int) bool { return list[i].text < list[j].text })
}

// slack is how much two timeouts may differ that were set at about the same time.
const slack = 3 * time.Second

// differ lists what s and o do not have in common.
func (s *snapshot) differ(o *snapshot) []string {
	return append(differEntries("flow", s.flows, o.flows), differEntries("expectation", s.expect, o.expect)...)
}

// differEntries compares two sorted lists.
func differEntries(what string, a, b []entry) (out []string) {
	var gone, come []entry
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].text < b[0].text:
			gone = append(gone, a[0])
			a = a[1:]
		case len(a) == 0 || b[0].text < a[0].text:
			come = append(come, b[0])
			b = b[1:]
		default:
			if d := a[0].timeout - b[0].timeout; d > slack || d < -slack {
				out = append(out, fmt.Sprintf("~ %s timeout %v, %v: %s", what, a[0].timeout, b[0].timeout, a[0].text))
			}
			a, b = a[1:], b[1:]
		}
	}
	for _, e := range gone {
		i := slices.IndexFunc(come, func(o entry) bool {
			return e.key.Orig.Src.IsValid() && e.key.Orig == o.key.Orig && e.key.Zone == o.key.Zone
		})
		if i < 0 {
			out = append(out, "- "+what+" "+e.text)
			continue
		}
		out = append(out, fmt.Sprintf("! %s %v: %s", what, e.key.Orig, firstChange(e.text, come[i].text)))
		come = slices.Delete(come, i, i+1)
	}
	for _, e := range come {
		out = append(out, "+ "+what+" "+e.text)
	}
	return out
}

// firstChange shows where two texts differ.
func firstChange(a, b string) string {
	const around = 20
	i := 0
	for i < min(len(a), len(b)) && a[i] == b[i] {
		i++
	}
	j := 0
	for j < min(len(a), len(b))-i && a[len(a)-1-j] == b[len(b)-1-j] {
		j++
	}
	from := max(0, i-around)
	return fmt.Sprintf("...%s..., ...%s...", a[from:min(len(a), len(a)-j+around)], b[from:min(len(b), len(b)-j+around)])
}
