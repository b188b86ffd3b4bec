package detour

import (
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// patience is how long the kernel may take for all answers of a socket: it
// answers at once, and a caller who stands before a cut cannot wait for more.
const patience = 2 * time.Second

// dial opens a netlink socket in the calling thread's namespace.
func dial(protocol int) (*netlink.Conn, error) {
	const room = 32 << 10 // what the kernel fills at most with a part of a dump
	c, err := netlink.Dial(protocol, &netlink.Config{MessageBufferSize: room})
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket of protocol %d: %w", protocol, err)
	}
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, errors.Join(fmt.Errorf("limit the time for netlink: %w", err), c.Close())
	}
	return c, nil
}

// dump asks for a list, again when it changed on the way.
func dump(c *netlink.Conn, typ uint16, body []byte) ([]netlink.Message, error) {
	const tries = 3 // a list that changes all the time is still a list
	request := netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(typ), Flags: netlink.Request | netlink.Dump},
		Data:   body,
	}
	for try := 1; ; try++ {
		msgs, err := c.Execute(request)
		if err != nil {
			return nil, err
		}
		if try == tries || !interrupted(msgs) {
			return msgs, nil
		}
	}
}

func interrupted(msgs []netlink.Message) bool {
	for _, m := range msgs {
		if m.Header.Flags&netlink.DumpInterrupted != 0 {
			return true
		}
	}
	return false
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
