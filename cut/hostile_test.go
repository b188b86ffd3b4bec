//go:build linux

package cut

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

// Flags of forged segments: those that claim that an end is gone, and one that
// keeps the guard busy.
var (
	deaths  = []byte{0x04, 0x14, 0x12} // RST, with ACK, SYN-ACK
	anyFlag = append([]byte{0x10}, deaths...)
)

// forged are segments of a flow with numbers out of the air.
func forged(from, to netip.AddrPort, flags []byte, n int) [][]byte {
	var out [][]byte
	for i := range n {
		b := segment(from, to, flags[i%len(flags)])
		tcp := b[len(b)-20:]
		binary.BigEndian.PutUint32(tcp[4:], rand.Uint32())
		binary.BigEndian.PutUint32(tcp[8:], rand.Uint32())
		out = append(out, lab.Packet(from.Addr(), to.Addr(), unix.IPPROTO_TCP, append(tcp[:16:16], 0, 0, 0, 0)))
	}
	return out
}

// bombard sends forged segments of the flows from their clients' host until
// the test ends or stop is called.
func bombard(t testing.TB, h *lab.Host, flows lab.Ends, flags []byte) (stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	sent, done := 0, make(chan error)
	go func() {
		var err error
		for ctx.Err() == nil && err == nil {
			for _, f := range flows {
				if err == nil {
					err = h.Inject(ctx, forged(f.Local, f.Remote, flags, 100)...)
					sent += 100
				}
			}
		}
		done <- err
	}()
	return func() int {
		cancel()
		if err := <-done; err != nil && t.Context().Err() == nil && !strings.Contains(err.Error(), context.Canceled.Error()) {
			t.Error(err)
		}
		return sent
	}
}

// Whoever forges the resets and answers of ends that are silent proves nothing:
// the numbers of our questions are not to be guessed.
func TestCutForgedDeaths(t *testing.T) {
	net := dmz(t, lab.Config{})
	idle := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(net, port, false), Count: 3})
	must(t, net.Clients[0].Vanish())
	must(t, net.Servers[0].Vanish())
	stop := bombard(t, net.Clients[1].Host, idle, deaths)
	r := runCut(t, net, Options{Selector: toServer(t, net), Settle: None, Hold: None})
	sent := stop()
	if r.Proven || r.Final || r.Endpoints.Dead != 0 {
		t.Errorf("proven %v, final %v, dead %d, and nobody was heard", r.Proven, r.Final, r.Endpoints.Dead)
	}
	if r.Fence.Packets < 1000 {
		t.Errorf("%d of %d forged segments were stopped: the test does not test", r.Fence.Packets, sent)
	}
}

// Whoever does not cease to send in an end's place holds the guard up until
// --timeout and no longer. He may deny the proof of its death, and not the death,
// and harms no other.
func TestCutKnockingWithoutEnd(t *testing.T) {
	net := dmz(t, lab.Config{})
	idle := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(net, port, false), Count: 3})
	others := labtest.Dial(t, net.Clients[1].Host, lab.Streams{Kind: lab.Talk, To: at(net, other, false), Count: 3})
	off(t, net)
	stop := bombard(t, net.Clients[1].Host, idle, anyFlag)
	const most = 2500 * time.Millisecond
	r := runCut(t, net, Options{Selector: toServer(t, net), Timeout: most})
	exit := time.Now()
	stop()
	if took := time.Duration(r.ElapsedMS); took < most || took > most+2*time.Second {
		t.Errorf("took %v", took)
	}
	if r.Flows.Knocking == 0 || !strings.Contains(r.Reason, "sending") {
		t.Errorf("%d still knock: %s", r.Flows.Knocking, r.Reason)
	}
	wantReset(t, both(idle))
	wantSilence(t, both(idle), exit, 200*time.Millisecond)
	if n := both(others).Told(nil); n != 6 {
		t.Errorf("%d of 6 ends of others live", n)
	}
}
