package selector_test

import (
	"fmt"
	"net/netip"

	"flowcut/conntrack"
	"flowcut/selector"
)

func ExampleParse() {
	s, err := selector.Parse([]string{"-g", "192.168.1.100", "!", "-s", "203.0.113.0/24"})
	if err != nil {
		fmt.Println(err)
		return
	}
	f := conntrack.Flow{
		Status: conntrack.StatusDstNAT,
		Orig: conntrack.Tuple{
			Proto: conntrack.ProtoTCP,
			Src:   netip.MustParseAddr("198.51.100.2"), SrcPort: 47274,
			Dst: netip.MustParseAddr("203.0.113.1"), DstPort: 5201,
		},
		Reply: conntrack.Tuple{
			Proto: conntrack.ProtoTCP,
			Src:   netip.MustParseAddr("192.168.1.100"), SrcPort: 5201,
			Dst: netip.MustParseAddr("198.51.100.2"), DstPort: 47274,
		},
	}
	fmt.Println(s)
	fmt.Println(s.Match(&f))
	f.Orig.Src = netip.MustParseAddr("203.0.113.2")
	fmt.Println(s.Match(&f))
	// Output:
	// ! --orig-src 203.0.113.0/24 --dst-nat=192.168.1.100
	// true
	// false
}
