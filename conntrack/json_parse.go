package conntrack

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"time"
)

// UnmarshalJSON reads what [Flow.AppendJSON] writes. Unknown names are
// skipped, and so is picked_up, which follows from the rest.
func (f *Flow) UnmarshalJSON(b []byte) error {
	var j jsonFlow
	if err := json.Unmarshal(b, &j); err != nil {
		return fmt.Errorf("conntrack: flow: %w", err)
	}
	g, err := j.flow()
	if err != nil {
		return fmt.Errorf("conntrack: flow: %w", err)
	}
	*f = g
	return nil
}

// jsonFlow is a flow as JSON has it; a nil pointer is an attribute left out.
type jsonFlow struct {
	ID            *uint32       `json:"id"`
	Orig          *jsonTuple    `json:"orig"`
	Reply         *jsonTuple    `json:"reply"`
	Zone          *Zone         `json:"zone"`
	Status        *[]string     `json:"status"`
	TimeoutS      *uint32       `json:"timeout_s"`
	TCP           *jsonTCP      `json:"tcp"`
	SCTP          *jsonSCTP     `json:"sctp"`
	DCCP          *jsonDCCP     `json:"dccp"`
	Mark          *Mark         `json:"mark"`
	Labels        *[]int        `json:"labels"`
	OrigCounters  *jsonCounters `json:"orig_counters"`
	ReplyCounters *jsonCounters `json:"reply_counters"`
	Start         *time.Time    `json:"start"`
	Stop          *time.Time    `json:"stop"`
	Helper        *string       `json:"helper"`
	HelpInfo      []byte        `json:"help_info"`
	SecCtx        *string       `json:"secctx"`
	SecMark       *uint32       `json:"secmark"`
	Master        *jsonTuple    `json:"master"`
	OrigSeqAdj    *jsonSeqAdj   `json:"orig_seq_adj"`
	ReplySeqAdj   *jsonSeqAdj   `json:"reply_seq_adj"`
	Synproxy      *jsonSynproxy `json:"synproxy"`
	Use           *uint32       `json:"use"`
}

type jsonTuple struct {
	Src      netip.Addr `json:"src"`
	Dst      netip.Addr `json:"dst"`
	Proto    string     `json:"proto"`
	SrcPort  uint16     `json:"sport"`
	DstPort  uint16     `json:"dport"`
	SrcKey   uint16     `json:"src_key"`
	DstKey   uint16     `json:"dst_key"`
	ICMPType uint8      `json:"icmp_type"`
	ICMPCode uint8      `json:"icmp_code"`
	ICMPID   uint16     `json:"icmp_id"`
	Zone     *Zone      `json:"zone"`
}

type jsonTCP struct {
	State       string   `json:"state"`
	OrigWScale  uint8    `json:"orig_wscale"`
	ReplyWScale uint8    `json:"reply_wscale"`
	OrigFlags   []string `json:"orig_flags"`
	ReplyFlags  []string `json:"reply_flags"`
}

type jsonSCTP struct {
	State     string `json:"state"`
	OrigVTag  uint32 `json:"orig_vtag"`
	ReplyVTag uint32 `json:"reply_vtag"`
}

type jsonDCCP struct {
	State        string `json:"state"`
	Role         uint8  `json:"role"`
	HandshakeSeq uint64 `json:"handshake_seq"`
}

type jsonCounters struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

type jsonSeqAdj struct {
	CorrectionPos uint32 `json:"correction_pos"`
	OffsetBefore  int32  `json:"offset_before"`
	OffsetAfter   int32  `json:"offset_after"`
}

type jsonSynproxy struct {
	ISN   uint32 `json:"isn"`
	ITS   uint32 `json:"its"`
	TSOff uint32 `json:"tsoff"`
}

// flow turns j into a flow.
func (j *jsonFlow) flow() (Flow, error) {
	var f Flow
	take(&f, AttrID, &f.ID, j.ID)
	take(&f, AttrZone, &f.Zone, j.Zone)
	take(&f, AttrMark, &f.Mark, j.Mark)
	take(&f, AttrHelper, &f.Helper, j.Helper)
	take(&f, AttrSecCtx, &f.SecCtx, j.SecCtx)
	take(&f, AttrSecMark, &f.SecMark, j.SecMark)
	take(&f, AttrUse, &f.Use, j.Use)
	take(&f, AttrOrigCounters, &f.OrigCounters, (*Counters)(j.OrigCounters))
	take(&f, AttrReplyCounters, &f.ReplyCounters, (*Counters)(j.ReplyCounters))
	take(&f, AttrOrigSeqAdj, &f.OrigSeqAdj, (*SeqAdj)(j.OrigSeqAdj))
	take(&f, AttrReplySeqAdj, &f.ReplySeqAdj, (*SeqAdj)(j.ReplySeqAdj))
	take(&f, AttrSynproxy, &f.Synproxy, (*Synproxy)(j.Synproxy))
	if f.Has&AttrHelper != 0 {
		f.HelpInfo = j.HelpInfo
	}
	if j.TimeoutS != nil {
		f.Has |= AttrTimeout
		f.Timeout = time.Duration(*j.TimeoutS) * time.Second
	}
	for _, step := range []func(*Flow) error{j.tuples, j.bits, j.times, j.protoinfo} {
		if err := step(&f); err != nil {
			return Flow{}, err
		}
	}
	return f, nil
}

