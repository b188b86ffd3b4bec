// Package show puts flows and receipts into words for a terminal.
package show

import (
	"net/netip"
	"strconv"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/oneline"
)

// Header is above the rows of a table of flows. The flow is last: its width is unknown
// until the last flow has been seen, and by then all the others are printed.
const Header = "PROTO    STATE        PICKED-UP       BYTES     AGE  TIMEOUT  FLOW\n"

const (
	colState   = 9
	colPicked  = 22
	endBytes   = 43 // to the right, as the two behind it
	endAge     = 51
	endTimeout = 60
	colFlow    = 62
)

// AppendRow appends a flow's row of the table.
func AppendRow(b []byte, f *conntrack.Flow, now time.Time) []byte {
	start := len(b)
	b = append(b, f.Orig.Proto.String()...)
	b = append(pad(b, start+colState), State(f)...)
	b = append(pad(b, start+colPicked), pickedUp(f)...)
	b = right(b, start+endBytes, func(b []byte) []byte { return appendBytesOf(b, f) })
	b = right(b, start+endAge, func(b []byte) []byte { return appendAge(b, f, now) })
	b = right(b, start+endTimeout, func(b []byte) []byte { return appendTimeout(b, f) })
	b = pad(b, start+colFlow)
	b = AppendPath(b, f)
	return AppendNotes(b, f)
}

// pad appends blanks up to a length, one at least.
func pad(b []byte, to int) []byte {
	b = append(b, ' ')
	for len(b) < to {
		b = append(b, ' ')
	}
	return b
}

// right appends a value that ends at a length, behind one blank at least.
func right(b []byte, end int, value func([]byte) []byte) []byte {
	var room [32]byte
	v := value(room[:0])
	return append(pad(b, end-len(v)), v...)
}

const unknown = "-"

// State returns the state of the protocol, or what the status says where
// the protocol has no states.
func State(f *conntrack.Flow) string {
	switch {
	case f.Status&conntrack.StatusHWOffload != 0:
		return "HW_OFFLOAD"
	case f.Status&conntrack.StatusOffload != 0:
		return "OFFLOAD"
	case f.Has&conntrack.AttrTCP != 0:
		return f.TCP.State.String()
	case f.Has&conntrack.AttrSCTP != 0:
		return f.SCTP.State.String()
	case f.Has&conntrack.AttrDCCP != 0:
		return f.DCCP.State.String()
	case f.Status&conntrack.StatusSeenReply == 0:
		return "UNREPLIED"
	case f.Status&conntrack.StatusAssured != 0:
		return "ASSURED"
	}
	return "REPLIED"
}

func pickedUp(f *conntrack.Flow) string {
	if f.PickedUp() {
		return "yes"
	}
	return unknown
}

// appendBytesOf appends the bytes of both directions.
func appendBytesOf(b []byte, f *conntrack.Flow) []byte {
	if f.Has&(conntrack.AttrOrigCounters|conntrack.AttrReplyCounters) == 0 {
		return append(b, unknown...)
	}
	return AppendBytes(b, f.OrigCounters.Bytes+f.ReplyCounters.Bytes)
}

// AppendBytes appends a number of bytes: "12.3 MiB".
func AppendBytes(b []byte, n uint64) []byte {
	if n < 1024 {
		return append(strconv.AppendUint(b, n, 10), " B"...)
	}
	unit, v := -1, float64(n)
	for v >= 1023.95 && unit < 5 { // 1023.95 prints as 1024.0
		v /= 1024
		unit++
	}
	b = strconv.AppendFloat(b, v, 'f', 1, 64)
	return append(b, ' ', "KMGTPE"[unit], 'i', 'B')
}

func appendAge(b []byte, f *conntrack.Flow, now time.Time) []byte {
	if f.Has&conntrack.AttrStart == 0 {
		return append(b, unknown...)
	}
	return AppendDuration(b, max(0, now.Sub(f.Start)))
}

func appendTimeout(b []byte, f *conntrack.Flow) []byte {
	if f.Has&conntrack.AttrTimeout == 0 {
		return append(b, unknown...)
	}
	return AppendDuration(b, f.Timeout)
}

