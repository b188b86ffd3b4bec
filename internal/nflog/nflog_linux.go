// Package nflog reads the packets that rules of iptables copy to a program by
// their target NFLOG.
package nflog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"

	"golang.org/x/sys/unix"

	"flowcut/internal/netns"
)

// Messages of nfnetlink_log and their attributes, from
// include/uapi/linux/netfilter/nfnetlink_log.h.
const (
	msgPacket = unix.NFNL_SUBSYS_ULOG << 8   // NFULNL_MSG_PACKET
	msgConfig = unix.NFNL_SUBSYS_ULOG<<8 | 1 // NFULNL_MSG_CONFIG

	cfgCmd     = 1 // NFULA_CFG_CMD
	cfgMode    = 2 // NFULA_CFG_MODE
	cfgQThresh = 5 // NFULA_CFG_QTHRESH

	cmdBind    = 1 // NFULNL_CFG_CMD_BIND
	copyPacket = 2 // NFULNL_COPY_PACKET

	sizeofNfgenmsg = 4         // struct nfgenmsg
	typeMask       = 1<<14 - 1 // NLA_TYPE_MASK

	attrPayload = 9  // NFULA_PAYLOAD
	attrPrefix  = 10 // NFULA_PREFIX
)

// Conn listens to one group. It is not safe for concurrent use.
type Conn struct {
	fd    int
	group uint16
	buf   []byte
	lost  int
}

// Packet is one that a rule has copied.
type Packet struct {
	Prefix string // of the rule, --nflog-prefix
	Data   []byte // from the network header on; valid until the next call
}

// Open listens to a group that nobody else listens to, in the namespace of a
// descriptor, 0 for the calling thread's. Of each packet no more than the first
// snap bytes come.
//
// Needs CAP_NET_ADMIN, and a kernel with nfnetlink_log: EOPNOTSUPP or EINVAL
// without.
func Open(netNS int, snap uint32) (*Conn, error) {
	c := &Conn{fd: -1, buf: make([]byte, 64<<10)}
	err := netns.DoFd(netNS, func() (err error) {
		c.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("nflog: open a netlink socket: %w", err)
	}
	// Notes come in bursts and are read when there is time; the first call is
	// for who may have more than the limit.
	const room = 16 << 20
	if unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room) != nil {
		_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, room)
	}
	if err := c.bind(snap); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// bind takes a group and says how packets are to come.
func (c *Conn) bind(snap uint32) error {
	const tries = 16
	var err error
	for range tries {
		c.group = uint16(rand.Uint32N(1<<16-1024) + 1024) // small ones are what people write into rules
		if err = c.ask(attr(cfgCmd, []byte{cmdBind})); !errors.Is(err, unix.EBUSY) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("nflog: listen to a group: %w", err)
	}
	mode := append(binary.BigEndian.AppendUint32(nil, snap), copyPacket, 0)
	each := binary.BigEndian.AppendUint32(nil, 1) // a message a packet, at once
	if err := c.ask(append(attr(cfgMode, mode), attr(cfgQThresh, each)...)); err != nil {
		return fmt.Errorf("nflog: set up group %d: %w", c.group, err)
	}
	return nil
}

// Group returns the number of the group, for --nflog-group.
func (c *Conn) Group() uint16 { return c.group }

// Lost returns how often packets came faster than they were read, so that some
// have not been told of.
func (c *Conn) Lost() int { return c.lost }

// Close closes the socket; the kernel forgets the group.
func (c *Conn) Close() error { return unix.Close(c.fd) }

func attr(typ uint16, v []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofNlAttr+len(v)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	return pad(append(b, v...))
}

func pad(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// ask sends a configuration and waits for the kernel's answer.
func (c *Conn) ask(attrs []byte) error {
	size := unix.SizeofNlMsghdr + sizeofNfgenmsg + len(attrs)
	b := binary.NativeEndian.AppendUint32(nil, uint32(size))
	b = binary.NativeEndian.AppendUint16(b, msgConfig)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	b = append(b, make([]byte, 8)...) // sequence, port
	b = append(b, unix.AF_UNSPEC, 0)
	b = binary.BigEndian.AppendUint16(b, c.group) // res_id
	if err := unix.Sendto(c.fd, append(b, attrs...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	for {
		n, _, err := unix.Recvfrom(c.fd, c.buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if n >= unix.SizeofNlMsghdr+4 && binary.NativeEndian.Uint16(c.buf[4:]) == unix.NLMSG_ERROR {
			if errno := int32(binary.NativeEndian.Uint32(c.buf[unix.SizeofNlMsghdr:])); errno != 0 {
				return unix.Errno(-errno)
			}
			return nil
		}
	}
}

// Read gives all packets that have come so far to f, and does not wait.
func (c *Conn) Read(f func(Packet)) error {
	for {
		n, _, err := unix.Recvfrom(c.fd, c.buf, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ENOBUFS):
			c.lost++
		case err != nil:
			return fmt.Errorf("nflog: read packets: %w", err)
		default:
			if err := parse(c.buf[:n], f); err != nil {
				return err
			}
		}
	}
}

var errShort = errors.New("nflog: a message is shorter than it says")

// parse reads messages of the kernel.
func parse(b []byte, f func(Packet)) error {
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return errShort
		}
		m := b[:size]
		b = b[min(len(b), align(size)):]
		if binary.NativeEndian.Uint16(m[4:]) != msgPacket {
			continue
		}
		if len(m) < unix.SizeofNlMsghdr+sizeofNfgenmsg {
			return errShort
		}
		p, err := parsePacket(m[unix.SizeofNlMsghdr+sizeofNfgenmsg:])
		if err != nil {
			return err
		}
		f(p)
	}
	return nil
}

func align(n int) int { return (n + 3) &^ 3 }

// parsePacket reads the attributes of a packet.
func parsePacket(b []byte) (p Packet, err error) {
	for len(b) >= unix.SizeofNlAttr {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofNlAttr || size > len(b) {
			return p, errShort
		}
		v := b[unix.SizeofNlAttr:size]
		switch binary.NativeEndian.Uint16(b[2:]) & typeMask {
		case attrPayload:
			p.Data = v
		case attrPrefix:
			for len(v) > 0 && v[len(v)-1] == 0 {
				v = v[:len(v)-1]
			}
			p.Prefix = string(v)
		}
		b = b[min(len(b), align(size)):]
	}
	return p, nil
}
