package conntrack

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync/atomic"
)

// EventConfig says what a [Listener] hears. The zero value is every event of
// flows, with no listing of the table.
type EventConfig struct {
	// Flows is the set of kinds to hear of flows: EventNew, EventUpdate,
	// EventDestroy. 0: all, or none if Expectations is set.
	Flows EventKind

	// Expectations is the set of kinds to hear of expectations; up to 6.18
	// the kernel sends no EventUpdate of them.
	Expectations EventKind

	// Family leaves out the others' events. FamilyBoth: none.
	Family Family

	// RecvBuffer is the room for events that wait to be read, in bytes as
	// conntrack(8) has them after -b: the kernel doubles it and charges what
	// a message occupies, 1280 for most, so that a MiB has room for some
	// 1600 events. Without CAP_NET_ADMIN in the initial user namespace
	// net.core.rmem_max is the limit. 0: 16 MiB. See [Listener.RecvBuffer].
	RecvBuffer int

	// SyncAtStart begins the stream with a listing of the table:
	// EventSyncBegin, an EventSync for each flow, EventSynced.
	SyncAtStart bool

	// SyncAfterOverrun makes the same listing after each EventOverrun.
	SyncAfterOverrun bool

	// Idle, unless nil, is called whenever no event is left to be yielded and
	// the stream is about to wait: the time to write out what one has
	// gathered. Its error ends the stream.
	Idle func() error
}

// defaultEventBuffer is RecvBuffer if that is 0.
const defaultEventBuffer = 16 << 20

// eventsPerChunk is how many datagrams are read between two parts of a
// listing, at most: so it goes on also when events never cease.
const eventsPerChunk = 1024

// Listener hears what happens to flows and expectations.
//
// All methods may be called at once from several goroutines, but of the
// sequences that Events returns one may run at a time.
type Listener struct {
	c   *Client
	cfg EventConfig
	q   *eventQueue

	running atomic.Bool // a sequence is
	wanted  atomic.Bool // a listing, see Resync

	room  eventRoom
	rest  []byte // of the datagram at work
	turns int    // datagrams since the last part of a listing
	sync  *syncing
}

// Listen begins to hear events. When it returns the kernel queues them:
// nothing that happens afterwards is missed, whenever it is read.
//
// Flows that were made before anybody listened end and change unannounced,
// unless net.netfilter.nf_conntrack_events is 1 (2, the default of most
// kernels, is meant; with 0 nothing is announced at all). A consumer that
// keeps a picture of the table has to ask for a listing from time to time if
// that matters: [Listener.Resync].
//
// Needs CAP_NET_ADMIN. Close the listener after use; closing the client
// closes it, too.
func (c *Client) Listen(cfg EventConfig) (*Listener, error) {
	if cfg.Flows|cfg.Expectations == 0 {
		cfg.Flows = EventAll
	}
	if (cfg.Flows|cfg.Expectations)&^EventAll != 0 {
		return nil, fmt.Errorf("conntrack: listen: not the kernel's kinds of events: %v", cfg.Flows|cfg.Expectations)
	}
	if cfg.RecvBuffer < 0 {
		return nil, fmt.Errorf("conntrack: listen: receive buffer of %d bytes", cfg.RecvBuffer)
	}
	if cfg.RecvBuffer == 0 {
		cfg.RecvBuffer = defaultEventBuffer
	}
	s, err := c.open(0)
	if err != nil {
		return nil, err
	}
	l := &Listener{c: c, cfg: cfg}
	if l.q, err = newEventQueue(s, cfg.RecvBuffer, cfg.groups()); err != nil {
		c.drop(s)
		return nil, wrap("listen", err)
	}
	l.wanted.Store(cfg.SyncAtStart)
	return l, nil
}

// groups returns the groups whose messages are the events of cfg.
func (cfg *EventConfig) groups() []uint32 {
	var all []uint32
	for _, g := range [...]struct {
		in, kind EventKind
		group    uint32
	}{
		{cfg.Flows, EventNew, groupNew},
		{cfg.Flows, EventUpdate, groupUpdate},
		{cfg.Flows, EventDestroy, groupDestroy},
		{cfg.Expectations, EventNew, groupExpectNew},
		{cfg.Expectations, EventUpdate, groupExpectUpdate},
		{cfg.Expectations, EventDestroy, groupExpectDestroy},
	} {
		if g.in&g.kind != 0 {
			all = append(all, g.group)
		}
	}
	return all
}

// RecvBuffer returns the room for events that wait to be read, in bytes as
// getsockopt says it: twice what was asked for, less where that is not permitted.
func (l *Listener) RecvBuffer() int { return l.q.rcvbuf }

// Close ends the listener. A sequence that waits ends with [ErrClosed].
func (l *Listener) Close() error {
	if l.q.closed.Load() {
		return ErrClosed
	}
	l.c.drop(l.q.conn)
	l.cleanUp()
	return nil
}

