package personality

import (
	"net/netip"
	"strconv"
	"strings"
)

// cNumber reads a number as strtoul(3) does with base 0, up to limit: in
// decimal, with 0x in hexadecimal, with 0 in octal.
func cNumber(s string, limit uint64) (uint64, bool) {
	s = strings.TrimPrefix(strings.TrimLeft(s, " \t\n\v\f\r"), "+")
	base := 10
	switch {
	case len(s) > 2 && s[0] == '0' && (s[1] == 'x' || s[1] == 'X'):
		s, base = s[2:], 16
	case len(s) > 1 && s[0] == '0':
		s, base = s[1:], 8
	}
	return digits(s, base, limit)
}

// decimal reads a decimal number up to limit.
func decimal(s string, limit uint64) (uint64, bool) {
	return digits(strings.TrimLeft(s, " \t"), 10, limit)
}

// digits reads digits of a base, and nothing else.
func digits(s string, base int, limit uint64) (uint64, bool) {
	if s == "" || s[0] == '+' || s[0] == '-' {
		return 0, false
	}
	n, err := strconv.ParseUint(s, base, 64)
	return n, err == nil && n <= limit
}

// address reads an address as inet_aton(3) or inet_pton(3) does. The former
// allows for blanks behind it.
func address(s string) (netip.Addr, bool) {
	if a, ok := aton(strings.TrimRight(s, " \t\n\v\f\r")); ok {
		return a, true
	}
	a, err := netip.ParseAddr(s)
	return a, err == nil && a.Is6() && a.Zone() == ""
}

// aton reads an IPv4 address of one to four numbers in any base of C; the last
// fills what the others leave.
func aton(s string) (netip.Addr, bool) {
	parts := strings.Split(s, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var v uint64
	for i, part := range parts {
		shift, limit := 8*(3-i), uint64(255)
		if i == len(parts)-1 {
			shift, limit = 0, 1<<(8*(4-i))-1
		}
		if part == "" || part[0] < '0' || part[0] > '9' {
			return netip.Addr{}, false
		}
		n, ok := cNumber(part, limit)
		if !ok {
			return netip.Addr{}, false
		}
		v |= n << shift
	}
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}), true
}
