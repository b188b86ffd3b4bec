package detour

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// patience is how long the kernel may take for an answer: it answers at once,
// and a caller who stands before a cut cannot wait for more.
const patience = 2 * time.Second

// conn is a netlink socket whose calls block. That of package netlink starts a
// goroutine for each message that it waits for, and on a thread that is locked
// to a namespace each of these costs 30 µs.
type conn struct {
	fd  int
	seq uint32
	buf []byte
}

// dial opens a netlink socket in the calling thread's namespace.
func dial(protocol int) (*conn, error) {
	const room = 32 << 10 // what the kernel fills at most with a part of a dump
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket of protocol %d: %w", protocol, err)
	}
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return nil, errors.Join(fmt.Errorf("limit the time for netlink: %w", err), unix.Close(fd))
	}
	return &conn{fd: fd, buf: make([]byte, room)}, nil
}

// close has no error to tell of: nothing was written.
func (c *conn) close() { _ = unix.Close(c.fd) }

// request appends a message to b.
func (c *conn) request(b []byte, typ, flags uint16, body []byte) []byte {
	const align = 3 // NLMSG_ALIGNTO - 1
	c.seq++
	b = binary.NativeEndian.AppendUint32(b, uint32(unix.SizeofNlMsghdr+len(body)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|flags)
	b = binary.NativeEndian.AppendUint32(b, c.seq)
	b = binary.NativeEndian.AppendUint32(b, 0) // nlmsg_pid: the kernel knows
	b = append(b, body...)
	return append(b, make([]byte, -len(body)&align)...)
}

func (c *conn) send(b []byte) error {
	return unix.Sendto(c.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// receive returns what came with one datagram. It is good until the next call.
func (c *conn) receive() ([]syscall.NetlinkMessage, error) {
	for {
		n, _, err := unix.Recvfrom(c.fd, c.buf, unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EINTR): // the runtime's signals
			continue
		case err != nil:
			return nil, err
		case n > len(c.buf):
			return nil, fmt.Errorf("an answer of %d bytes, with room for %d", n, len(c.buf))
		}
		msgs, err := syscall.ParseNetlinkMessage(c.buf[:n])
		if err != nil { // EINVAL, which would say that the kernel lacks something
			return nil, fmt.Errorf("an answer of %d bytes that is no message", n)
		}
		return msgs, nil
	}
}

// failure returns the error that a message is, NLMSG_ERROR or NLMSG_DONE.
func failure(m syscall.NetlinkMessage) error {
	if len(m.Data) < 4 {
		return nil
	}
	if errno := int32(binary.NativeEndian.Uint32(m.Data)); errno < 0 {
		return unix.Errno(-errno)
	}
	return nil
}

// dump asks for a list, again when it changed on the way, and returns the
// messages without their headers.
func (c *conn) dump(typ uint16, body []byte) ([][]byte, error) {
	const tries = 3 // a list that changes all the time is still a list
	for try := 1; ; try++ {
		list, interrupted, err := c.dumpOnce(typ, body)
		if err != nil || !interrupted || try == tries {
			return list, err
		}
	}
}

func (c *conn) dumpOnce(typ uint16, body []byte) (list [][]byte, interrupted bool, err error) {
	if err := c.send(c.request(nil, typ, unix.NLM_F_DUMP, body)); err != nil {
		return nil, false, err
	}
	for {
		msgs, err := c.receive()
		if err != nil {
			return nil, false, err
		}
		for _, m := range msgs {
			if m.Header.Seq != c.seq {
				continue // of a list that ended with an error
			}
			interrupted = interrupted || m.Header.Flags&unix.NLM_F_DUMP_INTR != 0
			if m.Header.Type == unix.NLMSG_DONE || m.Header.Type == unix.NLMSG_ERROR {
				return list, interrupted, failure(m)
			}
			list = append(list, slices.Clone(m.Data))
		}
	}
}

// missing tells whether an error means that this kernel does not have the
// thing, so that there is nothing of it.
func missing(err error) bool {
	for _, e := range []error{unix.EOPNOTSUPP, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT, unix.ENOENT, unix.ENOSYS, unix.EINVAL} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// split parts the data of a message into its fixed header and its attributes.
func split(data []byte, header int) (fixed, attributes []byte, err error) {
	if len(data) < header {
		return nil, nil, fmt.Errorf("a netlink message of %d bytes, its header has %d", len(data), header)
	}
	return data[:header], data[header:], nil
}

// each calls f for each attribute in b.
func each(b []byte, f func(*netlink.AttributeDecoder)) error {
	ad, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return fmt.Errorf("netlink attributes: %w", err)
	}
	return eachOf(ad, f)
}

// inside calls f for each attribute nested in the one that ad is at.
func inside(ad *netlink.AttributeDecoder, f func(*netlink.AttributeDecoder)) {
	ad.Nested(func(nested *netlink.AttributeDecoder) error { return eachOf(nested, f) })
}

func eachOf(ad *netlink.AttributeDecoder, f func(*netlink.AttributeDecoder)) error {
	for ad.Next() {
		f(ad)
	}
	if err := ad.Err(); err != nil {
		return fmt.Errorf("netlink attributes: %w", err)
	}
	return nil
}
