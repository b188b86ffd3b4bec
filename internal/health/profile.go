package health

import (
	"cmp"
	"context"
	"slices"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/show"
	"flowcut/internal/tally"
)

// Kind is what flows are in the life of their protocol.
type Kind struct {
	Proto conntrack.Proto
	State string // as a list shows it, such as "ESTABLISHED"; see package show
}

// String returns a name such as "tcp SYN_SENT".
func (k Kind) String() string { return k.Proto.String() + " " + k.State }

// Profile is what the flows of a table were at a moment, counted.
type Profile struct {
	Flows      int
	Unreplied  int // nobody has answered
	Unassured  int // not ASSURED: what may be dropped early to make room
	Translated int // by NAT: they break without their entries
	Kinds      map[Kind]int
	Ports      *tally.Tally
	Servers    *tally.Tally
	Clients    *tally.Tally
	Accounting bool // some flows have counted bytes

	// Remaining has, of the kinds of the flows that nobody has answered, how many have
	// how many whole seconds to stay.
	Remaining map[Kind]map[int]int
}

// NewProfile returns one of no flows.
func NewProfile() *Profile {
	return &Profile{
		Kinds: make(map[Kind]int), Remaining: make(map[Kind]map[int]int),
		Ports: tally.New(tally.Port, 0), Servers: tally.New(tally.Server, 0), Clients: tally.New(tally.Client, 0),
	}
}

// Add adds a flow, which is not kept.
func (p *Profile) Add(f *conntrack.Flow) {
	p.Flows++
	if f.Status&conntrack.StatusAssured == 0 {
		p.Unassured++
	}
	if f.Status&(conntrack.StatusSrcNAT|conntrack.StatusDstNAT) != 0 {
		p.Translated++
	}
	if f.Has&conntrack.AttrOrigCounters != 0 {
		p.Accounting = true
	}
	k := Kind{f.Orig.Proto, show.State(f)}
	p.Kinds[k]++
	if f.Status&conntrack.StatusSeenReply == 0 {
		p.Unreplied++
		if p.Remaining[k] == nil {
			p.Remaining[k] = make(map[int]int)
		}
		p.Remaining[k][int(f.Timeout/time.Second)]++
	}
	for _, t := range p.Tallies() {
		t.Add(f)
	}
}

// Tallies are the groups of a profile: by port, by server, by client.
func (p *Profile) Tallies() []*tally.Tally { return []*tally.Tally{p.Ports, p.Servers, p.Clients} }

// ReadProfile counts the flows of a table. It reads all of it: 1.5 to 3.5 s for a million
// flows, and up to 40 MB for the groups. Needs CAP_NET_ADMIN.
func ReadProfile(ctx context.Context, c *conntrack.Client) (*Profile, error) {
	p := NewProfile()
	for f, err := range c.Dump(ctx, conntrack.Filter{}) {
		if err != nil {
			return nil, err
		}
		p.Add(f)
	}
	return p, nil
}

// Share is how many flows of those that count have something in common.
type Share struct {
	Key   tally.Key
	Flows int
}

// Growth is what was added to a table between two profiles, what was taken off
// it subtracted.
type Growth struct {
	Flows      int
	Unreplied  int
	Translated int
	Kinds      []KindShare // those that grew, the most first
	Ports      []Share     // those that grew the most, the first of which is what fills the table, if any
	Servers    []Share
	Clients    []Share
}

// KindShare is by how many flows a kind grew.
type KindShare struct {
	Kind  Kind
	Flows int
}

// shares is how many groups of each sort a Growth names.
const shares = 3

// Compare returns by what a table grew from a profile to another one.
func Compare(before, after *Profile) Growth {
	g := Growth{Flows: after.Flows - before.Flows, Unreplied: after.Unreplied - before.Unreplied, Translated: after.Translated - before.Translated}
	for k, n := range after.Kinds {
		if d := n - before.Kinds[k]; d > 0 {
			g.Kinds = append(g.Kinds, KindShare{k, d})
		}
	}
	slices.SortFunc(g.Kinds, func(a, b KindShare) int {
		return cmp.Or(cmp.Compare(b.Flows, a.Flows), cmp.Compare(a.Kind.String(), b.Kind.String()))
	})
	g.Ports = grown(before.Ports, after.Ports)
	g.Servers = grown(before.Servers, after.Servers)
	g.Clients = grown(before.Clients, after.Clients)
	return g
}

// grown returns the groups that grew the most.
func grown(before, after *tally.Tally) []Share {
	by := func(r *tally.Row) int { return r.Flows - before.Get(r.Key).Flows }
	var all []Share
	for _, r := range after.Top(shares, func(a, b *tally.Row) int { return cmp.Compare(by(b), by(a)) }) {
		if d := by(&r); d > 0 {
			all = append(all, Share{r.Key, d})
		}
	}
	return all
}
