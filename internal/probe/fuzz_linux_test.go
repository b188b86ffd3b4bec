package probe

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"flowcut/internal/rtnl"
)

// FuzzAnswer: an answer about a route, a neighbour or a device is read or is an
// error, and nothing is sent to what cannot be addressed.
func FuzzAnswer(f *testing.F) {
	f.Add(make([]byte, unix.SizeofNdMsg))
	dst := netip.MustParseAddr("192.0.2.1")
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, b[:len(b)*3/4]} { // whole, and without its end
			rt, err := parseRoute(dst, b)
			if err == nil && (!rt.hop.IsValid() || rt.dev == 0 && !rt.local) || err != nil && rt != (route{}) {
				t.Fatalf("%+v, %v", rt, err)
			}
			if n, _, err := parseNeighbour(b); err == nil {
				s := station{}
				if s.set(n.addr) == nil && (!s.known || int(s.halen) != len(n.addr)) {
					t.Fatalf("%+v of %x", s, n.addr)
				}
			}
			if d, err := parseDevice(b); err != nil && (d.addr != nil || d.flags != 0) {
				t.Fatalf("%+v and %v", d, err)
			}
			var p policy
			_, _ = rtnl.Parse(b, unix.SizeofRtMsg, func(ad *rtnl.Attr) { p.add(ad.Type()) })
		}
	})
}
