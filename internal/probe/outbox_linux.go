package probe

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/internal/mmsg"
)

// outbox sends packets by one socket, many with one call.
type outbox struct {
	fd   int
	pace *pacer
	n    int // how many are loaded
	msgs [most]mmsg.Message
	iovs [most]unix.Iovec
}

// most is how many packets wait for a call.
const most = 64

// load makes packets ready, with their addresses and control messages. What
// they hold must not change until they are sent.
func (o *outbox) load(list []*packet) {
	o.n = len(list)
	for i, q := range list {
		o.iovs[i].Base = &q.bytes[0]
		o.iovs[i].SetLen(len(q.bytes))
		h := &o.msgs[i].Header
		*h = unix.Msghdr{Name: &q.to[0], Namelen: uint32(len(q.to)), Iov: &o.iovs[i]}
		h.SetIovlen(1)
		if len(q.control) > 0 {
			h.Control = &q.control[0]
			h.SetControllen(len(q.control))
		}
	}
}

// strip takes the control messages from a packet, and tells whether it had any.
func (o *outbox) strip(i int) bool {
	h := &o.msgs[i].Header
	had := h.Control != nil
	h.Control = nil
	h.SetControllen(0)
	return had
}

// send sends what is loaded, from packet i on, and returns the first that could
// not be sent, with its error. It waits for room in the socket's buffer and in
// the device's queue.
func (o *outbox) send(i int) (int, error) {
	for i < o.n {
		o.pace.wait()
		n, err := mmsg.Send(o.fd, o.msgs[i:o.n])
		switch {
		case err == nil:
			i += n
			o.pace.sent(n)
		case errors.Is(err, unix.EINTR):
		case full(err) && o.pace.patient():
			o.room(err)
		default:
			return i, err
		}
	}
	return i, nil
}

// full tells whether an error is that there is no room for a packet.
func full(err error) bool { return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS) }

// room waits for room: nobody tells when a device's queue has some.
func (o *outbox) room(err error) {
	const nap = time.Millisecond
	began := time.Now()
	if errors.Is(err, unix.EAGAIN) { // the socket's buffer is full
		p := []unix.PollFd{{Fd: int32(o.fd), Events: unix.POLLOUT}}
		_, _ = unix.Poll(p, int(o.pace.patience.Milliseconds())+1) // the next try tells
	} else {
		time.Sleep(nap) // time itself is meant: no event tells of room in a device's queue
	}
	o.pace.patience -= time.Since(began)
}

// A burst must fit into what it comes to, and leave room for its answers: a
// receiver's ring has 256 places or more, and net.core.netdev_max_backlog is
// 1000, which a busy receiver works off in some milliseconds. What does not fit
// is dropped without a sign. Less than a millisecond a sleep cannot well be.
const (
	burst = 128
	every = time.Millisecond
)

// How long packets may wait for room in a row, and how much of that each one
// that leaves gives back: so devices that send 40,000 in a second lose none.
// There must be a bound for all, since the same error says that the table of
// neighbours is full, which is so where many ends do not exist.
const (
	mostPatience = 500 * time.Millisecond
	giveBack     = 25 * time.Microsecond
)

// pacer holds the rate of all sockets down to a burst in a millisecond, and
// the time that they wait for room.
type pacer struct {
	due      time.Time // of the next packet
	patience time.Duration
}

func (p *pacer) patient() bool { return p.patience > 0 }

// wait waits until the next packets may leave.
func (p *pacer) wait() {
	now := time.Now()
	if earliest := now.Add(-every); p.due.Before(earliest) {
		p.due = earliest // what was not used is lost
	}
	if early := p.due.Sub(now); early > 0 {
		time.Sleep(early) // time itself is meant: this is the pace
	}
}

// sent takes down that packets have left.
func (p *pacer) sent(n int) {
	p.due = p.due.Add(time.Duration(n) * every / burst)
	p.patience = min(mostPatience, p.patience+time.Duration(n)*giveBack)
}