// cleanUp ends a listing that is left when the listener is closed and no
// sequence runs: whichever of the two is last does it.
func (l *Listener) cleanUp() {
	if l.q.closed.Load() && l.running.CompareAndSwap(false, true) {
		l.endSync()
		l.running.Store(false)
	}
}

// Resync asks for a listing of the table in the stream: EventSyncBegin, an
// EventSync for each flow, EventSynced. It does not wait.
func (l *Listener) Resync() {
	l.wanted.Store(true)
	l.q.wake()
}

// Events yields what happens, in the order in which the kernel queued it, in
// constant memory. It waits for events until ctx ends or the listener is
// closed; the sequence ends with the error of that, [ErrClosed] for the latter.
// An overrun is no error: it is an event, and the sequence goes on.
//
// The *Event and what it points to are overwritten by the next step: keep a
// [Flow.Clone]. Leaving the loop loses nothing; a further sequence goes on.
//
// A listing is read while events go on, each part of it before the events that
// happened after that part was made. An event that happened before may come
// behind it, so a flow can look older for a moment; in the end its last event
// is the last word. What one listing misses, and no event tells, are flows that
// were about to enter the table when the listener began, and any if the
// table's number of buckets is changed meanwhile.
func (l *Listener) Events(ctx context.Context) iter.Seq2[*Event, error] {
	return func(yield func(*Event, error) bool) {
		if !l.running.CompareAndSwap(false, true) {
			yield(nil, errors.New("conntrack: events: another sequence is running"))
			return
		}
		defer func() {
			l.running.Store(false)
			l.cleanUp()
		}()
		stop := context.AfterFunc(ctx, l.q.wake)
		defer stop()
		for {
			e, err := l.next(ctx)
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// next waits for an event.
func (l *Listener) next(ctx context.Context) (*Event, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		e, err := l.step(ctx)
		if err != nil {
			if l.sync != nil {
				l.wanted.Store(true) // the listing is not lost with this sequence
			}
			l.endSync()
			if ctx.Err() != nil || isAnswer(err) {
				return nil, err
			}
			return nil, wrap("events", err)
		}
		if e != nil {
			return e, nil
		}
	}
}

// step returns an event, or nil after something else was done.
func (l *Listener) step(ctx context.Context) (*Event, error) {
	// Entries first: they are older than any event not yet received.
	if l.sync != nil && len(l.sync.chunk) > 0 {
		return l.stepEntry()
	}
	if len(l.rest) == 0 {
		var err error
		if l.rest, err = l.q.next(); err != nil {
			return nil, err
		}
		l.turns++
	}
	if len(l.rest) > 0 {
		return l.stepEvent()
	}
	if l.sync != nil && l.turns >= eventsPerChunk {
		return l.stepChunk(ctx)
	}
	due := l.wanted.Load()
	switch err := l.fill(l.sync == nil && !due); {
	case errors.Is(err, errQueueEmpty) && l.sync != nil:
		return l.stepChunk(ctx)
	case errors.Is(err, errQueueEmpty) && due:
		return l.beginSync(ctx)
	case errors.Is(err, errQueueOverrun):
		return l.overrun(), nil
	case errors.Is(err, errQueueEmpty), errors.Is(err, errQueueWoken):
		return nil, nil
	default:
		return nil, err
	}
}

// fill receives events. If it is to wait for them it tells Idle before.
func (l *Listener) fill(wait bool) error {
	if wait && l.cfg.Idle != nil {
		if err := l.q.fill(false); !errors.Is(err, errQueueEmpty) {
			return err
		}
		if err := l.cfg.Idle(); err != nil {
			return err
		}
	}
	return l.q.fill(wait)
}

// stepEvent takes the next event from the datagram at work, nil if it is not
// wanted.
func (l *Listener) stepEvent() (*Event, error) {
	rest, family, err := l.room.parse(l.rest)
	l.rest = rest
	if err != nil {
		return nil, err
	}
	if l.room.ev.Kind == 0 || l.cfg.Family != FamilyBoth && family != l.cfg.Family {
		return nil, nil
	}
	return &l.room.ev, nil
}

// overrun notes that events were lost. A listing under way is not complete
// then, and the next can begin only when the queue is empty: until then the
// kernel adds nothing to it, without a further sign.
func (l *Listener) overrun() *Event {
	again := l.sync != nil
	l.endSync()
	if again || l.cfg.SyncAfterOverrun {
		l.wanted.Store(true)
	}
	return l.stream(EventOverrun)
}

// stream returns an event of the stream itself.
func (l *Listener) stream(k EventKind) *Event {
	l.room.ev = Event{Kind: k}
	return &l.room.ev
}

// Signs of the queue of events.
var (
	errQueueEmpty   = errors.New("no event is waiting")
	errQueueOverrun = errors.New("events were lost")
	errQueueWoken   = errors.New("the wait was ended")
)
