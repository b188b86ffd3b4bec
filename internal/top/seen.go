package top

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"

	"flowcut/conntrack"
)

// seen is what is remembered of each flow from one walk to the next: a hash table with
// open addressing and no pointers, 24 bytes a place. Of a million flows some 34 MB.
//
// Two flows with the same hash are taken for one: of a million that happens to one
// pair in 37 million tables. The zero value is ready.
type seen struct {
	places []place
	used   int
}

// place is one flow, or none if hash is 0.
type place struct {
	hash  uint64
	bytes uint64 // of both directions, as they were counted
	at    uint32 // when that was, in milliseconds of the table's clock
	walk  uint32 // the last walk that it was counted in, and listed
}

// listed is the bit of place.walk that says that the walk itself has met the flow:
// otherwise an event has told of it.
const listed = 1 << 31

// fill is how full the table may be, in percent.
const fill = 75

var seed = maphash.MakeSeed()

// hashOf never returns 0.
func hashOf(f *conntrack.Flow) uint64 {
	var b [48]byte
	src, dst, k := f.Orig.Src.As16(), f.Orig.Dst.As16(), f.Key()
	copy(b[:], src[:])
	copy(b[16:], dst[:])
	binary.NativeEndian.PutUint16(b[32:], f.Orig.SrcPort)
	binary.NativeEndian.PutUint16(b[34:], f.Orig.DstPort)
	binary.NativeEndian.PutUint16(b[36:], f.Orig.ICMPID)
	binary.NativeEndian.PutUint16(b[38:], uint16(k.Zone))
	binary.NativeEndian.PutUint32(b[40:], k.ID)
	b[44], b[45], b[46] = uint8(f.Orig.Proto), f.Orig.ICMPType, f.Orig.ICMPCode
	if h := maphash.Bytes(seed, b[:]); h != 0 {
		return h
	}
	return 1
}

// home is where a hash belongs in a table of n places.
func home(hash uint64, n int) int {
	hi, _ := bits.Mul64(hash, uint64(n))
	return int(hi)
}

// grow makes room for n flows.
func (s *seen) grow(n int) {
	size := n*100/fill + 64
	if size <= len(s.places) {
		return
	}
	old := s.places
	s.places = make([]place, size)
	for _, p := range old {
		if p.hash != 0 {
			*s.find(p.hash) = p
		}
	}
}

// find returns the place of a flow, or the empty one that it would have.
func (s *seen) find(hash uint64) *place {
	for i := home(hash, len(s.places)); ; i++ {
		if i == len(s.places) {
			i = 0
		}
		if p := &s.places[i]; p.hash == hash || p.hash == 0 {
			return p
		}
	}
}

// get returns the place of a flow, nil if it is not there. It is valid until the next put or remove.
func (s *seen) get(hash uint64) *place {
	if len(s.places) == 0 {
		return nil
	}
	if p := s.find(hash); p.hash != 0 {
		return p
	}
	return nil
}

// put returns the place of a flow, which is made if it is not there.
func (s *seen) put(hash uint64) *place {
	if (s.used+1)*100 > len(s.places)*fill {
		s.grow(s.used + s.used/4 + 1)
	}
	p := s.find(hash)
	if p.hash == 0 {
		p.hash = hash
		s.used++
	}
	return p
}

// remove forgets a flow. Those behind it move up, so that each is still found from its home on.
func (s *seen) remove(p *place) {
	n := len(s.places)
	hole := home(p.hash, n)
	for s.places[hole].hash != p.hash {
		hole = (hole + 1) % n
	}
	s.used--
	for i := (hole + 1) % n; s.places[i].hash != 0; i = (i + 1) % n {
		// It may move if its home is not between the hole and where it is.
		if h := home(s.places[i].hash, n); (i-h+n)%n >= (i-hole+n)%n {
			s.places[hole] = s.places[i]
			hole = i
		}
	}
	s.places[hole] = place{}
}

// sweep forgets all flows that a walk has not counted.
func (s *seen) sweep(walk uint32) {
	for i := 0; i < len(s.places); {
		if p := &s.places[i]; p.hash != 0 && p.walk&^listed != walk {
			s.remove(p) // another may have come to this place
		} else {
			i++
		}
	}
}
