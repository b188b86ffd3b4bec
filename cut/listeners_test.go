//go:build linux

package cut

import (
	"context"
	"maps"
	"net/netip"
	"testing"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

const usualBuffer = 212992 / 2 // net.core.rmem_default; the kernel doubles what is asked for

// A slow listener with a small queue hears of the end of every flow: the cut
// goes on as fast as it reads.
func TestCutWaitsForListeners(t *testing.T) {
	const addrs = 1500
	net := dmz(t, lab.Config{Sysctls: map[string]string{"net.netfilter.nf_conntrack_events": "1"}})
	fill(t, net, addrs)
	l, err := table(t, net).Listen(conntrack.EventConfig{Flows: conntrack.EventDestroy, RecvBuffer: usualBuffer})
	must(t, err)
	ctx, cancel := context.WithCancel(labtest.Context(t))
	defer cancel()
	type heard struct{ ended, overruns int }
	done := make(chan heard, 1)
	go func() {
		var h heard
		for e, err := range l.Events(ctx) {
			if err != nil {
				break
			}
			switch e.Kind {
			case conntrack.EventDestroy:
				h.ended++
			case conntrack.EventOverrun:
				h.overruns++
			}
			if h.ended == 2*addrs || h.overruns > 0 {
				break
			}
			if h.ended%50 == 0 {
				time.Sleep(2 * time.Millisecond) // it is slow
			}
		}
		done <- h
	}()
	r := runCut(t, net, Options{Selector: parse(t, "--dst", "10.8.0.1"), Silent: true, Settle: None})
	if !r.Proven || r.Flows.Deleted != 2*addrs {
		t.Errorf("proven %v, deleted %d: %s", r.Proven, r.Flows.Deleted, r.Reason)
	}
	select {
	case h := <-done:
		if h.ended != 2*addrs || h.overruns > 0 {
			t.Errorf("heard of %d ends, %d overruns", h.ended, h.overruns)
		}
	case <-ctx.Done():
		t.Error("it has not heard of all ends")
	}
	must(t, l.Close())
}

// A listener that does not read at all keeps no cut from its end, and what it
// has not heard is said.
func TestCutBesideDeafListener(t *testing.T) {
	const addrs = 1500
	net := dmz(t, lab.Config{Sysctls: map[string]string{"net.netfilter.nf_conntrack_events": "1"}})
	fill(t, net, addrs)
	l, err := table(t, net).Listen(conntrack.EventConfig{RecvBuffer: usualBuffer})
	must(t, err)
	defer l.Close()
	began := time.Now()
	r := runCut(t, net, Options{Selector: parse(t, "--dst", "10.8.0.1"), Silent: true, Settle: None})
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("the cut took %v", took)
	}
	if !r.Proven || r.Flows.Deleted != 2*addrs {
		t.Errorf("proven %v, deleted %d: %s", r.Proven, r.Flows.Deleted, r.Reason)
	}
	wantReason(t, r, "events may not have heard of: 3000", "conntrackd -f external")
}

// The end of a flow that began while nobody listened is announced on its tuples
// and in its zone, also where that is one direction's alone.
func TestCutAnnouncesInZone(t *testing.T) {
	net := dmz(t, lab.Config{Sysctls: map[string]string{"net.netfilter.nf_conntrack_events": "0"}})
	c := table(t, net)
	selected := parse(t, "--dst", "10.8.0.1")
	_, err := c.CreateAll(labtest.Context(t), func(yield func(*conntrack.Flow) bool) {
		for i, has := range []conntrack.Attr{0, conntrack.AttrZone, conntrack.AttrOrigZone, conntrack.AttrReplyZone} {
			f := conntrack.Flow{Has: conntrack.AttrReply | has, Timeout: time.Hour, Zone: 7, OrigZone: 7, ReplyZone: 7, Orig: conntrack.Tuple{
				Proto: conntrack.ProtoUDP, Src: netip.AddrFrom4([4]byte{10, 9, 0, byte(i)}),
				Dst: netip.AddrFrom4([4]byte{10, 8, 0, 1}), SrcPort: 1, DstPort: 53,
			}}
			if f.Reply = f.Orig.Invert(); !yield(&f) {
				return
			}
		}
	})
	must(t, err)
	type zones struct{ both, orig, reply conntrack.Zone }
	want := map[conntrack.Tuple]zones{}
	for _, f := range all(t, c, selected) {
		want[f.Orig] = zones{f.Zone, f.OrigZone, f.ReplyZone}
	}
	must(t, net.Gateway.Sysctl("net.netfilter.nf_conntrack_events", "2"))
	l, err := c.Listen(conntrack.EventConfig{Flows: conntrack.EventDestroy})
	must(t, err)
	defer l.Close()
	r := runCut(t, net, Options{Selector: selected, Silent: true, Settle: None, Hold: None})
	if !r.Proven || r.Flows.Deleted != len(want) || r.Reason != "" {
		t.Errorf("proven %v, deleted %d: %s", r.Proven, r.Flows.Deleted, r.Reason)
	}
	got := map[conntrack.Tuple]zones{}
	for e, err := range l.Events(labtest.Context(t)) {
		must(t, err)
		if got[e.Flow.Orig] = (zones{e.Flow.Zone, e.Flow.OrigZone, e.Flow.ReplyZone}); len(got) == len(want) {
			break
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("announced %v, want %v", got, want)
	}
}
