package conntrack

import (
	"encoding/base64"
	"encoding/json"
	"net/netip"
	"strconv"
	"time"
)

// MarshalJSON returns the flow as one object; see [Flow.AppendJSON].
func (f Flow) MarshalJSON() ([]byte, error) { return f.AppendJSON(nil), nil }

// AppendJSON appends the flow as one JSON object without line breaks.
//
// The names are stable. An attribute that the flow does not have is left out:
//
//	id, use                    numbers
//	orig, reply, master        {src, dst, proto, ...}: sport and dport, or
//	                           src_key and dst_key of GRE, or icmp_type,
//	                           icmp_code and icmp_id; zone, of that direction alone
//	zone                       number, of both directions
//	status                     list of names as in [Status.String]
//	timeout_s                  whole seconds until the entry expires
//	mark                       number
//	labels                     list of the set labels' numbers
//	orig_counters, ...         {packets, bytes}; also reply_counters
//	start, stop                RFC 3339 with nanoseconds, UTC
//	tcp                        {state, orig_wscale, reply_wscale, orig_flags, reply_flags}
//	sctp                       {state, orig_vtag, reply_vtag}
//	dccp                       {state, role, handshake_seq}
//	helper, help_info          name; the helper's own bytes in base64
//	secctx, secmark            string; number
//	orig_seq_adj, ...          {correction_pos, offset_before, offset_after}; also reply_seq_adj
//	synproxy                   {isn, its, tsoff}
//	picked_up                  always there: what [Flow.PickedUp] says
func (f *Flow) AppendJSON(b []byte) []byte {
	b = append(b, '{')
	b = f.appendJSONNumber(b, AttrID, "id", uint64(f.ID))
	b = f.appendJSONTuple(b, AttrOrig, "orig", &f.Orig, AttrOrigZone, f.OrigZone)
	b = f.appendJSONTuple(b, AttrReply, "reply", &f.Reply, AttrReplyZone, f.ReplyZone)
	b = f.appendJSONNumber(b, AttrZone, "zone", uint64(f.Zone))
	if f.Has&AttrStatus != 0 {
		b = appendJSONNames(appendKey(b, "status"), uint32(f.Status), statusNames[:])
	}
	b = f.appendJSONNumber(b, AttrTimeout, "timeout_s", uint64(f.Timeout/time.Second))
	b = f.appendJSONProtoinfo(b)
	b = f.appendJSONNumber(b, AttrMark, "mark", uint64(f.Mark))
	if f.Has&AttrLabels != 0 {
		b = f.Labels.appendJSON(appendKey(b, "labels"))
	}
	b = f.appendJSONCounters(b, AttrOrigCounters, "orig_counters", f.OrigCounters)
	b = f.appendJSONCounters(b, AttrReplyCounters, "reply_counters", f.ReplyCounters)
	b = f.appendJSONTime(b, AttrStart, "start", f.Start)
	b = f.appendJSONTime(b, AttrStop, "stop", f.Stop)
	b = f.appendJSONText(b)
	b = f.appendJSONTuple(b, AttrMaster, "master", &f.Master, 0, 0)
	b = f.appendJSONSeqAdj(b, AttrOrigSeqAdj, "orig_seq_adj", f.OrigSeqAdj)
	b = f.appendJSONSeqAdj(b, AttrReplySeqAdj, "reply_seq_adj", f.ReplySeqAdj)
	if f.Has&AttrSynproxy != 0 {
		b = append(appendKey(b, "synproxy"), '{')
		b = appendNumber(b, "isn", uint64(f.Synproxy.ISN))
		b = appendNumber(b, "its", uint64(f.Synproxy.ITS))
		b = append(appendNumber(b, "tsoff", uint64(f.Synproxy.TSOff)), '}')
	}
	b = f.appendJSONNumber(b, AttrUse, "use", uint64(f.Use))
	b = strconv.AppendBool(appendKey(b, "picked_up"), f.PickedUp())
	return append(b, '}')
}

// appendKey appends "name": behind a comma if it is not the first in its object.
func appendKey(b []byte, name string) []byte {
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	b = append(b, '"')
	b = append(b, name...)
	return append(b, '"', ':')
}

func appendNumber(b []byte, name string, n uint64) []byte {
	return strconv.AppendUint(appendKey(b, name), n, 10)
}

// appendWord appends a value that needs no escape.
func appendWord(b []byte, name, v string) []byte {
	b = append(appendKey(b, name), '"')
	b = append(b, v...)
	return append(b, '"')
}

func appendAddr(b []byte, name string, a netip.Addr) []byte {
	return append(a.AppendTo(append(appendKey(b, name), '"')), '"')
}

// appendJSONNames appends the list of the names of v's bits.
func appendJSONNames(b []byte, v uint32, names []string) []byte {
	b = append(b, '[')
	for i := range 32 {
		if v&(1<<i) == 0 {
			continue
		}
		if b[len(b)-1] != '[' {
			b = append(b, ',')
		}
		b = append(b, '"')
		if i < len(names) {
			b = append(b, names[i]...)
		} else {
			b = strconv.AppendUint(append(b, "0x"...), uint64(1)<<i, 16)
		}
		b = append(b, '"')
	}
	return append(b, ']')
}

func (f *Flow) appendJSONNumber(b []byte, a Attr, name string, n uint64) []byte {
	if f.Has&a == 0 {
		return b
	}
	return appendNumber(b, name, n)
}

