package detour

import (
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"flowcut/internal/rtnl"
)

// cut returns a message whole and without its end.
func cut(b []byte) [][]byte { return [][]byte{b, b[:len(b)*3/4]} }

// site is a search among three devices that are up.
func site() *scan {
	s := scanOf(&device{index: 1, name: "v0", up: true}, &device{index: 2, name: "v1", up: true, master: 3},
		&device{index: 3, name: "br0", kind: kindBridge, up: true}, &device{index: 4, name: "ifb0", kind: kindIFB, up: true})
	s.concernAll()
	return s
}

// checkFound holds findings to be words about devices that are there.
func (s *scan) checkFound(t *testing.T) {
	t.Helper()
	for _, f := range s.found {
		if f.What == "" || f.Device != "" && !strings.Contains(" v0 v1 br0 ifb0 ", " "+f.Device+" ") {
			t.Fatalf("%+v", f)
		}
	}
}

// FuzzLink: a device, or a route, is read or is an error, never both.
func FuzzLink(f *testing.F) {
	f.Add(make([]byte, unix.SizeofIfInfomsg))
	f.Add(append(make([]byte, unix.SizeofIfInfomsg), attr(43, attr(1|unix.NLA_F_NESTED, []byte{2}), attr(4, []byte{7, 0, 0, 0}))...)) // IFLA_XDP
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range cut(b) {
			d, err := parseDevice(b)
			if (d == nil) != (err != nil) {
				t.Fatalf("%+v and %v", d, err)
			}
			if d != nil {
				s := scanOf(d)
				s.concern(d.index)
				s.concernAll()
				s.concernLoopback()
				s.lookAtOpenVSwitch()
				s.bridgeBelow(d.index)
			}
			w, err := parseWay(b, nil)
			if err != nil && len(w.devices) > 0 {
				t.Fatalf("%+v and %v", w, err)
			}
		}
	})
}

// FuzzFilter: a filter of tc is judged or is an error.
func FuzzFilter(f *testing.F) {
	message := func(kind string, options ...[]byte) []byte {
		return append(append(make([]byte, sizeofTcMsg), attr(1, text(kind))...), attr(2, options...)...)
	}
	mirred := attr(1, attr(1, text("mirred")), attr(2, attr(2, make([]byte, 20), []byte{1, 0, 0, 0, 1, 0, 0, 0})))
	f.Add(message("matchall", attr(2, mirred)))
	f.Add(message("flower", attr(3, mirred, attr(2, attr(1, text("gact")), attr(2, attr(2, make([]byte, 20)))))))
	f.Add(message("u32", attr(7, attr(1, attr(1, text("ct"))))))
	f.Add(message("new"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range cut(b) {
			s := site()
			// What a program is called is asked of the kernel.
			if kind, _ := kindOf(b); kind == "bpf" {
				continue
			}
			_ = s.judgeFilter(s.devices[2], b)
			s.checkFound(t)
		}
	})
}

func kindOf(b []byte) (kind string, err error) {
	_, err = rtnl.Parse(b, sizeofTcMsg, func(ad *rtnl.Attr) {
		if ad.Type() == unix.TCA_KIND {
			kind = ad.String()
		}
	})
	return kind, err
}

// FuzzTables: a flowtable, a chain or a rule of nf_tables is judged or is an error.
func FuzzTables(f *testing.F) {
	f.Add(newFlowtable(attr(1, text("v0")), attr(2, text("v"))))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range cut(b) {
			s := site()
			_ = s.judgeFlowtable(b)
			hooks := map[chain]hook{}
			_ = parseChain(b, hooks)
			if in, forwards, err := parseRuleOfChain(b); err == nil && forwards {
				s.reportForward(in, hooks)
			}
			s.checkFound(t)
		}
	})
}

// FuzzIPVS: the file of IPVS is judged or is an error.
func FuzzIPVS(f *testing.F) {
	f.Add(services)
	f.Add(services[:len(services)/2])
	f.Fuzz(func(t *testing.T, file string) {
		s := scanOf()
		s.ends.add(netip.MustParseAddr("203.0.113.1"))
		_ = s.judgeIPVS(file)
		s.checkFound(t)
		if a, err := parseIPVS(file); err == nil && !a.Addr().IsValid() {
			t.Fatalf("%v of %q", a, file)
		}
	})
}
