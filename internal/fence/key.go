package fence

import (
	"encoding/binary"
	"net/netip"

	"flowcut/conntrack"
	"flowcut/internal/nft"
)

// key writes a tuple as the sets of the fence have it: protocol, source,
// source port, destination, destination port, as the flow's expressions load them.
func key(t conntrack.Tuple) []byte {
	var src, dst [2]byte
	switch t.Proto {
	case conntrack.ProtoICMP, conntrack.ProtoICMPv6:
		binary.BigEndian.PutUint16(src[:], t.ICMPID)
		dst = [2]byte{t.ICMPType, t.ICMPCode} // dst.u.icmp of struct nf_conntrack_tuple
	default:
		binary.BigEndian.PutUint16(src[:], t.SrcPort)
		binary.BigEndian.PutUint16(dst[:], t.DstPort)
	}
	return nft.Concat([]byte{byte(t.Proto)}, t.Src.AsSlice(), src[:], t.Dst.AsSlice(), dst[:])
}

// protoLen is the length of the protocol in a key.
const protoLen = 4

// AnyProto returns a tuple without its protocol, as the mark Born has it: what
// stands for ports in ICMP is in the ports.
func AnyProto(t conntrack.Tuple) conntrack.Tuple {
	k := key(t)
	clear(k[:protoLen])
	t, _ = tuple(k)
	return t
}

// tuple reads a key back.
func tuple(k []byte) (conntrack.Tuple, bool) {
	addr := (len(k) - 12) / 2
	if addr != 4 && addr != 16 {
		return conntrack.Tuple{}, false
	}
	t := conntrack.Tuple{Proto: conntrack.Proto(k[0])}
	t.Src, _ = netip.AddrFromSlice(k[4 : 4+addr])
	src := k[4+addr:]
	t.Dst, _ = netip.AddrFromSlice(src[4 : 4+addr])
	dst := src[4+addr:]
	switch t.Proto {
	case conntrack.ProtoICMP, conntrack.ProtoICMPv6:
		t.ICMPID, t.ICMPType, t.ICMPCode = binary.BigEndian.Uint16(src), dst[0], dst[1]
	default:
		t.SrcPort, t.DstPort = binary.BigEndian.Uint16(src), binary.BigEndian.Uint16(dst)
	}
	return t, true
}
