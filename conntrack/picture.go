package conntrack

import "iter"

// Picture is a consumer's picture of the table: a value of type V for each
// flow, kept right by the events of a [Listener] with SyncAtStart and
// SyncAfterOverrun. It is not for use from several goroutines at once.
//
// Flows of which nobody is told that they end stay in the picture until the
// next listing; see [Client.Listen]. So does, very rarely, one that ended on
// another processor while the kernel was still announcing it.
type Picture[V any] struct {
	merge func(v *V, f *Flow)
	flows map[Key]*pictured[V]
	sync  uint64 // number of the latest listing
}

// pictured is one flow of a picture.
type pictured[V any] struct {
	v    V
	sync uint64 // the listing during which, or after which, it was last seen
}

// NewPicture returns an empty picture. merge brings what an event or a listing
// tells of a flow into its value, which is zero at first; f is valid during the
// call alone. For V = Flow use (*Flow).Merge.
func NewPicture[V any](merge func(v *V, f *Flow)) *Picture[V] {
	return &Picture[V]{merge: merge, flows: make(map[Key]*pictured[V])}
}

// Apply takes the next event of a listener.
func (p *Picture[V]) Apply(e *Event) {
	switch {
	case e.Kind == EventSyncBegin:
		p.sync++
	case e.Kind == EventSynced:
		for k, x := range p.flows {
			if x.sync != p.sync {
				delete(p.flows, k)
			}
		}
	case e.Flow == nil:
	case e.Kind == EventDestroy:
		delete(p.flows, e.Flow.Key())
	default:
		p.see(e.Kind, e.Flow)
	}
}

// see notes what is told of a living flow.
func (p *Picture[V]) see(kind EventKind, f *Flow) {
	k := f.Key()
	x := p.flows[k]
	if x == nil {
		x = new(pictured[V])
		p.flows[k] = x
	} else if kind == EventNew {
		*x = pictured[V]{} // a later flow with the same tuple and ID
	}
	x.sync = p.sync
	p.merge(&x.v, f)
}

// Len returns the number of flows.
func (p *Picture[V]) Len() int { return len(p.flows) }

// Get returns the value of a flow, nil if it is not in the picture.
func (p *Picture[V]) Get(k Key) *V {
	if x := p.flows[k]; x != nil {
		return &x.v
	}
	return nil
}

// All yields the flows in no order. The values may be changed; they stay the
// picture's.
func (p *Picture[V]) All() iter.Seq2[Key, *V] {
	return func(yield func(Key, *V) bool) {
		for k, x := range p.flows {
			if !yield(k, &x.v) {
				return
			}
		}
	}
}
