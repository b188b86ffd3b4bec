package ruleset

import (
	"encoding/binary"
	"math"

	"golang.org/x/sys/unix"

	"flowcut/internal/rtnl"
)

// rule is what one rule does, as far as it is read.
type rule struct {
	kinds   []Kind
	state   condition
	verdict verdict
	narrow  bool   // it has conditions beside the state
	loaded  bool   // the state, by this very expression
	masked  bool   // the state, by the one before
	last    string // name of the expression before
}

// condition is a rule's on the state of a packet's flow.
type condition struct {
	set       bool
	plain     bool // holds exactly for the states in bits
	untracked bool // these have what is not tracked
}

// verdict is what becomes of a packet, 0 if that is for other chains to say.
type verdict uint8

const (
	accepts verdict = iota + 1
	drops
)

// uses returns what the rule does in a place.
func (r *rule) uses(family byte, where string) []Use {
	var out []Use
	for _, k := range r.kinds {
		out = append(out, Use{k, family, where})
	}
	switch s := r.state; {
	case !s.set || s.plain && !s.untracked && r.verdict == drops:
	case s.plain && s.untracked && r.verdict == accepts && r.narrow: // it helps some packets, and stops none
	case s.plain && s.untracked && r.verdict == accepts:
		out = append(out, Use{Untracked, family, where})
	default:
		out = append(out, Use{State, family, where})
	}
	return out
}

func (r *rule) is(k Kind) {
	if k != "" {
		r.kinds = append(r.kinds, k)
	}
}

// expression reads one of nf_tables. One that is cut short is an error of ad.
func (r *rule) expression(ad *rtnl.Attr) {
	var name string
	var data []byte
	rtnl.Inside(ad, func(ad *rtnl.Attr) {
		switch ad.Type() {
		case unix.NFTA_EXPR_NAME:
			name = ad.String()
		case unix.NFTA_EXPR_DATA:
			data = ad.Bytes()
		}
	})
	read := map[string]func([]byte) error{
		"ct": r.ct, "bitwise": r.bitwise, "cmp": r.cmp, "immediate": r.immediate, "match": r.match, "target": r.target,
	}[name]
	switch name {
	case "notrack", "tproxy", "synproxy", "queue":
		r.is(Kind(name))
	case "nat", "masq", "redir":
		r.is(NAT)
	case "reject":
		r.verdict = drops
	case "ct", "bitwise", "cmp", "immediate", "counter", "log", "match", "target":
	default:
		r.narrow = true
	}
	if read != nil {
		ad.Do(func([]byte) error { return read(data) })
	}
	switch {
	case name == "ct" && r.loaded:
		r.last = loadState
	case name != "bitwise":
		r.last = name
	}
	r.loaded = false
}

// loadState is the name under which an expression that loads the state is the
// last one, also when its mask has been read.
const loadState = "ct state"

// ct reads an expression that sets a zone, or loads the state or what else a flow has.
func (r *rule) ct(data []byte) error {
	const none = math.MaxUint32
	key, sets := uint32(none), false
	err := rtnl.Each(data, func(ad *rtnl.Attr) {
		switch ad.Type() {
		case unix.NFTA_CT_KEY:
			key = be32(ad.Bytes())
		case unix.NFTA_CT_SREG:
			sets = true
		}
	})
	switch {
	case sets && key == unix.NFT_CT_ZONE:
		r.is(Zone)
	case !sets && key == unix.NFT_CT_STATE:
		r.state, r.loaded, r.masked = condition{set: true}, true, false
	case !sets && key != none:
		r.is(Flow)
		r.narrow = true
	}
	return err
}

// bitwise reads the mask behind a state: nft(8) writes "established,related" so.
func (r *rule) bitwise(data []byte) error {
	if r.last != loadState {
		return nil
	}
	r.masked = true
	return rtnl.Each(data, func(ad *rtnl.Attr) {
		if ad.Type() == unix.NFTA_BITWISE_MASK {
			rtnl.Inside(ad, r.states)
		}
	})
}

// states reads which states a mask or a value stands for.
func (r *rule) states(ad *rtnl.Attr) {
	const untracked = 1 << 6 // NF_CT_STATE_UNTRACKED_BIT
	if v := ad.Bytes(); len(v) == 4 {
		r.state.untracked = binary.NativeEndian.Uint32(v)&untracked != 0
	}
}

