//go:build linux

package soak

import (
	"flowcut/conntrack"
	"flowcut/internal/lab"
)

// flow is a connection as its ends know it, and as the gateway was told to
// treat it.
type flow struct {
	group       *Group
	kind        lab.Kind
	hosts       [2]*lab.Host    // of originator and responder
	from, to    *lab.End        // to is nil where nobody but the kernel answers
	sink        *lab.End        // that downloads
	orig, reply conntrack.Tuple // as originator and responder send
	zones       [2]uint16       // of the original and the reply direction
	mark        uint32
	label       int   // 0: none
	master      *flow // that expected it

	entry    *conntrack.Flow // before the cut, nil if there was none
	mirrored bool            // the entry has the flow turned round
}

func (f *flow) tcp() bool { return f.orig.Proto == conntrack.ProtoTCP }

// view is a flow as conditions of a selector see it.
type view struct {
	orig, reply conntrack.Tuple
	zones       [2]uint16
	mark        uint32
	label       int
	id          uint32 // 0: not known
	pickedUp    bool
}

// view returns the flow in its entry's direction.
func (f *flow) view() view {
	v := view{orig: f.orig, reply: f.reply, zones: f.zones, mark: f.mark, label: f.label}
	if f.entry != nil {
		v.id, v.pickedUp = f.entry.ID, f.entry.PickedUp()
	}
	if f.mirrored {
		v = v.reversed()
	}
	return v
}

// reversed returns the flow as it would be seen if its responder had begun it.
func (v view) reversed() view {
	v.orig, v.reply = v.reply, v.orig
	v.zones[0], v.zones[1] = v.zones[1], v.zones[0]
	return v
}

func (v *view) tcp() bool { return v.orig.Proto == conntrack.ProtoTCP }

func (v *view) dnat() bool {
	return v.orig.Dst != v.reply.Src || v.orig.DstPort != v.reply.SrcPort
}

func (v *view) snat() bool {
	return v.orig.Src != v.reply.Dst || v.orig.SrcPort != v.reply.DstPort
}

// meets tells whether all conditions hold.
func (v view) meets(list []Condition) bool {
	for _, c := range list {
		if !c.holds(&v) {
			return false
		}
	}
	return true
}

// service is the least port that the kernel gives to those who ask for none,
// net.ipv4.ip_local_port_range: what is below serves.
const service = 32768

// meant tells whether the scenario's selector means a flow: as it is, as the
// mirror that an earlier deletion has left, or as what such a flow expected.
func (x *site) meant(f *flow) bool {
	s := x.s
	v := f.view()
	if v.meets(s.Select) {
		return true
	}
	if !s.NoMirror && v.pickedUp && v.reversed().meets(s.Select) && v.orig.SrcPort < service {
		return true
	}
	return !s.NoRelated && f.master != nil && x.meant(f.master) && !x.spared(f.master)
}

// spared tells whether a flow is to be left alone, whatever else is asked for.
func (x *site) spared(f *flow) bool { return len(x.s.Spare) > 0 && f.view().meets(x.s.Spare) }

// receivers are the ends that get something without being asked.
func (f *flow) receivers() lab.Ends {
	switch f.kind {
	case lab.Speak, lab.Echo:
		return lab.Ends{f.from}
	case lab.Download:
		return lab.Ends{f.sink}
	case lab.Upload:
		return lab.Ends{f.to}
	case lab.Talk:
		return f.ends()
	case lab.Datagram:
		var out lab.Ends
		if f.group.Up > 0 {
			out = append(out, f.to)
		}
		if f.group.Down > 0 {
			out = append(out, f.from)
		}
		return out
	}
	return nil
}

// hearers are the ends that must get something more.
func (f *flow) hearers() lab.Ends {
	if f.quiet() {
		return f.ends()
	}
	return f.receivers()
}

// quiet tells whether both ends wait to be made to speak.
func (f *flow) quiet() bool { return f.kind == lab.Idle || f.kind == lab.Control }

// ends are those of a flow that the lab has.
func (f *flow) ends() lab.Ends {
	if f.to != nil {
		return lab.Ends{f.from, f.to}
	}
	return lab.Ends{f.from}
}

// endsOf returns the ends of flows.
func endsOf(flows []*flow) lab.Ends {
	var out lab.Ends
	for _, f := range flows {
		out = append(out, f.ends()...)
	}
	return out
}

// reachable returns the ends of a flow whose hosts are there.
func (c *trial) reachable(f *flow) lab.Ends {
	var out lab.Ends
	if !c.vanished[f.hosts[0]] {
		out = append(out, f.from)
	}
	if f.to != nil && !c.vanished[f.hosts[1]] {
		out = append(out, f.to)
	}
	return out
}

// tellable returns those of the reachable ends that can be told: where the
// gateway's rules keep its own raw packets from its own ends, these only hear
// of it if they speak.
func (c *trial) tellable(f *flow) lab.Ends {
	var out lab.Ends
	for _, e := range c.reachable(f) {
		k := &c.gateway.config
		if !c.gateways(f, e) || k.Output == lab.OutputOpen && !k.InputDrop && k.Crowd != lab.CrowdDropping {
			out = append(out, e)
		}
	}
	return out
}

// gateways tells whether an end is one of the gateway's own.
func (c *trial) gateways(f *flow, e *lab.End) bool {
	return e == f.from && f.hosts[0] == c.net.Gateway.Host || e == f.to && f.hosts[1] == c.net.Gateway.Host
}

// shared tells whether there is a flow of the same addresses and ports in
// another zone, so that their ends cannot be told apart.
func (x *site) shared(f *flow) bool {
	for _, o := range x.flows {
		if o != f && (o.orig == f.orig || o.reply == f.reply || o.orig == f.reply || o.reply == f.orig) {
			return true
		}
	}
	return false
}
