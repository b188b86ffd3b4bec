package conntrack

import "context"

// syncing is a listing of the table in a stream of events.
//
// The kernel makes the next part of a dump while one receives the last, and
// events that happen between the two would be overtaken by entries that are
// older: a destroyed flow would rise again. So a part is only looked at, with
// MSG_PEEK, which makes the kernel make nothing more while the receive buffer
// has no room for it; it is taken, and with that the next made, when that is
// wanted at once.
// Source: net/netlink/af_netlink.c, netlink_recvmsg.
type syncing struct {
	s     *conn
	chunk []byte // what is left of the part at work
}

// syncBuffer is a receive buffer so small that it never has room for a second
// part; the kernel makes it some 2 KiB.
const syncBuffer = 1

// beginSync asks for a listing.
func (l *Listener) beginSync(ctx context.Context) (*Event, error) {
	l.wanted.Store(false)
	s, err := l.c.open(syncBuffer)
	if err != nil {
		l.wanted.Store(true)
		return nil, err
	}
	l.sync = &syncing{s: s}
	s.requestDump(&Filter{Family: l.cfg.Family}, Support{})
	if err := s.send(s.out); err != nil {
		return nil, err
	}
	if l.sync.chunk, err = s.peek(ctx); err != nil {
		return nil, err
	}
	l.turns = 0
	return l.stream(EventSyncBegin), nil
}

// stepChunk goes on to the next part of the listing.
func (l *Listener) stepChunk(ctx context.Context) (*Event, error) {
	l.turns = 0
	err := l.sync.s.skip()
	if err == nil {
		l.sync.chunk, err = l.sync.s.peek(ctx)
	}
	return nil, err
}

// stepEntry takes the next entry of the listing.
func (l *Listener) stepEntry() (*Event, error) {
	c := l.sync
	h, payload, rest, err := nextMessage(c.chunk)
	if err != nil {
		return nil, err
	}
	c.chunk = rest
	switch {
	case h.seq != c.s.seq:
		return nil, nil
	case h.typ == msgError, h.typ == msgDone:
		a, err := parseAnswer(h, payload)
		if err != nil {
			return nil, err
		}
		if err := newError("dump", "", a); err != nil {
			return nil, err
		}
		l.endSync()
		return l.stream(EventSynced), nil
	}
	attrs, err := attributes(payload)
	if err != nil {
		return nil, err
	}
	if err := parseFlow(attrs, &l.room.flow); err != nil {
		return nil, err
	}
	l.room.ev = Event{Kind: EventSync, Flow: &l.room.flow}
	return &l.room.ev, nil
}

// endSync gives up or completes the listing under way, if there is one.
func (l *Listener) endSync() {
	if l.sync != nil {
		l.c.drop(l.sync.s)
		l.sync = nil
	}
}
