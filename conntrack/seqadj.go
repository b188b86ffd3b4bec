package conntrack

// SeqAdj is the shift that NAT applies to the sequence numbers of one direction.
//
// Wire: CTA_SEQ_ADJ_ORIG or CTA_SEQ_ADJ_REPLY.
// Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h, enum ctattr_seqadj.
type SeqAdj struct {
	CorrectionPos uint32 // sequence number from which OffsetAfter holds
	OffsetBefore  int32
	OffsetAfter   int32
}

// Members of CTA_SEQ_ADJ_ORIG and CTA_SEQ_ADJ_REPLY, enum ctattr_seqadj.
const (
	attrSeqAdjCorrectionPos attrType = 1 // CTA_SEQADJ_CORRECTION_POS
	attrSeqAdjOffsetBefore  attrType = 2 // CTA_SEQADJ_OFFSET_BEFORE
	attrSeqAdjOffsetAfter   attrType = 3 // CTA_SEQADJ_OFFSET_AFTER
)

// parse reads the nest called name.
func (s *SeqAdj) parse(b []byte, name string) error {
	for len(b) > 0 {
		t, v, rest, err := nextAttr(b, name)
		if err != nil {
			return err
		}
		b = rest
		var n uint32
		switch t {
		case attrSeqAdjCorrectionPos:
			s.CorrectionPos, err = parseUint32(v, "CTA_SEQADJ_CORRECTION_POS")
		case attrSeqAdjOffsetBefore:
			n, err = parseUint32(v, "CTA_SEQADJ_OFFSET_BEFORE")
			s.OffsetBefore = int32(n)
		case attrSeqAdjOffsetAfter:
			n, err = parseUint32(v, "CTA_SEQADJ_OFFSET_AFTER")
			s.OffsetAfter = int32(n)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// append appends the shift as the nest typ.
func (s *SeqAdj) append(b []byte, typ attrType) []byte {
	b, nest := beginNest(b, typ)
	b = appendUint32(b, attrSeqAdjCorrectionPos, s.CorrectionPos)
	b = appendUint32(b, attrSeqAdjOffsetBefore, uint32(s.OffsetBefore))
	b = appendUint32(b, attrSeqAdjOffsetAfter, uint32(s.OffsetAfter))
	return endNest(b, nest)
}
