package detour

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"flowcut/internal/rtnl"
)

// Kinds of devices that differ from the others, IFLA_INFO_KIND.
const (
	kindBridge      = "bridge"
	kindIFB         = "ifb"
	kindNetkit      = "netkit"
	kindOpenVSwitch = "openvswitch"
	kindVeth        = "veth"
)

// device is what RTM_NEWLINK says of a network device.
type device struct {
	index    int
	name     string
	kind     string // "" for hardware
	up       bool
	loopback bool
	lower    int // the device below, 0 for none
	master   int // the device that it is a port or slave of, 0 for none
	xdp      []uint32
	attached bool // an XDP program is, whose ID may be unknown

	call4, call6 bool // the bridge shows netfilter what it forwards
	concerned    bool
}

// readDevices lists the devices of the namespace.
func (s *scan) readDevices() error {
	const mask = 1 << 3 // RTEXT_FILTER_SKIP_STATS: statistics are most of an answer
	header := make([]byte, unix.SizeofIfInfomsg)
	msgs, err := s.rt.Dump(unix.RTM_GETLINK, rtnl.AppendUint32(header, unix.IFLA_EXT_MASK, mask))
	if err != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	s.devices = make(map[int]*device, len(msgs))
	s.ports = make(map[int][]*device)
	for _, m := range msgs {
		d, err := parseDevice(m)
		if err != nil {
			return fmt.Errorf("list devices: %w", err)
		}
		s.devices[d.index] = d
		if d.master != 0 {
			s.ports[d.master] = append(s.ports[d.master], d)
		}
	}
	return nil
}

func parseDevice(data []byte) (*device, error) {
	d := &device{}
	abroad := false // what it is linked with is in another namespace
	fixed, err := rtnl.Parse(data, unix.SizeofIfInfomsg, func(ad *rtnl.Attr) {
		switch ad.Type() {
		case unix.IFLA_IFNAME:
			d.name = ad.String()
		case unix.IFLA_LINK:
			d.lower = int(ad.Uint32())
		case unix.IFLA_LINK_NETNSID:
			abroad = true
		case unix.IFLA_MASTER:
			d.master = int(ad.Uint32())
		case unix.IFLA_LINKINFO:
			d.parseInfo(ad)
		case unix.IFLA_XDP:
			d.parseXDP(ad)
		}
	})
	if err != nil {
		return nil, err
	}
	flags := binary.NativeEndian.Uint32(fixed[8:])
	d.index = int(binary.NativeEndian.Uint32(fixed[4:]))
	d.up, d.loopback = flags&unix.IFF_UP != 0, flags&unix.IFF_LOOPBACK != 0
	// The two ends of a pair are linked with each other, and none is below.
	if abroad || d.kind == kindVeth || d.kind == kindNetkit {
		d.lower = 0
	}
	return d, nil
}

func (d *device) parseInfo(ad *rtnl.Attr) {
	var data []byte
	rtnl.Inside(ad, func(ad *rtnl.Attr) {
		switch ad.Type() {
		case unix.IFLA_INFO_KIND:
			d.kind = ad.String()
		case unix.IFLA_INFO_DATA:
			data = ad.Bytes()
		}
	})
	if d.kind != kindBridge {
		return
	}
	ad.Do(func([]byte) error {
		return rtnl.Each(data, func(ad *rtnl.Attr) {
			switch ad.Type() {
			case unix.IFLA_BR_NF_CALL_IPTABLES:
				d.call4 = ad.Uint8() != 0
			case unix.IFLA_BR_NF_CALL_IP6TABLES:
				d.call6 = ad.Uint8() != 0
			}
		})
	})
}

func (d *device) parseXDP(ad *rtnl.Attr) {
	rtnl.Inside(ad, func(ad *rtnl.Attr) {
		switch ad.Type() {
		case unix.IFLA_XDP_ATTACHED:
			d.attached = ad.Uint8() != 0 // XDP_ATTACHED_NONE
		case unix.IFLA_XDP_PROG_ID, unix.IFLA_XDP_DRV_PROG_ID, unix.IFLA_XDP_SKB_PROG_ID, unix.IFLA_XDP_HW_PROG_ID:
			if id := ad.Uint32(); id != 0 && !slices.Contains(d.xdp, id) {
				d.xdp = append(d.xdp, id)
			}
		}
	})
}

// concern takes a device in, with what its packets pass through: what is below
// it, its ports or slaves, and what it is itself a port of.
func (s *scan) concern(index int) {
	d := s.devices[index]
	if d == nil || d.concerned {
		return
	}
	d.concerned = true
	s.concerned = append(s.concerned, d)
	s.concern(d.lower)
	s.concern(d.master)
	if d.kind == kindOpenVSwitch {
		return // its own finding; where its ports are joined is not in the kernel's links
	}
	for _, port := range s.ports[index] {
		s.concern(port.index)
	}
}

// concernAll takes in every device that is up.
func (s *scan) concernAll() {
	for _, d := range s.inOrder() {
		if d.up {
			s.concern(d.index)
		}
	}
}

// concernLoopback takes in what packets to own addresses may pass.
func (s *scan) concernLoopback() {
	for _, d := range s.devices {
		if d.loopback {
			s.concern(d.index)
		}
	}
}

func (s *scan) inOrder() []*device {
	all := make([]*device, 0, len(s.devices))
	for _, d := range s.devices {
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b *device) int { return cmp.Compare(a.index, b.index) })
	return all
}

// name returns the name of a device, or its number where there is none.
func (s *scan) name(index int) string {
	if d := s.devices[index]; d != nil {
		return d.name
	}
	return fmt.Sprintf("device %d", index)
}

// working returns the concerned devices that are up. Those that are not carry
// nothing.
func (s *scan) working() []*device {
	var out []*device
	for _, d := range s.concerned {
		if d.up {
			out = append(out, d)
		}
	}
	return out
}
