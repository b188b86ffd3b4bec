package fence

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"flowcut/internal/netns"
)

// Queue is one NFQUEUE of the namespace: packets that wait there for the
// verdict of a program.
type Queue struct {
	Num      int
	Listener uint32 // port ID of the program's netlink socket
	Waiting  uint32
	Taken    uint32 // packets that the queue has ever taken in, modulo 2^32
}

// Queues returns the queues that a program listens to. Removing a chain drops
// all that waits in any of them.
//
// Needs /proc, and to be root, or CAP_DAC_READ_SEARCH: errors wrap
// os.ErrPermission. See Queued for those who have not.
func (f *Fence) Queues() ([]Queue, error) { return f.queues.read() }

// queueFile is the kernel's list of queues.
type queueFile struct {
	netNS int
	file  *os.File // open once it was read
}

// Close closes the file.
func (q *queueFile) Close() error {
	if q.file == nil {
		return nil
	}
	return q.file.Close()
}

func (q *queueFile) read() ([]Queue, error) {
	if q.file == nil {
		// The file stays that of the namespace it was opened in.
		err := netns.DoFd(q.netNS, func() (err error) {
			q.file, err = os.Open("/proc/thread-self/net/netfilter/nfnetlink_queue")
			return err
		})
		if errors.Is(err, fs.ErrNotExist) {
			// The kernel has no queues, or there is no /proc to see them in.
			if _, none := os.Stat("/proc/thread-self/net"); none == nil {
				return nil, nil
			}
			err = fmt.Errorf("%w (%w)", os.ErrPermission, err)
		}
		if err != nil {
			return nil, fmt.Errorf("fence: look into the queues: %w", err)
		}
	}
	buf := make([]byte, 64<<10)
	n, err := q.file.ReadAt(buf, 0)
	if n == 0 && err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("fence: look into the queues: %w", err)
	}
	var out []Queue
	for line := range bytes.Lines(buf[:n]) {
		q, err := parseQueue(string(line))
		if err != nil {
			return nil, err
		}
		out = append(out, q)
	}
	return out, nil
}

// Queued tells whether a program listens to any queue, without what Queues
// needs, by asking for each number there may be: in some tens of milliseconds.
//
// A request to configure a queue that holds nothing to be configured changes
// nothing. What it is refused with tells whether the queue exists: it is somebody
// else's (EPERM), or there is none (ENODEV); nfqnl_recv_config.
func (f *Fence) Queued() (bool, error) { return f.queues.any() }

func (q *queueFile) any() (bool, error) {
	const numbers, piece = 1 << 16, 1 << 8
	var exists bool
	err := netns.DoFd(q.netNS, func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }() // nothing was written
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1); err != nil {
			return err
		}
		// For the answers to a piece, whatever the host's default is. In a user
		// namespace nobody may have more than the limit, which is enough.
		const room = 1 << 20
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, room) // without, answers may be lost, which is an error
		}
		for first := 0; first < numbers && err == nil && !exists; first += piece {
			exists, err = queued(fd, first, piece)
		}
		return err
	})
	if err != nil {
		return false, fmt.Errorf("fence: ask for queues: %w", err)
	}
	return exists, nil
}

// queued asks for queues with numbers from first on.
func queued(fd, first, count int) (exists bool, err error) {
	const size = unix.SizeofNlMsghdr + 4         // struct nfgenmsg
	const config = unix.NFNL_SUBSYS_QUEUE<<8 | 2 // NFQNL_MSG_CONFIG
	b := make([]byte, 0, count*size)
	for num := first; num < first+count; num++ {
		b = binary.NativeEndian.AppendUint32(b, size)
		b = binary.NativeEndian.AppendUint16(b, config)
		b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
		b = binary.NativeEndian.AppendUint32(b, uint32(num)) // sequence
		b = append(b, 0, 0, 0, 0, unix.AF_UNSPEC, unix.NFNETLINK_V0)
		b = binary.BigEndian.AppendUint16(b, uint16(num)) // res_id
	}
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return false, err
	}
	for range count {
		const head = unix.SizeofNlMsghdr
		n, _, err := unix.Recvfrom(fd, b[:cap(b)], 0)
		for errors.Is(err, unix.EINTR) {
			n, _, err = unix.Recvfrom(fd, b[:cap(b)], 0)
		}
		switch {
		case err != nil:
			return false, err
		case n < head+4 || binary.NativeEndian.Uint16(b[4:]) != unix.NLMSG_ERROR:
			return false, fmt.Errorf("an answer of %d bytes that is none", n)
		}
		switch no := unix.Errno(-int32(binary.NativeEndian.Uint32(b[head:]))); no {
		case unix.ENODEV:
		case unix.EPERM, 0:
			exists = true
		default:
			return false, no
		}
	}
	return exists, nil
}

// parseQueue reads a line as seq_show in net/netfilter/nfnetlink_queue.c
// writes it: number, listener, waiting, mode, range, two kinds of drops, and
// the number of the last packet.
func parseQueue(line string) (q Queue, err error) {
	var skip int64
	_, err = fmt.Sscan(line, &q.Num, &q.Listener, &q.Waiting, &skip, &skip, &skip, &skip, &q.Taken)
	if err != nil {
		err = fmt.Errorf("fence: read a line about a queue, %q: %w", line, err)
	}
	return q, err
}