// cmp reads the comparison behind that. With a mask it is with zero: one of the
// bits is set, or none.
func (r *rule) cmp(data []byte) error {
	if r.last != loadState {
		return nil
	}
	return rtnl.Each(data, func(ad *rtnl.Attr) {
		switch {
		case ad.Type() == unix.NFTA_CMP_OP:
			r.state.plain = r.masked == (be32(ad.Bytes()) == unix.NFT_CMP_NEQ)
		case ad.Type() == unix.NFTA_CMP_DATA && !r.masked:
			rtnl.Inside(ad, r.states)
		}
	})
}

// Codes of verdicts.
const (
	verdictDrop   = 0 // NF_DROP
	verdictAccept = 1 // NF_ACCEPT
)

func (r *rule) immediate(data []byte) error {
	return rtnl.Each(data, func(ad *rtnl.Attr) {
		if ad.Type() != unix.NFTA_IMMEDIATE_DATA {
			return
		}
		rtnl.Inside(ad, func(ad *rtnl.Attr) {
			if ad.Type() != unix.NFTA_DATA_VERDICT {
				return
			}
			rtnl.Inside(ad, func(ad *rtnl.Attr) {
				if ad.Type() == unix.NFTA_VERDICT_CODE {
					r.judge(be32(ad.Bytes()))
				}
			})
		})
	})
}

func (r *rule) judge(code uint32) {
	switch code {
	case verdictDrop:
		r.verdict = drops
	case verdictAccept:
		r.verdict = accepts
	}
}

// match reads one of iptables inside a rule of nf_tables.
func (r *rule) match(data []byte) error { return r.extension(data, r.matches) }

// target reads one of iptables inside a rule of nf_tables.
func (r *rule) target(data []byte) error { return r.extension(data, r.targets) }

// extension reads a match or a target: their attributes have the same numbers.
func (r *rule) extension(data []byte, judge func(name string, info []byte)) error {
	const nameAttr, infoAttr = 1, 3 // NFTA_TARGET_NAME, NFTA_TARGET_INFO
	var name string
	var info []byte
	err := rtnl.Each(data, func(ad *rtnl.Attr) {
		switch ad.Type() {
		case nameAttr:
			name = ad.String()
		case infoAttr:
			info = ad.Bytes()
		}
	})
	judge(name, info)
	return err
}

// matches reads a match of iptables. That of conntrack is struct
// xt_conntrack_mtinfo3; those before it have no state for what is not tracked.
// Where it asks for the state, what else it asks for is passed over for packets
// without a flow.
func (r *rule) matches(name string, info []byte) {
	const (
		flagsAt, invertAt, statesAt = 146, 148, 150 // match_flags, invert_flags, state_mask
		states                      = 1 << 0        // XT_CONNTRACK_STATE
		untracked                   = 1 << 8        // XT_CONNTRACK_STATE_UNTRACKED
	)
	switch {
	case name == "state":
		r.state = condition{set: true}
	case name == "conntrack" && len(info) >= statesAt+2:
		half := func(at int) uint16 { return binary.NativeEndian.Uint16(info[at:]) }
		if half(flagsAt)&states != 0 {
			r.state = condition{true, half(invertAt)&states == 0, half(statesAt)&untracked != 0}
		} else {
			r.is(Flow)
			r.narrow = true
		}
	case name == "connmark", name == "connlabel", name == "connbytes", name == "helper":
		r.is(Flow)
		r.narrow = true
	case name != "conntrack" && name != "comment":
		r.narrow = true
	}
}

// targets reads a target of iptables. That of CT begins with flags and a zone,
// struct xt_ct_target_info.
func (r *rule) targets(name string, info []byte) {
	const notrack, zoneMark = 1 << 0, 1 << 4 // XT_CT_NOTRACK, XT_CT_ZONE_MARK
	// mode of struct xt_connmark_tginfo1, and of 2, whose byte at 12 is 0 or 1; XT_CONNMARK_RESTORE
	const mode1At, mode2At, restore = 12, 14, 2
	switch name {
	case "CONNMARK":
		if len(info) > mode2At && (info[mode1At] == restore || info[mode2At] == restore) {
			r.is(Flow)
		}
	case "NOTRACK":
		r.is(Notrack)
	case "TPROXY":
		r.is(TProxy)
	case "SYNPROXY":
		r.is(Synproxy)
	case "NFQUEUE":
		r.is(Queue)
	case "DNAT", "SNAT", "MASQUERADE", "REDIRECT", "NETMAP":
		r.is(NAT)
	case "REJECT":
		r.verdict = drops
	case "CT":
		if len(info) < 4 {
			return
		}
		flags, zone := binary.NativeEndian.Uint16(info), binary.NativeEndian.Uint16(info[2:])
		switch {
		case flags&notrack != 0:
			r.is(Notrack)
		case zone != 0 || flags&zoneMark != 0:
			r.is(Zone)
		}
	}
}
