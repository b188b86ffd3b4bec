package detour

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"flowcut/internal/rtnl"
)

const sizeofTcMsg = 20 // struct tcmsg

// Where filters sit. What is no handle of a queueing discipline is made of
// TC_H_CLSACT and the number of the hook.
const (
	parentRoot    = 0          // what dev->qdisc is
	parentIngress = 0xfffffff2 // TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)
	parentEgress  = 0xfffffff3 // TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)
)

// actionsAt is where the options of a kind of filter have its actions.
var actionsAt = map[string]uint16{
	"basic":    3, // TCA_BASIC_ACT
	"bpf":      1, // TCA_BPF_ACT
	"cgroup":   1, // TCA_CGROUP_ACT
	"flow":     9, // TCA_FLOW_ACT
	"flower":   3, // TCA_FLOWER_ACT
	"fw":       4, // TCA_FW_ACT
	"matchall": 2, // TCA_MATCHALL_ACT
	"route":    6, // TCA_ROUTE4_ACT
	"u32":      7, // TCA_U32_ACT
}

const attrBPFID = 11 // TCA_BPF_ID: of a classic program there is none

// Attributes of an action. Those of all kinds that matter have their
// parameters, which begin with tc_gen, at the same place.
const (
	attrActKind    = 1 // TCA_ACT_KIND
	attrActOptions = 2 // TCA_ACT_OPTIONS
	attrParameters = 2 // TCA_MIRRED_PARMS, TCA_GACT_PARMS
)

// What becomes of a packet behind an action, tc_gen.action.
const (
	actShot   = 2 // TC_ACT_SHOT
	actStolen = 4 // TC_ACT_STOLEN
	actQueued = 5 // TC_ACT_QUEUED
	actTrap   = 8 // TC_ACT_TRAP
)

// What mirred does, tc_mirred.eaction.
const (
	egressRedirect  = 1 // TCA_EGRESS_REDIR
	egressMirror    = 2 // TCA_EGRESS_MIRROR
	ingressRedirect = 3 // TCA_INGRESS_REDIR
	ingressMirror   = 4 // TCA_INGRESS_MIRROR
)

// readFilters looks at the tc filters that packets meet on their way in. The
// kernel lists filters of shared blocks with each device that has the block.
func (s *scan) readFilters() error {
	hooked, err := s.readIngress()
	if err != nil {
		return err
	}
	for i := 0; i < len(s.concerned); i++ { // grows on the way
		d := s.concerned[i]
		switch {
		case !d.up:
		case d.kind == kindIFB:
			// It hands packets back to the device that they came in by, but
			// only those that pass its way out.
			for _, parent := range []uint32{parentRoot, parentEgress} {
				if err := s.readFiltersAt(d, parent); err != nil {
					return err
				}
			}
		case hooked[d.index]:
			if err := s.readFiltersAt(d, parentIngress); err != nil {
				return err
			}
		}
	}
	return nil
}

