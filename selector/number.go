package selector

import (
	"strconv"
	"strings"
)

// parseNumber reads a decimal or 0x number up to limit. What looks octal is
// refused: half of the readers would take it for decimal.
func parseNumber(s string, limit uint64) (uint64, *Error) {
	digits, base := s, 10
	if h, ok := strings.CutPrefix(s, "0x"); ok {
		digits, base = h, 16
	}
	upTo := "write a number from 0 to " + strconv.FormatUint(limit, 10)
	if digits == "" || strings.ContainsAny(digits, "+-_") {
		return 0, wrong(s, "not a number", upTo)
	}
	if base == 10 && len(digits) > 1 && digits[0] == '0' {
		return 0, wrong(s, "a number with a leading zero", "write it in decimal without the zero, or in hexadecimal with 0x")
	}
	n, err := strconv.ParseUint(digits, base, 64)
	switch {
	case err != nil && strings.Trim(digits, "0123456789abcdefABCDEF") != "":
		return 0, wrong(s, "not a number", upTo)
	case err != nil && base == 10 && strings.Trim(digits, "0123456789") != "":
		return 0, wrong(s, "not a number", upTo)
	case err != nil || n > limit:
		return 0, wrong(s, "out of range", upTo)
	}
	return n, nil
}

// spans reports whether two inclusive ranges, the first beginning no later,
// overlap or touch.
func spans(to, from uint16) bool {
	return to == 0xffff || from <= to+1
}
