package conntrack

// Synproxy is the state that the SYNPROXY target keeps with a flow.
//
// Wire: CTA_SYNPROXY.
// Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h, enum ctattr_synproxy.
type Synproxy struct {
	ISN   uint32 // initial sequence number towards the client
	ITS   uint32 // initial timestamp
	TSOff uint32 // shift of the server's timestamps
}

// Members of CTA_SYNPROXY, enum ctattr_synproxy.
const (
	attrSynproxyISN   attrType = 1 // CTA_SYNPROXY_ISN
	attrSynproxyITS   attrType = 2 // CTA_SYNPROXY_ITS
	attrSynproxyTSOff attrType = 3 // CTA_SYNPROXY_TSOFF
)

// parse reads CTA_SYNPROXY.
func (s *Synproxy) parse(b []byte) error {
	for len(b) > 0 {
		t, v, rest, err := nextAttr(b, "CTA_SYNPROXY")
		if err != nil {
			return err
		}
		b = rest
		switch t {
		case attrSynproxyISN:
			s.ISN, err = parseUint32(v, "CTA_SYNPROXY_ISN")
		case attrSynproxyITS:
			s.ITS, err = parseUint32(v, "CTA_SYNPROXY_ITS")
		case attrSynproxyTSOff:
			s.TSOff, err = parseUint32(v, "CTA_SYNPROXY_TSOFF")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// append appends CTA_SYNPROXY.
func (s *Synproxy) append(b []byte) []byte {
	b, nest := beginNest(b, attrSynproxy)
	b = appendUint32(b, attrSynproxyISN, s.ISN)
	b = appendUint32(b, attrSynproxyITS, s.ITS)
	b = appendUint32(b, attrSynproxyTSOff, s.TSOff)
	return endNest(b, nest)
}