// readIngress returns the devices that can have filters for what comes in, so
// that not each of a thousand has to be asked.
func (s *scan) readIngress() (map[int]bool, error) {
	msgs, err := s.rt.Dump(unix.RTM_GETQDISC, make([]byte, sizeofTcMsg))
	if err != nil {
		if rtnl.Missing(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("list queueing disciplines: %w", err)
	}
	hooked := map[int]bool{}
	for _, m := range msgs {
		kind := ""
		fixed, err := rtnl.Parse(m, sizeofTcMsg, func(ad *rtnl.Attr) {
			if ad.Type() == unix.TCA_KIND {
				kind = ad.String()
			}
		})
		if err != nil {
			return nil, err
		}
		if kind == "ingress" || kind == "clsact" {
			hooked[int(binary.NativeEndian.Uint32(fixed[4:]))] = true
		}
	}
	return hooked, nil
}

func (s *scan) readFiltersAt(d *device, parent uint32) error {
	request := make([]byte, sizeofTcMsg)
	binary.NativeEndian.PutUint32(request[4:], uint32(d.index))
	binary.NativeEndian.PutUint32(request[12:], parent)
	msgs, err := s.rt.Dump(unix.RTM_GETTFILTER, request)
	if err != nil && !rtnl.Missing(err) {
		return fmt.Errorf("list the filters of %s: %w", d.name, err)
	}
	for _, m := range msgs {
		if err := s.judgeFilter(d, m); err != nil {
			return fmt.Errorf("list the filters of %s: %w", d.name, err)
		}
	}
	return nil
}

func (s *scan) judgeFilter(d *device, data []byte) error {
	var kind string
	var options []byte
	_, err := rtnl.Parse(data, sizeofTcMsg, func(ad *rtnl.Attr) {
		switch ad.Type() {
		case unix.TCA_KIND:
			kind = ad.String()
		case unix.TCA_OPTIONS:
			options = ad.Bytes()
		}
	})
	if err != nil || options == nil { // the head of a list of filters
		return err
	}
	at, known := actionsAt[kind]
	if !known {
		s.report(TCFilter, d, "%s, of a kind that is not known", kind)
		return nil
	}
	var actions []action
	err = rtnl.Each(options, func(ad *rtnl.Attr) {
		switch {
		case ad.Type() == at:
			rtnl.Inside(ad, func(ad *rtnl.Attr) { actions = append(actions, parseAction(ad)) })
		case kind == "bpf" && ad.Type() == attrBPFID:
			s.report(TCProgram, d, "%s", programName(ad.Uint32()))
		}
	})
	s.judgeActions(d, kind, actions)
	return err
}

// action is one of a filter.
type action struct {
	kind   string
	stops  bool // the packet goes no further
	how    uint32
	device int // how and where mirred takes it
}

func parseAction(ad *rtnl.Attr) (a action) {
	var options []byte
	rtnl.Inside(ad, func(ad *rtnl.Attr) {
		switch ad.Type() {
		case attrActKind:
			a.kind = ad.String()
		case attrActOptions:
			options = ad.Bytes()
		}
	})
	if a.kind != "mirred" && a.kind != "gact" {
		return a
	}
	ad.Do(func([]byte) error {
		return rtnl.Each(options, func(ad *rtnl.Attr) {
			if ad.Type() == attrParameters {
				ad.Do(a.parseParameters)
			}
		})
	})
	return a
}

// parseParameters reads tc_gen, and what struct tc_mirred has behind it.
func (a *action) parseParameters(b []byte) error {
	const general, mirred = 20, 28
	if len(b) < general || a.kind == "mirred" && len(b) < mirred {
		return fmt.Errorf("an action %s with %d bytes of parameters", a.kind, len(b))
	}
	switch binary.NativeEndian.Uint32(b[8:]) {
	case actShot, actStolen, actQueued, actTrap:
		a.stops = true
	}
	if a.kind == "mirred" {
		a.how = binary.NativeEndian.Uint32(b[20:])
		a.device = int(binary.NativeEndian.Uint32(b[24:]))
	}
	return nil
}

// judgeActions reports those that take packets elsewhere. To mirror a packet
// is not enough, since the packet itself goes on to the hooks, unless it is
// dropped then.
func (s *scan) judgeActions(d *device, kind string, actions []action) {
	copied := 0
	for _, a := range actions {
		switch {
		case a.kind == "ct" || a.kind == "bpf":
			s.report(TCFilter, d, "%s, action %s", kind, a.kind)
		case a.how == egressRedirect || a.how == ingressRedirect:
			s.redirected(d, kind, a.device)
		case a.how == egressMirror || a.how == ingressMirror:
			copied = a.device
		}
		if a.stops && copied != 0 {
			s.redirected(d, kind, copied)
		}
	}
}

// redirected follows packets to an IFB, which hands them back, and reports
// what takes them to other devices.
func (s *scan) redirected(d *device, kind string, index int) {
	if to := s.devices[index]; to != nil && to.kind == kindIFB {
		s.concern(index)
		return
	}
	s.report(TCFilter, d, "%s, redirects to %s", kind, s.name(index))
}
