package conntrack

// Counters holds what one direction of a flow has carried.
//
// Both are zero unless net.netfilter.nf_conntrack_acct was 1 when the flow began.
// Wire: CTA_COUNTERS_ORIG or CTA_COUNTERS_REPLY, nested big-endian uint64.
// Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h, enum ctattr_counters.
type Counters struct {
	Packets uint64
	Bytes   uint64 // IP header included
}

// Members of CTA_COUNTERS_ORIG and CTA_COUNTERS_REPLY, enum ctattr_counters.
const (
	attrCountersPackets attrType = 1 // CTA_COUNTERS_PACKETS
	attrCountersBytes   attrType = 2 // CTA_COUNTERS_BYTES
)

// parse reads the nest called name.
func (c *Counters) parse(b []byte, name string) error {
	for len(b) > 0 {
		t, v, rest, err := nextAttr(b, name)
		if err != nil {
			return err
		}
		b = rest
		switch t {
		case attrCountersPackets:
			c.Packets, err = parseUint64(v, "CTA_COUNTERS_PACKETS")
		case attrCountersBytes:
			c.Bytes, err = parseUint64(v, "CTA_COUNTERS_BYTES")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// append appends the counters as the nest typ.
func (c *Counters) append(b []byte, typ attrType) []byte {
	b, nest := beginNest(b, typ)
	b = appendUint64(b, attrCountersPackets, c.Packets)
	b = appendUint64(b, attrCountersBytes, c.Bytes)
	return endNest(b, nest)
}
