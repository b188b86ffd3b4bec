package doctor

import (
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"flowcut/internal/detour"
	"flowcut/internal/rtnl"
)

func lookAtOpenVSwitch(v *visit) (finding, error) {
	f, err := detours(detour.OpenVSwitch)(v)
	if f.state != Fail {
		return f, err
	}
	paths, err := readDatapaths()
	return judgeDatapaths(f, paths, err), nil
}

// judgeDatapaths adds to a finding what the datapaths do with packets.
func judgeDatapaths(f finding, paths []datapath, err error) finding {
	if err != nil {
		f.found += fmt.Sprintf("; what it does could not be asked: %v", err)
	}
	for _, d := range paths {
		switch {
		case d.unread:
			f.found += fmt.Sprintf("; datapath %s has %d flows, too many to look at", d.name, d.flows)
		case d.tracking > 0:
			f.found += fmt.Sprintf("; datapath %s has %d flows, %d with connection tracking, in zones %v", d.name, d.flows, d.tracking, d.zones)
		default:
			f.found += fmt.Sprintf("; datapath %s has %d flows, none with connection tracking", d.name, d.flows)
		}
		if d.tracking > 0 {
			f.means = "its own flows forward and translate packets that no rule sees. What they track is in this table and can be deleted, but not stopped: cuts of flows through it are not proven"
		}
	}
	return f
}

// datapath is one of Open vSwitch.
type datapath struct {
	index    int32 // of its own device
	name     string
	flows    uint64
	unread   bool     // there are too many
	tracking int      // of the flows, those that look connections up
	zones    []uint16 // in which they do, in rising order
}

// Commands and attributes of Open vSwitch, include/uapi/linux/openvswitch.h.
const (
	ovsGet         = 3     // OVS_DP_CMD_GET, OVS_FLOW_CMD_GET
	dpVersion      = 2     // OVS_DATAPATH_VERSION
	flowVersion    = 1     // OVS_FLOW_VERSION
	dpName         = 1     // OVS_DP_ATTR_NAME
	dpStats        = 3     // OVS_DP_ATTR_STATS
	flowActions    = 2     // OVS_FLOW_ATTR_ACTIONS
	actionCT       = 12    // OVS_ACTION_ATTR_CT
	ctZone         = 2     // OVS_CT_ATTR_ZONE
	sizeofOVS      = 4 + 4 // struct genlmsghdr and ovs_header
	mostFlows      = 20000
	sizeofDPStats  = 4 * 8 // struct ovs_dp_stats
	flowsInDPStats = 3 * 8
)

// readDatapaths asks the kernel for the datapaths and their flows.
func readDatapaths() (out []datapath, err error) {
	c, err := rtnl.Dial(unix.NETLINK_GENERIC)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	id, err := genericFamily(c, "ovs_datapath")
	if err != nil {
		return nil, err
	}
	msgs, err := c.Dump(id, ovsRequest(dpVersion, 0))
	if err != nil {
		return nil, fmt.Errorf("list datapaths: %w", err)
	}
	for _, m := range msgs {
		d, err := parseDatapath(m)
		if err != nil {
			return nil, fmt.Errorf("list datapaths: %w", err)
		}
		if d.unread = d.flows > mostFlows; !d.unread {
			if err := d.readFlows(c); err != nil {
				return nil, fmt.Errorf("list the flows of %s: %w", d.name, err)
			}
		}
		out = append(out, d)
	}
	return out, nil
}

func ovsRequest(version byte, datapath int32) []byte {
	return binary.NativeEndian.AppendUint32([]byte{ovsGet, version, 0, 0}, uint32(datapath))
}

// genericFamily returns the message type of a family of generic netlink.
func genericFamily(c *rtnl.Conn, name string) (id uint16, err error) {
	const control = 16 // GENL_ID_CTRL
	request := []byte{unix.CTRL_CMD_GETFAMILY, 1, 0, 0}
	data, err := c.Ask(control, 0, rtnl.Append(request, unix.CTRL_ATTR_FAMILY_NAME, append([]byte(name), 0)))
	if err != nil {
		return 0, fmt.Errorf("look for %s: %w", name, err)
	}
	_, err = rtnl.Parse(data, unix.GENL_HDRLEN, func(ad *rtnl.Attr) {
		if ad.Type() == unix.CTRL_ATTR_FAMILY_ID {
			id = ad.Uint16()
		}
	})
	return id, err
}

func parseDatapath(data []byte) (d datapath, err error) {
	fixed, err := rtnl.Parse(data, sizeofOVS, func(ad *rtnl.Attr) {
		switch ad.Type() {
		case dpName:
			d.name = ad.String()
		case dpStats:
			ad.Do(func(b []byte) error {
				if len(b) < sizeofDPStats {
					return fmt.Errorf("statistics of %d bytes", len(b))
				}
				d.flows = binary.NativeEndian.Uint64(b[flowsInDPStats:])
				return nil
			})
		}
	})
	if err == nil {
		d.index = int32(binary.NativeEndian.Uint32(fixed[4:]))
	}
	return d, err
}

func (d *datapath) readFlows(c *rtnl.Conn) error {
	id, err := genericFamily(c, "ovs_flow")
	if err != nil {
		return err
	}
	msgs, err := c.Dump(id, ovsRequest(flowVersion, d.index))
	if err != nil {
		return err
	}
	d.flows = uint64(len(msgs))
	for _, m := range msgs {
		if err := d.addFlow(m); err != nil {
			return err
		}
	}
	slices.Sort(d.zones)
	return nil
}

// addFlow counts a flow if it has the action ct.
func (d *datapath) addFlow(data []byte) error {
	tracks := false
	_, err := rtnl.Parse(data, sizeofOVS, func(ad *rtnl.Attr) {
		if ad.Type() != flowActions {
			return
		}
		rtnl.Inside(ad, func(ad *rtnl.Attr) {
			if ad.Type() != actionCT {
				return
			}
			tracks = true
			zone := uint16(0)
			rtnl.Inside(ad, func(ad *rtnl.Attr) {
				if ad.Type() == ctZone {
					zone = ad.Uint16()
				}
			})
			if !slices.Contains(d.zones, zone) {
				d.zones = append(d.zones, zone)
			}
		})
	})
	if tracks {
		d.tracking++
	}
	return err
}
