package conntrack

import "net/netip"

// Members of CTA_NAT_SRC and CTA_NAT_DST, enum ctattr_nat.
const (
	attrNATMinIPv4 attrType = 1 // CTA_NAT_V4_MINIP
	attrNATMaxIPv4 attrType = 2 // CTA_NAT_V4_MAXIP
	attrNATProto   attrType = 3 // CTA_NAT_PROTO
	attrNATMinIPv6 attrType = 4 // CTA_NAT_V6_MINIP
	attrNATMaxIPv6 attrType = 5 // CTA_NAT_V6_MAXIP
)

// Members of CTA_NAT_PROTO, enum ctattr_protonat.
const (
	attrProtoNATMinPort attrType = 1 // CTA_PROTONAT_PORT_MIN
	attrProtoNATMaxPort attrType = 2 // CTA_PROTONAT_PORT_MAX
)

// appendNAT appends the translation to one address, and to one port if ported.
// Only requests to make an entry hold it.
func appendNAT(b []byte, typ attrType, a netip.Addr, ported bool, port uint16) []byte {
	b, nest := beginNest(b, typ)
	b = appendIP(b, a, attrNATMinIPv4, attrNATMinIPv6)
	b = appendIP(b, a, attrNATMaxIPv4, attrNATMaxIPv6)
	if ported {
		var proto int
		b, proto = beginNest(b, attrNATProto)
		b = appendUint16(b, attrProtoNATMinPort, port)
		b = appendUint16(b, attrProtoNATMaxPort, port)
		b = endNest(b, proto)
	}
	return endNest(b, nest)
}
