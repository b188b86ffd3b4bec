// Package rtnl asks the kernel by netlink: for routes and routing rules, and
// for whatever else a message of bytes can ask for. What the kernel does not
// answer, or a signal interrupts, keeps nobody waiting.
package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long the kernel may take for an answer: it answers at once,
// and a caller who stands before a cut cannot wait for more.
const patience = 2 * time.Second

// Conn is a netlink socket whose calls block. That of package netlink starts a
// goroutine for each message that it waits for, and on a thread that is locked
// to a namespace each of these costs 30 µs. It is not safe for concurrent use.
type Conn struct {
	fd  int
	seq uint32
	in  []byte
	out []byte
}

// Dial opens a netlink socket of a protocol, NETLINK_ROUTE or another, in the
// calling thread's namespace.
func Dial(protocol int) (*Conn, error) {
	// The kernel fills 32 KiB at most with a part of a dump; one message may
	// have 64.
	const room = 64 << 10
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket of protocol %d: %w", protocol, err)
	}
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return nil, errors.Join(fmt.Errorf("limit the time for netlink: %w", err), unix.Close(fd))
	}
	for _, detail := range []int{unix.NETLINK_EXT_ACK, unix.NETLINK_CAP_ACK} {
		_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, detail, 1) // better words for errors only
	}
	return &Conn{fd: fd, in: make([]byte, room)}, nil
}

// SetBuffers asks for room: bytes that one send may have, and that may wait to
// be received. Beyond the system's limits that needs CAP_NET_ADMIN; without, it
// is what is permitted.
func (c *Conn) SetBuffers(send, receive int) {
	for _, o := range []struct{ force, plain, size int }{
		{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, send}, {unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, receive},
	} {
		if unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, o.force, o.size) != nil {
			_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, o.plain, o.size) // what needs more fails, and says so
		}
	}
}

// Close closes the socket.
func (c *Conn) Close() error { return unix.Close(c.fd) }

// Ask sends a request that has one answer, and returns it without its header:
// nil where it is that all is well. It is good until the next call.
func (c *Conn) Ask(typ, flags uint16, body []byte) (data []byte, err error) {
	err2 := c.AskAll(typ, flags, [][]byte{body}, func(_ int, d []byte, e error) { data, err = d, e })
	return data, errors.Join(err, err2)
}

// AskAll sends requests with one call and gives the answer to each, in their
// order, or the error that it is. All answers must fit into the receive queue,
// as those of a hundred do.
func (c *Conn) AskAll(typ, flags uint16, bodies [][]byte, answer func(i int, data []byte, err error)) error {
	first := c.seq + 1
	c.out = c.out[:0]
	for _, body := range bodies {
		c.request(typ, flags, body)
	}
	if err := c.send(); err != nil {
		return err
	}
	for i := 0; i < len(bodies); {
		msgs, err := c.receive()
		if err != nil {
			return err
		}
		for _, m := range msgs {
			switch {
			case m.Header.Seq != first+uint32(i):
				continue // of a request that was given up
			case m.Header.Type == unix.NLMSG_ERROR:
				answer(i, nil, failure(m))
			default:
				answer(i, m.Data, nil)
			}
			i++
		}
	}
	return nil
}

// Message is a request among others of a [Conn.Batch].
type Message struct {
	Type, Flags uint16 // NLM_F_REQUEST is added
	Body        []byte // from behind the header
}

// Batch sends messages with one call and returns when the last of those that
// have NLM_F_ACK was answered, or with the first error that is an answer.
// Without such a message it returns when they are sent. An error of receiving
// wraps no errno: what was asked for may have been done all the same.
func (c *Conn) Batch(list []Message) error {
	const keep = 1 << 20 // bytes
	first, last, asks := c.seq+1, uint32(0), false
	c.out = c.out[:0]
	for _, m := range list {
		c.request(m.Type, m.Flags, m.Body)
		if m.Flags&unix.NLM_F_ACK != 0 {
			last, asks = c.seq, true
		}
	}
	err := c.send()
	if cap(c.out) > keep {
		c.out = nil
	}
	for err == nil && asks {
		var msgs []syscall.NetlinkMessage
		if msgs, err = c.receive(); err != nil {
			return fmt.Errorf("receive the answer: %v", err) //nolint:errorlint // see above
		}
		for _, m := range msgs {
			if m.Header.Type != unix.NLMSG_ERROR || m.Header.Seq-first > c.seq-first {
				continue // of an earlier request
			}
			if err := failure(m); err != nil || m.Header.Seq == last {
				return err
			}
		}
	}
	return err
}

