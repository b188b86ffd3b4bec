package receipts

import (
	"net"
	"time"

	"flowcut/cut"
	"flowcut/internal/netns"
)

// Send hands a receipt to the "flowcut serve" of a network namespace, 0 for the
// calling thread's. If there is none, or it does not take it by the deadline, that is
// no error: the cut is done.
func Send(fd int, by string, r *cut.Receipt, deadline time.Time) { send(Dir, fd, by, r, deadline) }

func send(dir string, fd int, by string, r *cut.Receipt, deadline time.Time) {
	inode, err := netns.Inode(fd)
	if err != nil {
		return
	}
	dialer := net.Dialer{Deadline: deadline}
	c, err := dialer.Dial("unixgram", path(dir, inode))
	if err != nil {
		return
	}
	defer func() { _ = c.Close() }() // the datagram is sent by then, or never
	b, err := encode(NewNote(by, r))
	if err == nil && c.SetDeadline(deadline) == nil {
		_, _ = c.Write(b) // see above
	}
}