func (f *Flow) appendJSONTuple(b []byte, a Attr, name string, t *Tuple, zoned Attr, z Zone) []byte {
	if f.Has&a == 0 {
		return b
	}
	b = t.AppendJSON(appendKey(b, name))
	return append(f.appendJSONNumber(b[:len(b)-1], zoned, "zone", uint64(z)), '}')
}

// AppendJSON appends the tuple as one JSON object, as a flow's has it.
func (t Tuple) AppendJSON(b []byte) []byte {
	b = append(b, '{')
	b = appendAddr(b, "src", t.Src)
	b = appendAddr(b, "dst", t.Dst)
	b = appendWord(b, "proto", t.Proto.String())
	switch {
	case t.HasPorts():
		b = appendNumber(b, "sport", uint64(t.SrcPort))
		b = appendNumber(b, "dport", uint64(t.DstPort))
	case t.Proto == ProtoGRE:
		b = appendNumber(b, "src_key", uint64(t.SrcPort))
		b = appendNumber(b, "dst_key", uint64(t.DstPort))
	case t.IsICMP():
		b = appendNumber(b, "icmp_type", uint64(t.ICMPType))
		b = appendNumber(b, "icmp_code", uint64(t.ICMPCode))
		b = appendNumber(b, "icmp_id", uint64(t.ICMPID))
	}
	return append(b, '}')
}

// appendJSONProtoinfo appends tcp, sctp and dccp.
func (f *Flow) appendJSONProtoinfo(b []byte) []byte {
	if f.Has&AttrTCP != 0 {
		b = append(appendKey(b, "tcp"), '{')
		b = appendWord(b, "state", f.TCP.State.String())
		b = appendNumber(b, "orig_wscale", uint64(f.TCP.OrigWScale))
		b = appendNumber(b, "reply_wscale", uint64(f.TCP.ReplyWScale))
		b = appendJSONNames(appendKey(b, "orig_flags"), uint32(f.TCP.OrigFlags), tcpFlagNames[:])
		b = appendJSONNames(appendKey(b, "reply_flags"), uint32(f.TCP.ReplyFlags), tcpFlagNames[:])
		b = append(b, '}')
	}
	if f.Has&AttrSCTP != 0 {
		b = append(appendKey(b, "sctp"), '{')
		b = appendWord(b, "state", f.SCTP.State.String())
		b = appendNumber(b, "orig_vtag", uint64(f.SCTP.OrigVTag))
		b = append(appendNumber(b, "reply_vtag", uint64(f.SCTP.ReplyVTag)), '}')
	}
	if f.Has&AttrDCCP != 0 {
		b = append(appendKey(b, "dccp"), '{')
		b = appendWord(b, "state", f.DCCP.State.String())
		b = appendNumber(b, "role", uint64(f.DCCP.Role))
		b = append(appendNumber(b, "handshake_seq", f.DCCP.HandshakeSeq), '}')
	}
	return b
}

func (f *Flow) appendJSONCounters(b []byte, a Attr, name string, c Counters) []byte {
	if f.Has&a == 0 {
		return b
	}
	b = append(appendKey(b, name), '{')
	b = appendNumber(b, "packets", c.Packets)
	return append(appendNumber(b, "bytes", c.Bytes), '}')
}

func (f *Flow) appendJSONTime(b []byte, a Attr, name string, t time.Time) []byte {
	if f.Has&a == 0 {
		return b
	}
	b = append(appendKey(b, name), '"')
	return append(t.UTC().AppendFormat(b, time.RFC3339Nano), '"')
}

// appendJSONText appends helper, help_info, secctx and secmark.
func (f *Flow) appendJSONText(b []byte) []byte {
	if f.Has&AttrHelper != 0 {
		b = appendQuoted(b, "helper", f.Helper)
		if f.HelpInfo != nil {
			b = append(appendKey(b, "help_info"), '"')
			b = append(base64.StdEncoding.AppendEncode(b, f.HelpInfo), '"')
		}
	}
	if f.Has&AttrSecCtx != 0 {
		b = appendQuoted(b, "secctx", f.SecCtx)
	}
	return f.appendJSONNumber(b, AttrSecMark, "secmark", uint64(f.SecMark))
}

// appendQuoted appends a string that may need escapes.
func appendQuoted(b []byte, name, v string) []byte {
	q, err := json.Marshal(v)
	if err != nil {
		panic("conntrack: a string is always JSON: " + err.Error())
	}
	return append(appendKey(b, name), q...)
}

func (f *Flow) appendJSONSeqAdj(b []byte, a Attr, name string, s SeqAdj) []byte {
	if f.Has&a == 0 {
		return b
	}
	b = append(appendKey(b, name), '{')
	b = appendNumber(b, "correction_pos", uint64(s.CorrectionPos))
	b = strconv.AppendInt(appendKey(b, "offset_before"), int64(s.OffsetBefore), 10)
	b = strconv.AppendInt(appendKey(b, "offset_after"), int64(s.OffsetAfter), 10)
	return append(b, '}')
}

// appendJSON appends the list of the set labels.
func (l *Labels) appendJSON(b []byte) []byte {
	b = append(b, '[')
	for n := range NumLabels {
		if !l.Test(n) {
			continue
		}
		if b[len(b)-1] != '[' {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, int64(n), 10)
	}
	return append(b, ']')
}