// request adds a message to what is sent next.
func (c *Conn) request(typ, flags uint16, body []byte) {
	c.seq++
	b := c.out
	b = binary.NativeEndian.AppendUint32(b, uint32(unix.SizeofNlMsghdr+len(body)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|flags)
	b = binary.NativeEndian.AppendUint32(b, c.seq)
	b = binary.NativeEndian.AppendUint32(b, 0) // nlmsg_pid: the kernel knows
	c.out = pad(append(b, body...))
}

func (c *Conn) send() error {
	for {
		err := unix.Sendto(c.fd, c.out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// receive returns what came with one datagram. It is good until the next call.
func (c *Conn) receive() ([]syscall.NetlinkMessage, error) {
	for {
		n, _, err := unix.Recvfrom(c.fd, c.in, unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EINTR): // the runtime's signals
			continue
		case errors.Is(err, unix.EAGAIN):
			return nil, fmt.Errorf("no answer within %v", patience)
		case err != nil:
			return nil, err
		case n > len(c.in):
			return nil, fmt.Errorf("an answer of %d bytes, with room for %d", n, len(c.in))
		}
		return parse(c.in[:n])
	}
}

// parse returns the messages of a datagram. What is not whole is an error, also
// where it is shorter than a header, which package syscall passes over.
func parse(b []byte) ([]syscall.NetlinkMessage, error) {
	msgs, err := syscall.ParseNetlinkMessage(b)
	whole := 0
	for _, m := range msgs {
		whole += (int(m.Header.Len) + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1)
	}
	if err != nil || whole != len(b) { // not with EINVAL, which would say that the kernel lacks something
		return nil, fmt.Errorf("an answer of %d bytes that is no message", len(b))
	}
	return msgs, nil
}

// failure returns the error that a message is, NLMSG_ERROR or NLMSG_DONE, with
// the kernel's words for it.
func failure(m syscall.NetlinkMessage) error {
	const words = 1 // NLMSGERR_ATTR_MSG
	if len(m.Data) < 4 {
		return nil
	}
	code := int32(binary.NativeEndian.Uint32(m.Data))
	if code >= 0 {
		return nil
	}
	text := ""
	if at := 4 + unix.SizeofNlMsghdr; m.Header.Flags&unix.NLM_F_ACK_TLVS != 0 && len(m.Data) > at {
		_ = Each(m.Data[at:], func(a *Attr) { // without words it is an error, too
			if a.Type() == words {
				text = a.String()
			}
		})
	}
	if text != "" {
		return fmt.Errorf("%s: %w", text, unix.Errno(-code))
	}
	return unix.Errno(-code)
}

// Dump asks for a list, again when it changed on the way, and returns the
// messages without their headers.
func (c *Conn) Dump(typ uint16, body []byte) ([][]byte, error) {
	const tries = 3 // a list that changes all the time is still a list
	for try := 1; ; try++ {
		list, interrupted, err := c.DumpOnce(typ, body)
		if err != nil || !interrupted || try == tries {
			return list, err
		}
	}
}

// DumpOnce is Dump without another try; interrupted tells that the list changed
// on the way.
func (c *Conn) DumpOnce(typ uint16, body []byte) (list [][]byte, interrupted bool, err error) {
	c.out = c.out[:0]
	c.request(typ, unix.NLM_F_DUMP, body)
	if err := c.send(); err != nil {
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

// Missing tells whether an error means that this kernel does not have the
// thing, so that there is nothing of it.
func Missing(err error) bool {
	for _, e := range []error{unix.EOPNOTSUPP, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT, unix.ENOENT, unix.ENOSYS, unix.EINVAL} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
