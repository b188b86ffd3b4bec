package fence

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"flowcut/internal/netns"
)

// Queue is one NFQUEUE of the namespace: packets that wait there for the
// verdict of a program.
type Queue struct {
	Num     int
	Waiting uint32
	Taken   uint32 // packets that the queue has ever taken in, modulo 2^32
}

// Queues returns the queues that a program listens to. Removing a chain drops
// all that waits in any of them.
//
// Needs to be root, or CAP_DAC_READ_SEARCH: errors wrap os.ErrPermission.
func (f *Fence) Queues() ([]Queue, error) {
	if f.queues == nil {
		// The file stays that of the namespace it was opened in.
		err := netns.DoFd(f.cfg.NetNS, func() (err error) {
			f.queues, err = os.Open("/proc/thread-self/net/netfilter/nfnetlink_queue")
			return err
		})
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil // the kernel has no queues
		}
		if err != nil {
			return nil, fmt.Errorf("fence: look into the queues: %w", err)
		}
	}
	buf := make([]byte, 64<<10)
	n, err := f.queues.ReadAt(buf, 0)
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

// parseQueue reads a line as seq_show in net/netfilter/nfnetlink_queue.c
// writes it: number, listener, waiting, mode, range, two kinds of drops, and
// the number of the last packet.
func parseQueue(line string) (q Queue, err error) {
	var skip int64
	_, err = fmt.Sscan(line, &q.Num, &skip, &q.Waiting, &skip, &skip, &skip, &skip, &q.Taken)
	if err != nil {
		err = fmt.Errorf("fence: read a line about a queue, %q: %w", line, err)
	}
	return q, err
}