// take sets the attribute a of f if it is there.
func take[T any](f *Flow, a Attr, to, from *T) {
	if from != nil {
		f.Has |= a
		*to = *from
	}
}

// tuples sets the three tuples and their zones.
func (j *jsonFlow) tuples(f *Flow) error {
	for _, t := range []struct {
		name   string
		attr   Attr
		to     *Tuple
		from   *jsonTuple
		zoneAt Attr
		zone   *Zone
	}{
		{"orig", AttrOrig, &f.Orig, j.Orig, AttrOrigZone, &f.OrigZone},
		{"reply", AttrReply, &f.Reply, j.Reply, AttrReplyZone, &f.ReplyZone},
		{"master", AttrMaster, &f.Master, j.Master, 0, new(Zone)},
	} {
		if t.from == nil {
			continue
		}
		tuple, err := t.from.tuple()
		if err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
		f.Has |= t.attr
		*t.to = tuple
		take(f, t.zoneAt, t.zone, t.from.Zone)
	}
	return nil
}

// tuple turns j into a tuple; fields that its protocol does not have are skipped.
func (j *jsonTuple) tuple() (Tuple, error) {
	p, err := ParseProto(j.Proto)
	if err != nil {
		return Tuple{}, err
	}
	t := Tuple{Src: j.Src, Dst: j.Dst, Proto: p}
	switch {
	case t.HasPorts():
		t.SrcPort, t.DstPort = j.SrcPort, j.DstPort
	case p == ProtoGRE:
		t.SrcPort, t.DstPort = j.SrcKey, j.DstKey
	case t.IsICMP():
		t.ICMPType, t.ICMPCode, t.ICMPID = j.ICMPType, j.ICMPCode, j.ICMPID
	}
	return t, t.validate()
}

// bits sets status and labels.
func (j *jsonFlow) bits(f *Flow) error {
	if j.Status != nil {
		n, err := bitsByName(*j.Status, statusNames[:], 32)
		if err != nil {
			return fmt.Errorf("status: %w", err)
		}
		f.Has |= AttrStatus
		f.Status = Status(n)
	}
	if j.Labels == nil {
		return nil
	}
	f.Has |= AttrLabels
	for _, n := range *j.Labels {
		if err := f.Labels.Set(n); err != nil {
			return err
		}
	}
	return nil
}

// bitsByName collects the bits in list.
func bitsByName(list, names []string, size int) (uint32, error) {
	var v uint32
	for _, name := range list {
		bit, ok := bitByName(name, names, size)
		if !ok {
			return 0, fmt.Errorf("no such bit: %q", name)
		}
		v |= bit
	}
	return v, nil
}

// times sets start and stop, which must fit into the kernel's nanoseconds.
func (j *jsonFlow) times(f *Flow) error {
	for _, t := range []struct {
		attr Attr
		to   *time.Time
		from *time.Time
	}{{AttrStart, &f.Start, j.Start}, {AttrStop, &f.Stop, j.Stop}} {
		if t.from == nil {
			continue
		}
		if t.from.Before(time.Unix(0, 0)) || t.from.After(time.Unix(0, math.MaxInt64)) {
			return fmt.Errorf("time out of range: %v", t.from)
		}
		utc := t.from.UTC()
		take(f, t.attr, t.to, &utc)
	}
	return nil
}

// protoinfo sets the protocol's state.
func (j *jsonFlow) protoinfo(f *Flow) (err error) {
	if j.TCP != nil {
		f.Has |= AttrTCP
		if f.TCP, err = j.TCP.tcp(); err != nil {
			return err
		}
	}
	if j.SCTP != nil {
		f.Has |= AttrSCTP
		f.SCTP = SCTP{OrigVTag: j.SCTP.OrigVTag, ReplyVTag: j.SCTP.ReplyVTag}
		if f.SCTP.State, err = ParseSCTPState(j.SCTP.State); err != nil {
			return err
		}
	}
	if j.DCCP != nil {
		f.Has |= AttrDCCP
		f.DCCP = DCCP{Role: j.DCCP.Role, HandshakeSeq: j.DCCP.HandshakeSeq}
		if f.DCCP.State, err = ParseDCCPState(j.DCCP.State); err != nil {
			return err
		}
	}
	return nil
}

// tcp turns j into the state of a TCP flow.
func (j *jsonTCP) tcp() (TCP, error) {
	state, err := ParseTCPState(j.State)
	if err != nil {
		return TCP{}, err
	}
	orig, err := bitsByName(j.OrigFlags, tcpFlagNames[:], 8)
	if err != nil {
		return TCP{}, fmt.Errorf("orig_flags: %w", err)
	}
	reply, err := bitsByName(j.ReplyFlags, tcpFlagNames[:], 8)
	if err != nil {
		return TCP{}, fmt.Errorf("reply_flags: %w", err)
	}
	return TCP{
		State: state, OrigWScale: j.OrigWScale, ReplyWScale: j.ReplyWScale,
		OrigFlags: TCPFlags(orig), ReplyFlags: TCPFlags(reply),
	}, nil
}
