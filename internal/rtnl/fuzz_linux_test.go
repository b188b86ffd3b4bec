package rtnl

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// cut returns a message whole and without its end.
func cut(b []byte) [][]byte { return [][]byte{b, b[:len(b)*3/4]} }

// FuzzRoute: a route or a rule of the kernel is read or is an error, never both.
func FuzzRoute(f *testing.F) {
	hop := RouteRequest(netip.MustParseAddr("10.0.0.1"), 0)
	f.Add(AppendUint32(Append(hop, unix.RTA_ENCAP, []byte{8, 0, 1, 0, 0, 1, 0, 0}), unix.RTA_OIF, 2))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range cut(b) {
			r, err := ParseRoute(b)
			if err != nil && (r.Type != 0 || r.Devices != nil || r.Hop.IsValid() || r.Encap) {
				t.Fatalf("%+v and %v", r, err)
			}
			rule, err := parseRule(b)
			if err != nil && (rule.Asks != nil || rule.Src.IsValid() || rule.Table != 0) {
				t.Fatalf("%+v and %v", rule, err)
			}
			if rule.Src.IsValid() && rule.Src != rule.Src.Masked() {
				t.Fatalf("a source of %v", rule.Src)
			}
		}
	})
}

// FuzzDatagram: what comes with one datagram is read as messages, and those that
// are errors as such.
func FuzzDatagram(f *testing.F) {
	message := func(typ, flags uint16, body []byte) []byte {
		c := Conn{}
		c.request(typ, flags, body)
		return c.out
	}
	refused := binary.NativeEndian.AppendUint32(nil, ^uint32(unix.ENODEV)+1)
	refused = append(refused, message(unix.RTM_GETROUTE, 0, nil)...)
	worded := Append(refused, 1, []byte("no such thing\x00"))
	route := message(unix.RTM_NEWROUTE, unix.NLM_F_MULTI, RouteRequest(netip.MustParseAddr("2001:db8::1"), 0))
	f.Add(message(unix.NLMSG_ERROR, 0, refused))
	f.Add(message(unix.NLMSG_ERROR, unix.NLM_F_ACK_TLVS|unix.NLM_F_CAPPED, worded))
	f.Add(append(route, message(unix.NLMSG_DONE, unix.NLM_F_MULTI, make([]byte, 4))...))
	f.Add(append(route, route[:20]...))
	f.Add(message(unix.NLMSG_DONE, unix.NLM_F_MULTI|unix.NLM_F_ACK_TLVS, refused[:4]))
	f.Fuzz(func(t *testing.T, b []byte) {
		msgs, err := syscall.ParseNetlinkMessage(b)
		if err != nil {
			return
		}
		for _, m := range msgs {
			err := failure(m)
			bad := len(m.Data) >= 4 && int32(binary.NativeEndian.Uint32(m.Data)) < 0
			if (err != nil) != bad {
				t.Fatalf("%v of %+v", err, m)
			}
			if err != nil && err.Error() == "" {
				t.Fatalf("no words for %+v", m)
			}
			_ = Missing(err)
		}
	})
}
