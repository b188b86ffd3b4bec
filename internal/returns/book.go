// Package returns tells which flows come back: a connection whose entry was
// deleted, or expired, and that conntrack adopts again in mid-stream, in
// either direction.
package returns

import (
	"time"

	"flowcut/conntrack"
)

// DefaultMost is how many ended lives a [Book] remembers if it is not told.
const DefaultMost = 1 << 18

// Book knows the flows that are meant, and lives of them that have ended. It is
// fed with every event of a [conntrack.Listener] that has SyncAtStart and
// SyncAfterOverrun, also of flows that are not meant: what comes back may run
// in the other direction, and be translated otherwise. It is not for use from
// several goroutines at once.
//
// A return is a flow whose original tuple is one of the two of an earlier life
// in the same zone, that no program has made, and
//
//   - of TCP, that is picked up (of SCTP and DCCP: that began without their
//     handshake);
//   - of other protocols, that began when the earlier life, which a program
//     deleted, would not have expired yet.
//
// Flows from before the listener end unannounced where nf_conntrack_events is 2.
// That they have ended is learned from what comes in their place: the return
// counts, and when its earlier life ended is not known. Within a second after a
// listing such a return may be missed that has the ID of the entry before it and
// differs from it in nothing.
//
// Memory: a flow costs 72 to 80 bytes, a remembered life some 60 more.
type Book struct {
	match func(*conntrack.Flow) bool
	now   func() time.Time // for tests
	store
	rings [2]ring // lives that a program deleted, the others

	listing bool
	listed  time.Time // when the latest listing ended
	life    Life
}

// New returns a book of the flows that match means; nil means all. most is how
// many lives that a program has ended are remembered, and four times as many as
// of others; the oldest are forgotten first. 0: [DefaultMost].
func New(match func(*conntrack.Flow) bool, most int) *Book {
	if most <= 0 {
		most = DefaultMost
	}
	b := &Book{match: match, now: time.Now}
	b.init()
	b.rings[0].most, b.rings[1].most = most, max(1, most/4)
	return b
}

// Verdict is what a book says of an event.
type Verdict struct {
	// Meant: the flow matches, or did when it was first seen, or is a return
	// of one that did. False for events without a flow.
	Meant bool

	// Returned: the flow is a return, of which any event may tell.
	Returned bool

	// First: no event before told of this return. It is an EventNew, or, where
	// that was lost in an overrun, an EventUpdate or the listing's EventSync;
	// the EventNew may still follow.
	First bool

	At    time.Time // of the event, by the kernel's clock if it says, else now
	Began time.Time // of the flow, zero if not known

	// Earlier is the life before, nil if the flow is no return or that is
	// forgotten. The next Apply overwrites it.
	Earlier *Life
}

// Life is an ended life of a flow.
type Life struct {
	// Flow has the tuples and zones, and the counters it ended with if those
	// are known.
	Flow conntrack.Flow

	Began    time.Time // zero if not known
	Ended    time.Time // zero if nobody announced it
	Program  uint32    // netlink port of the program that deleted it; 0: none, or not known
	Reversed bool      // the flow that returned runs in the other direction
}

// Bytes returns what both directions carried; ok is false if that is not known.
func (l *Life) Bytes() (n uint64, ok bool) {
	return l.Flow.OrigCounters.Bytes + l.Flow.ReplyCounters.Bytes, l.counted()
}

// Packets returns what both directions carried; ok is false if that is not known.
func (l *Life) Packets() (n uint64, ok bool) {
	return l.Flow.OrigCounters.Packets + l.Flow.ReplyCounters.Packets, l.counted()
}

func (l *Life) counted() bool {
	return l.Flow.Has&(conntrack.AttrOrigCounters|conntrack.AttrReplyCounters) != 0
}

// Len returns the number of flows that are known to live.
func (b *Book) Len() int { return b.alive }

// Apply takes the next event of the listener.
func (b *Book) Apply(e *conntrack.Event) Verdict {
	at := e.Time
	if at.IsZero() {
		at = b.now()
	}
	switch {
	case e.Kind == conntrack.EventSyncBegin:
		b.listing = true
		b.each(func(r *record) { r.flags &^= flagSeen })
	case e.Kind == conntrack.EventSynced:
		b.listing, b.listed = false, at
		b.sweep(at)
	case e.Flow == nil || !whole(e.Flow):
	case e.Kind == conntrack.EventDestroy:
		return b.destroy(e, at)
	default:
		return b.see(e, at)
	}
	return Verdict{At: at}
}

