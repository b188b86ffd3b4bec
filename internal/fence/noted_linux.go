package fence

import (
	"encoding/binary"
	"fmt"
	"iter"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/nft"
)

// Mark is a set of ends or flows that packets have left their mark in.
type Mark string

// What the fence notes.
const (
	Dead        Mark = setDead        // ends whose connection is gone, by their own word
	Reset       Mark = setReset       // ends that a reset left for
	Unreachable Mark = setUnreachable // ends that a port unreachable left for
	Knocked     Mark = setKnock       // ends that the guard turned away
	Born        Mark = setBorn        // original tuples, see AnyProto, of flows admitted while the fence stood
	Leaked      Mark = setLeaked      // original tuples of flows with packets behind the fence
	Spoke       Mark = setSpoke       // ends of cut flows that were stopped, with Next
)

// Noted is one tuple of a mark.
type Noted struct {
	conntrack.Tuple
	ID   uint32        // of the entry; for Born alone
	Ago  time.Duration // since the last packet; for Knocked, Leaked and Spoke alone
	Next uint32        // sequence number that the end expects, so that it takes a reset; for Spoke alone
}

// Noted returns the tuples that have the mark. One may come twice, and Reset
// and Unreachable hold ends of flows of others, too.
func (f *Fence) Noted(m Mark) iter.Seq2[Noted, error] {
	return func(yield func(Noted, error) bool) {
		for _, r := range f.tables {
			for _, set := range r.setsOf(m) {
				for e, err := range f.conn.Members(r.table, set) {
					if err != nil {
						yield(Noted{}, fmt.Errorf("fence: %w", err))
						return
					}
					if n, ok := r.parse(m, e); ok && !yield(n, nil) {
						return
					}
				}
			}
		}
	}
}

// parse reads an element of a mark's set.
func (r *raised) parse(m Mark, e nft.Member) (n Noted, ok bool) {
	k := e.Key
	if m == Born && len(k) >= 4 {
		n.ID, k = binary.BigEndian.Uint32(k), nft.Concat([]byte{0}, k[4:])
	}
	if m == Spoke && len(k) >= 4 {
		n.Next, k = binary.BigEndian.Uint32(k[len(k)-4:]), nft.Concat([]byte{byte(conntrack.ProtoTCP)}, k[:len(k)-4])
	}
	n.Tuple, ok = tuple(k)
	n.Ago = r.remember - e.Expires
	return n, ok
}

// setsOf returns the sets that hold a mark: those that stand from the start,
// and those that came in with the guard.
func (r *raised) setsOf(m Mark) []string {
	switch {
	case m == Born || m == Leaked:
		return []string{string(m)}
	case m == Reset && r.guarded:
		return []string{setReset, setResetCut}
	case m == Unreachable && r.guarded:
		return []string{setUnreachable, setUnreachCut}
	case m == Reset || m == Unreachable || r.guarded:
		return []string{string(m)}
	}
	return nil
}