// AppendDuration appends a time in its two largest units: "4d23h", "59s".
func AppendDuration(b []byte, d time.Duration) []byte {
	s := int64(d / time.Second)
	units := [...]struct {
		seconds int64
		name    byte
	}{{86400, 'd'}, {3600, 'h'}, {60, 'm'}, {1, 's'}}
	for i, u := range units {
		if s < u.seconds && i < len(units)-1 {
			continue
		}
		b = append(strconv.AppendInt(b, s/u.seconds, 10), u.name)
		if rest := s % u.seconds; i < len(units)-1 && rest >= units[i+1].seconds {
			b = append(strconv.AppendInt(b, rest/units[i+1].seconds, 10), units[i+1].name)
		}
		break
	}
	return b
}

// AppendPath appends who sends to whom and what NAT makes of each:
// "A => S -> B => C". An end is what the other side sees of it.
func AppendPath(b []byte, f *conntrack.Flow) []byte {
	o, r := &f.Orig, &f.Reply
	b = AppendEnd(b, o.Src, o.SrcPort, o.HasPorts())
	if o.Src != r.Dst || o.HasPorts() && o.SrcPort != r.DstPort {
		b = AppendEnd(append(b, " => "...), r.Dst, r.DstPort, o.HasPorts())
	}
	b = AppendEnd(append(b, " -> "...), o.Dst, o.DstPort, o.HasPorts())
	if o.Dst != r.Src || o.HasPorts() && o.DstPort != r.SrcPort {
		b = AppendEnd(append(b, " => "...), r.Src, r.SrcPort, o.HasPorts())
	}
	switch {
	case o.IsICMP():
		return appendICMP(b, o, r)
	case o.Proto == conntrack.ProtoGRE && (o.SrcPort != 0 || o.DstPort != 0):
		return appendKeys(b, o, r)
	}
	return b
}

// AppendEnd appends an address, with its port if it has one.
func AppendEnd(b []byte, a netip.Addr, port uint16, hasPort bool) []byte {
	if hasPort {
		return netip.AddrPortFrom(a, port).AppendTo(b)
	}
	return a.AppendTo(b)
}

// appendICMP appends what is asked, and the id, which NAT may change.
func appendICMP(b []byte, o, r *conntrack.Tuple) []byte {
	const echo, echo6 = 8, 128 // ICMP_ECHO, ICMPV6_ECHO_REQUEST
	isEcho := o.Proto == conntrack.ProtoICMP && o.ICMPType == echo || o.Proto == conntrack.ProtoICMPv6 && o.ICMPType == echo6
	if isEcho {
		b = append(b, " echo"...)
	} else {
		b = strconv.AppendUint(append(b, " type "...), uint64(o.ICMPType), 10)
		b = strconv.AppendUint(append(b, " code "...), uint64(o.ICMPCode), 10)
	}
	b = strconv.AppendUint(append(b, " id "...), uint64(o.ICMPID), 10)
	if o.ICMPID != r.ICMPID {
		b = strconv.AppendUint(append(b, " => "...), uint64(r.ICMPID), 10)
	}
	return b
}

// appendKeys appends the keys of GRE (call ids of PPTP), which NAT may change.
func appendKeys(b []byte, o, r *conntrack.Tuple) []byte {
	key := func(b []byte, before, after uint16) []byte {
		b = strconv.AppendUint(append(b, "0x"...), uint64(before), 16)
		if before != after {
			b = strconv.AppendUint(append(b, " => 0x"...), uint64(after), 16)
		}
		return b
	}
	b = key(append(b, " keys "...), o.SrcPort, r.DstPort)
	return key(append(b, " -> "...), o.DstPort, r.SrcPort)
}

// AppendNotes appends what few flows have.
func AppendNotes(b []byte, f *conntrack.Flow) []byte {
	number := func(name string, n uint64, base int) {
		if n == 0 {
			return
		}
		b = append(append(b, "  "...), name...)
		if base == 16 {
			b = append(b, "0x"...)
		}
		b = strconv.AppendUint(b, n, base)
	}
	number("zone ", uint64(f.Zone), 10)
	number("orig-zone ", uint64(f.OrigZone), 10)
	number("reply-zone ", uint64(f.ReplyZone), 10)
	number("mark ", uint64(f.Mark), 16)
	if f.Helper != "" {
		b = append(append(b, "  helper "...), oneline.Value(f.Helper)...)
	}
	return b
}
