package detour

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"

	"flowcut/internal/netns"
)

// readIPVS reports services that the flows may belong to: those on the ends'
// addresses, and those that choose by mark. IPVS takes packets at the hook
// input and sends them on past forward, as a rule without tracking them.
func (s *scan) readIPVS() error {
	b, err := netns.Proc("/proc/thread-self/net/ip_vs")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.judgeIPVS(string(b))
}

// judgeIPVS goes through lines such as "TCP  C0A80101:0050 rr", each followed
// by its servers, "  -> C0A80102:0050 Masq 1 0 0".
func (s *scan) judgeIPVS(text string) error {
	service := ""
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "FWM":
			service = "mark " + fields[1]
			s.report(IPVS, nil, "%s", service)
			continue
		case "->", "TCP", "UDP", "SCTP":
		default: // the heading
			continue
		}
		if fields[1] == "RemoteAddress:Port" {
			continue // the heading, too
		}
		at, err := parseIPVS(fields[1])
		if err != nil {
			return fmt.Errorf("the address %q: %w", fields[1], err)
		}
		if fields[0] != "->" {
			service = fields[0] + " " + at.String()
		}
		if _, known := s.ends.known[at.Addr()]; known || s.ends.more {
			s.report(IPVS, nil, "%s", service)
		}
	}
	return nil
}

// parseIPVS reads an address and a port of hexadecimal digits; an address of
// IPv6 is in brackets and written as usual.
func parseIPVS(text string) (netip.AddrPort, error) {
	var port uint16
	if host, digits, is6 := strings.Cut(strings.TrimPrefix(text, "["), "]:"); is6 {
		a, err := netip.ParseAddr(host)
		if err == nil {
			_, err = fmt.Sscanf(digits, "%04X", &port)
		}
		return netip.AddrPortFrom(a, port), err
	}
	var b [4]byte
	_, err := fmt.Sscanf(text, "%02X%02X%02X%02X:%04X", &b[0], &b[1], &b[2], &b[3], &port)
	return netip.AddrPortFrom(netip.AddrFrom4(b), port), err
}
