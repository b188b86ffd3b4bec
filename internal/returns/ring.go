package returns

import "flowcut/conntrack"

// ending is how a life ended.
type ending struct {
	orig, reply conntrack.Counters
	at          int64          // when, or when it was learned; nanoseconds since 1970
	has         conntrack.Attr // counters
	id          uint32         // Flow.ID
	program     uint32
	record      uint32
}

// ring has the latest endings.
type ring struct {
	of   []ending
	most int
	next int // to be overwritten, when it is full
}

// put takes an ending in and returns where it is, and the record of the one that
// had to go, 0 if none has.
func (r *ring) put(x ending) (slot int, old uint32) {
	if len(r.of) < r.most {
		r.of = append(r.of, x)
		return len(r.of) - 1, 0
	}
	slot = r.next
	old = r.of[slot].record
	r.of[slot] = x
	r.next = (slot + 1) % r.most
	return slot, old
}
