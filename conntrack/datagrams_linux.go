package conntrack

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"flowcut/internal/mmsg"
)

// datagrams has room for several datagrams, which are received at once and
// handed out one by one. It allocates nothing while it is used.
type datagrams struct {
	msgs []mmsg.Message
	iovs []unix.Iovec
	from []unix.RawSockaddrNetlink
	room []byte // size for each
	size int

	got, at int // datagrams received, and handed out

	read func(fd uintptr) bool // receives without waiting, made once
	err  error                 // what read met with
}

// newDatagrams makes room for n datagrams of size bytes.
func newDatagrams(n, size int) *datagrams {
	d := &datagrams{
		msgs: make([]mmsg.Message, n), iovs: make([]unix.Iovec, n), from: make([]unix.RawSockaddrNetlink, n),
		room: make([]byte, n*size), size: size,
	}
	for i := range d.msgs {
		d.iovs[i].Base = &d.room[i*size]
		d.iovs[i].SetLen(size)
		d.msgs[i].Header.Iov = &d.iovs[i]
		d.msgs[i].Header.SetIovlen(1)
		d.msgs[i].Header.Name = (*byte)(unsafe.Pointer(&d.from[i]))
	}
	d.read = func(fd uintptr) bool {
		d.err = d.receive(fd)
		return true
	}
	return d
}

// receive receives what is there, at least one datagram, or tells why not:
// EAGAIN if there is none.
func (d *datagrams) receive(fd uintptr) error {
	d.got, d.at = 0, 0
	for i := range d.msgs {
		d.msgs[i].Header.Namelen = unix.SizeofSockaddrNetlink
	}
	for {
		n, err := mmsg.Receive(int(fd), d.msgs, unix.MSG_DONTWAIT)
		if !errors.Is(err, unix.EINTR) {
			d.got = n
			return err
		}
	}
}

// next hands out a datagram of the kernel, nil if there is none left. It is
// valid until the next call of receive.
func (d *datagrams) next() ([]byte, error) {
	for d.at < d.got {
		i := d.at
		d.at++
		if d.from[i].Pid != 0 {
			continue // some process's, not the kernel's
		}
		m := &d.msgs[i]
		if m.Header.Flags&unix.MSG_TRUNC != 0 {
			return nil, fmt.Errorf("datagram of more than %d bytes", d.size)
		}
		return d.room[i*d.size:][:m.Len], nil
	}
	return nil, nil
}
