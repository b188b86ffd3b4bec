package conntrack

// Members of CTA_PROTOINFO, enum ctattr_protoinfo.
const (
	attrProtoinfoTCP  attrType = 1 // CTA_PROTOINFO_TCP
	attrProtoinfoDCCP attrType = 2 // CTA_PROTOINFO_DCCP
	attrProtoinfoSCTP attrType = 3 // CTA_PROTOINFO_SCTP
)

// parseProtoinfo reads CTA_PROTOINFO, which holds one protocol's state.
func (f *Flow) parseProtoinfo(b []byte) error {
	for len(b) > 0 {
		t, v, rest, err := nextAttr(b, "CTA_PROTOINFO")
		if err != nil {
			return err
		}
		b = rest
		switch t {
		case attrProtoinfoTCP:
			f.Has |= AttrTCP
			err = f.TCP.parse(v)
		case attrProtoinfoDCCP:
			f.Has |= AttrDCCP
			err = f.DCCP.parse(v)
		case attrProtoinfoSCTP:
			f.Has |= AttrSCTP
			err = f.SCTP.parse(v)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// appendProtoinfo appends CTA_PROTOINFO if the flow has a protocol's state.
func (f *Flow) appendProtoinfo(b []byte) []byte {
	if f.Has&(AttrTCP|AttrDCCP|AttrSCTP) == 0 {
		return b
	}
	b, nest := beginNest(b, attrProtoinfo)
	if f.Has&AttrTCP != 0 {
		b = f.TCP.append(b)
	}
	if f.Has&AttrDCCP != 0 {
		b = f.DCCP.append(b)
	}
	if f.Has&AttrSCTP != 0 {
		b = f.SCTP.append(b)
	}
	return endNest(b, nest)
}