// sweep ends what the listing did not have.
func (b *Book) sweep(at time.Time) {
	for i := uint32(1); i <= b.made; i++ {
		if r := b.at(i); r.flags&(flagUsed|flagEnded|flagSeen) == flagUsed {
			b.end(i, &ending{at: at.UnixNano()})
		}
	}
}

// see takes an event of a living flow.
func (b *Book) see(e *conntrack.Event, at time.Time) Verdict {
	f, k := e.Flow, keyOf(&e.Flow.Orig, zone(e.Flow, 0))
	i := b.find(&k, living, 0)
	if i == 0 {
		b.supplant(f, &k, at)
		if e.Kind != conntrack.EventNew {
			i = b.revive(&k, f.ID)
		}
	}
	if i != 0 && !b.same(b.at(i), e, at) {
		b.end(i, &ending{at: at.UnixNano()})
		b.supplant(f, &k, at)
		i = 0
	}
	v := Verdict{At: at}
	if i == 0 {
		v.First = b.returned(e, &k, at)
		if !v.First && b.match != nil && !b.match(f) {
			return v
		}
		i = b.add(f)
		if e.Kind == conntrack.EventNew {
			b.at(i).begin(began(e, at))
		} else {
			b.at(i).begin(began(e, time.Time{}))
		}
	} else if b.at(i).flags&flagJudged == 0 {
		v.First = b.returned(e, &k, at)
	}
	r := b.at(i)
	r.note(e, at)
	if v.First {
		r.flags |= flagReturned
	}
	v.Meant, v.Began = true, began(e, r.began())
	if v.Returned = r.flags&flagReturned != 0; v.Returned {
		v.Earlier = b.earlier(&k)
	}
	return v
}

// same tells whether a record is of the flow of an event on its original tuple,
// rather than of one before it.
func (b *Book) same(r *record, e *conntrack.Event, at time.Time) bool {
	adopted := r.flags&(flagJudged|flagPicked) == flagJudged && e.Flow.PickedUp()
	switch {
	case r.id != e.Flow.ID:
		return false
	case e.Kind == conntrack.EventSync:
		return !adopted
	case e.Kind != conntrack.EventNew:
		return true
	}
	// The kernel has used the entry's memory again, unless the listing was faster
	// than the announcement.
	return r.flags&flagAnnounced == 0 && !adopted && (b.listing || at.Sub(b.listed) < afterListing)
}

// afterListing is how long after a listing events may come that happened before.
const afterListing = time.Second

// supplant ends the records of living flows that have a tuple of f: the kernel
// has no two entries with the same.
func (b *Book) supplant(f *conntrack.Flow, k *key, at time.Time) {
	reply := keyOf(&f.Reply, zone(f, 1))
	for _, k := range []*key{k, &reply} {
		for {
			i := b.find(k, living, either)
			if i == 0 {
				break
			}
			b.end(i, &ending{at: at.UnixNano()})
		}
	}
}

// revive makes the record of a flow a living one again whose end nobody announced
// and that is there all the same: a listing of a table that changes may miss one. It
// returns 0 if there is none.
func (b *Book) revive(k *key, id uint32) uint32 {
	i := b.find(k, func(r *record) bool { return r.flags&(flagEnded|flagTold) == flagEnded && b.ending(r).id == id }, 0)
	if i == 0 {
		return 0
	}
	b.alive++
	r := b.at(i)
	b.ending(r).record = 0
	r.id = id
	r.flags &^= flagEnded
	return i
}

// returned tells whether the flow of an event, of which none was judged before,
// is a return.
func (b *Book) returned(e *conntrack.Event, k *key, at time.Time) bool {
	if e.Kind == conntrack.EventNew && e.PortID != 0 {
		return false
	}
	i, _ := b.latest(k)
	if i == 0 {
		return false
	}
	if handshakes(e.Flow.Orig.Proto) {
		return adopted(e.Flow)
	}
	return at.Unix() < int64(b.at(i).expires) // what expired by itself is not remembered
}

