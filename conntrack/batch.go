package conntrack

import (
	"context"
	"errors"
	"fmt"
	"syscall"
)

const (
	// batchBytes is how much goes into one send. The kernel's default limit
	// for a send is about 208 KiB.
	batchBytes = 128 << 10

	// answerRoom is more than an answer takes in the receive queue by the
	// kernel's account, extended acknowledgement included.
	answerRoom = 2048
)

// batch collects requests of which only the last is acknowledged; the rest
// are answered if they fail. The kernel works through a send before it
// returns and answers in order, so that an answer to the last request says
// that all were processed.
type batch struct {
	s     *conn
	op    string
	first uint32 // sequence number of the first request
	n     int    // requests in s.out
	last  int    // where the last request starts in s.out
	limit int    // most requests a send, so that no answer is lost

	// refused takes the answer to request i of the batch.
	refused func(i int, a answer)

	// found, unless nil, takes the entry that request i has asked for.
	found func(i int, payload []byte) error

	// echoed, unless nil, takes the events that requests with flagEcho have
	// brought about. They do not say which request it was.
	echoed func(payload []byte) error
}

// newBatch makes an empty batch on s.
func newBatch(s *conn, op string) *batch {
	b := &batch{s: s, op: op, limit: max(1, s.rcvbuf/answerRoom)}
	b.reset()
	return b
}

// reset empties the batch.
func (b *batch) reset() { b.s.out, b.first, b.n = b.s.out[:0], b.s.seq+1, 0 }

// full tells whether the next request may not fit.
func (b *batch) full() bool { return b.n >= b.limit || len(b.s.out) >= batchBytes-4096 }

// begin starts a request and returns its header.
func (b *batch) begin(typ msgType, flags msgFlags) header {
	b.s.seq++
	b.last = len(b.s.out)
	return header{typ, flags, b.s.seq}
}

// add takes what append made of s.out since begin; on its error nothing is added.
func (b *batch) add(out []byte, err error) error {
	if err != nil {
		b.s.out = b.s.out[:b.last]
		b.s.seq--
		return err
	}
	b.s.out = out
	b.n++
	return nil
}

// errOverrun means that answers were lost: which requests failed is not known.
var errOverrun = errors.New("answers of the kernel were lost")

// send sends the batch and takes its answers. It returns errOverrun if some
// were lost. A refusal that concerns the whole batch, such as EPERM, is
// returned as an *Error.
func (b *batch) send(ctx context.Context) error {
	if b.n == 0 {
		return nil
	}
	// The acknowledgement of the last request closes the batch.
	b.s.out[b.last+6] |= byte(flagAck)
	if err := b.s.send(b.s.out); err != nil {
		return err
	}
	for {
		data, err := b.s.receive(ctx)
		if errors.Is(err, syscall.ENOBUFS) || errors.Is(err, errNoAnswer) {
			return errOverrun
		}
		if err != nil {
			return err
		}
		if done, err := b.answers(data); done || err != nil {
			return err
		}
	}
}

// drain throws away what is left in the queue. A queue that ran over takes
// nothing more, and says nothing, until it is empty.
func (b *batch) drain(ctx context.Context) error {
	for {
		_, err := b.s.receive(ctx)
		if errors.Is(err, errNoAnswer) {
			return nil
		}
		if err != nil && !errors.Is(err, syscall.ENOBUFS) {
			return err
		}
	}
}

// answers takes the answers in one datagram; done means that the last request's
// was among them.
func (b *batch) answers(data []byte) (done bool, err error) {
	for len(data) > 0 {
		h, payload, rest, err := nextMessage(data)
		if err != nil {
			return false, err
		}
		data = rest
		if b.echoed != nil && h.seq == 0 && (h.typ == msgNew || h.typ == msgDelete) {
			if err := b.echoed(payload); err != nil {
				return false, err
			}
			continue
		}
		i := int(h.seq - b.first)
		if i < 0 || i >= b.n {
			continue
		}
		if h.typ == msgNew && b.found != nil {
			if err := b.found(i, payload); err != nil {
				return false, err
			}
		}
		if h.typ != msgError {
			continue
		}
		a, err := parseAnswer(h, payload)
		if err != nil {
			return false, err
		}
		if a.errno == syscall.EPERM {
			// The kernel refuses a send as a whole, with one answer.
			return false, newError(b.op, "", a)
		}
		if a.errno != 0 {
			b.refused(i, a)
		}
		if i == b.n-1 {
			return true, nil
		}
	}
	return false, nil
}

// refusals collects the errors of single requests: the first, and how many.
type refusals struct {
	first error
	n     int
}

func (r *refusals) add(err error) {
	if r.n++; r.n == 1 {
		r.first = err
	}
}

// err returns what was collected, nil if nothing was.
func (r *refusals) err() error {
	switch r.n {
	case 0:
		return nil
	case 1:
		return r.first
	}
	return fmt.Errorf("%w (and %d more)", r.first, r.n-1)
}
