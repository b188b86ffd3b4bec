package returns

import (
	"hash/maphash"

	"flowcut/conntrack"
)

// store has records, each found by both tuples of its flow.
//
// Records have numbers from 1 on. Those whose tuples fall into the same slot are
// a list: a link is the number of a record, doubled, and 1 if it is there by its
// reply tuple. 0 ends the list. Nothing in it is a pointer that the collector of
// garbage has to follow.
type store struct {
	seed    maphash.Seed
	heads   []uint32 // links; a power of two
	chunks  []*[chunk]record
	made    uint32 // records in all
	used    int
	alive   int    // of those in use
	free    uint32 // a list by next[0]
	replies map[uint32]conntrack.Tuple
}

// chunk is how many records are allocated at once.
const chunk = 4096

func (s *store) init() {
	s.seed = maphash.MakeSeed()
	s.heads = make([]uint32, chunk)
	s.replies = make(map[uint32]conntrack.Tuple)
}

func (s *store) at(i uint32) *record { return &s.chunks[i/chunk][i%chunk] }

// each calls f with each record in use.
func (s *store) each(f func(*record)) {
	for i := uint32(1); i <= s.made; i++ {
		if r := s.at(i); r.flags&flagUsed != 0 {
			f(r)
		}
	}
}

// add makes a record of a flow.
func (s *store) add(f *conntrack.Flow) uint32 {
	if 2*(s.used+1) > len(s.heads) {
		s.grow()
	}
	i := s.free
	if i != 0 {
		s.free = s.at(i).next[0]
	} else {
		s.made++
		i = s.made
		if int(i/chunk) == len(s.chunks) {
			s.chunks = append(s.chunks, new([chunk]record))
		}
	}
	r := s.at(i)
	*r = record{flags: flagUsed, id: f.ID}
	if !r.pack(f) {
		r.flags |= flagNAT6
		s.replies[i] = f.Reply
	}
	s.used++
	s.alive++
	s.link(i)
	return i
}

// remove forgets a record.
func (s *store) remove(i uint32) {
	for dir := range 2 {
		k := s.key(i, dir)
		at := &s.heads[s.slot(&k)]
		for *at != i<<1|uint32(dir) {
			at = &s.at(*at >> 1).next[*at&1]
		}
		*at = s.at(i).next[dir]
	}
	r := s.at(i)
	if r.flags&flagNAT6 != 0 {
		delete(s.replies, i)
	}
	*r = record{next: [2]uint32{s.free}}
	s.free = i
	s.used--
}

// link puts a record into its two lists.
func (s *store) link(i uint32) {
	for dir := range 2 {
		k := s.key(i, dir)
		head := &s.heads[s.slot(&k)]
		s.at(i).next[dir] = *head
		*head = i<<1 | uint32(dir)
	}
}

// grow doubles the slots.
func (s *store) grow() {
	s.heads = make([]uint32, 2*len(s.heads))
	for i := uint32(1); i <= s.made; i++ {
		if s.at(i).flags&flagUsed != 0 {
			s.link(i)
		}
	}
}

// slot returns where the list of a key begins.
func (s *store) slot(k *key) uint64 {
	return maphash.Bytes(s.seed, k[:]) & uint64(len(s.heads)-1)
}

// either stands for both directions.
const either = -1

// find returns a record that has k as its tuple of a direction and is wanted, 0
// if there is none.
func (s *store) find(k *key, wanted func(*record) bool, dir int) uint32 {
	for l := s.heads[s.slot(k)]; l != 0; l = s.at(l >> 1).next[l&1] {
		if (dir == either || l&1 == uint32(dir)) && wanted(s.at(l>>1)) && s.key(l>>1, int(l&1)) == *k {
			return l >> 1
		}
	}
	return 0
}

// key returns the key of a record's original tuple, dir 0, or its reply tuple.
func (s *store) key(i uint32, dir int) key {
	r := s.at(i)
	t := s.tuple(i, dir)
	var z conntrack.Zone
	if r.flags&(flagOrigZone<<dir) != 0 {
		z = conntrack.Zone(r.zone)
	}
	return keyOf(&t, z)
}

// tuple returns a tuple of a record.
func (s *store) tuple(i uint32, dir int) conntrack.Tuple {
	r := s.at(i)
	switch {
	case r.flags&flagIPv6 == 0:
		return ends(r.tuples[12*dir:12*dir+12], conntrack.Proto(r.proto))
	case dir == 0:
		return ends(r.tuples[:], conntrack.Proto(r.proto))
	case r.flags&flagNAT6 != 0:
		return s.replies[i]
	}
	return ends(r.tuples[:], conntrack.Proto(r.proto)).Invert()
}

// flow returns tuples and zones of a record.
func (s *store) flow(i uint32) conntrack.Flow {
	r := s.at(i)
	f := conntrack.Flow{Has: conntrack.AttrOrig | conntrack.AttrReply, Orig: s.tuple(i, 0), Reply: s.tuple(i, 1)}
	z := conntrack.Zone(r.zone)
	switch r.flags & (flagOrigZone | flagReplyZone) {
	case flagOrigZone | flagReplyZone:
		f.Has, f.Zone = f.Has|conntrack.AttrZone, z
	case flagOrigZone:
		f.Has, f.OrigZone = f.Has|conntrack.AttrOrigZone, z
	case flagReplyZone:
		f.Has, f.ReplyZone = f.Has|conntrack.AttrReplyZone, z
	}
	return f
}