// earlier returns the life before the one on k.
func (b *Book) earlier(k *key) *Life {
	i, dir := b.latest(k)
	if i == 0 {
		return nil
	}
	r := b.at(i)
	x := b.ending(r)
	b.life = Life{Flow: b.flow(i), Began: r.began(), Program: x.program, Reversed: dir != 0}
	f := &b.life.Flow
	if r.flags&flagTold != 0 {
		b.life.Ended = time.Unix(0, x.at)
		f.Has |= x.has
		f.OrigCounters, f.ReplyCounters = x.orig, x.reply
	}
	return &b.life
}

// latest returns the remembered life with k as one of its tuples that ended
// last, and which of them k is.
func (b *Book) latest(k *key) (i uint32, dir int) {
	var at int64
	for l := b.heads[b.slot(k)]; l != 0; l = b.at(l >> 1).next[l&1] {
		r := b.at(l >> 1)
		if r.flags&flagEnded == 0 {
			continue
		}
		if x := b.ending(r); (i == 0 || x.at > at) && b.key(l>>1, int(l&1)) == *k {
			i, dir, at = l>>1, int(l&1), x.at
		}
	}
	return i, dir
}

// destroy takes the end of a flow.
func (b *Book) destroy(e *conntrack.Event, at time.Time) Verdict {
	f, k := e.Flow, keyOf(&e.Flow.Orig, zone(e.Flow, 0))
	x := ending{
		at: at.UnixNano(), program: e.PortID, orig: f.OrigCounters, reply: f.ReplyCounters,
		has: f.Has & (conntrack.AttrOrigCounters | conntrack.AttrReplyCounters),
	}
	i := b.find(&k, func(r *record) bool { return living(r) && r.id == f.ID }, 0)
	if i == 0 {
		i = b.find(&k, func(r *record) bool { return r.flags&(flagEnded|flagTold) == flagEnded && b.ending(r).id == f.ID }, 0)
	}
	if i == 0 {
		return b.destroyUnknown(e, &x, at)
	}
	r := b.at(i)
	v := Verdict{At: at, Meant: true, Returned: r.flags&flagReturned != 0, Began: began(e, r.began())}
	r.begin(v.Began)
	r.flags |= flagTold
	r.expires = expires(f, at)
	if !living(r) { // that it had ended was learned before
		x.id, x.record = f.ID, i
		*b.ending(r) = x
		return v
	}
	if v.Returned {
		v.Earlier = b.earlier(&k)
	}
	b.end(i, &x)
	return v
}

// destroyUnknown takes the end of a flow that the book does not have.
func (b *Book) destroyUnknown(e *conntrack.Event, x *ending, at time.Time) Verdict {
	f := e.Flow
	if b.match != nil && !b.match(f) {
		return Verdict{At: at}
	}
	i := b.add(f)
	r := b.at(i)
	r.flags |= flagTold | flagAnnounced
	r.begin(began(e, time.Time{}))
	r.expires = expires(f, at)
	v := Verdict{At: at, Meant: true, Began: r.began()}
	b.end(i, x)
	return v
}

// end makes a record that of an ended life, or forgets it if no return of it
// would count.
func (b *Book) end(i uint32, x *ending) {
	b.alive--
	r := b.at(i)
	silent := r.flags&(flagTold|flagAnnounced) == 0 && x.at < int64(r.expires)*int64(time.Second)
	if !handshakes(conntrack.Proto(r.proto)) && x.program == 0 && !silent {
		b.remove(i)
		return
	}
	n := 1
	if x.program != 0 {
		n = 0
	}
	b.forget(i)
	x.id, x.record = r.id, i
	slot, old := b.rings[n].put(*x)
	r.flags |= flagEnded
	r.id = uint32(slot)<<1 | uint32(n)
	if old != 0 {
		b.remove(old)
	}
}

// forget drops the life before the one of a record on the same tuples: it is not
// asked for any more.
func (b *Book) forget(i uint32) {
	k, reply := b.key(i, 0), b.tuple(i, 1)
	if old := b.find(&k, func(r *record) bool { return !living(r) }, 0); old != 0 && b.tuple(old, 1) == reply {
		b.ending(b.at(old)).record = 0
		b.remove(old)
	}
}

// ending returns how the life of a record ended.
func (b *Book) ending(r *record) *ending { return &b.rings[r.id&1].of[r.id>>1] }
