//go:build linux

package soak

import (
	"context"
	"errors"
	"os/exec"
	"testing"
	"time"

	"flowcut/conntrack"
	"flowcut/cut"
	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
	"flowcut/internal/netns"
	"flowcut/selector"
)

// program is the built program.
var program string

func TestMain(m *testing.M) { labtest.Main(m, &program) }

// In scenarios that nobody has thought of all promises are kept. These are always
// the first ones, as far as there is time for; `make soak` draws new ones.
func TestDrawnScenarios(t *testing.T) {
	const enough = 20 * time.Second
	seed := uint64(1)
	for began := time.Now(); time.Since(began) < enough; seed++ {
		s := Draw(seed)
		r, err := Run(t.Context(), s, Tools{Program: program})
		if err != nil {
			t.Fatalf("seed %d: %s: %v", seed, s, err)
		}
		t.Logf("seed %d: %s | %s", seed, r, s)
		for _, b := range r.Broken {
			t.Errorf("seed %d: %s", seed, b)
		}
	}
}

// A seed is a scenario, and among few there is one of each kind of anything.
func TestDraw(t *testing.T) {
	seen := map[string]bool{}
	for seed := range uint64(2000) {
		s := Draw(seed)
		if again := Draw(seed); again.String() != s.String() {
			t.Fatalf("seed %d: %s, and then %s", seed, s, again)
		}
		seen[string(s.Disturb)] = true
		for _, k := range s.Gateway {
			seen[k] = true
		}
		for _, g := range s.Groups {
			seen[string(g.Road)], seen[trafficOf(g.Kind).name] = true, true
		}
	}
	var want []string
	for _, k := range lab.GatewayKinds {
		want = append(want, k.Name)
	}
	for _, f := range features {
		want = append(want, f.name)
	}
	for _, c := range courses {
		want = append(want, string(c.road))
	}
	for _, k := range traffics {
		want = append(want, k.name)
	}
	for _, d := range disturbances {
		want = append(want, string(d.name))
	}
	for _, w := range want {
		if !seen[w] {
			t.Errorf("%q is not drawn", w)
		}
	}
}

// plain is a scenario without surprises: servers that speak at the ends of a
// rule that is gone, datagrams, and others that go on.
func plain() *Scenario {
	return &Scenario{
		Seed: 1, Rule: RuleRemoved, Settle: 200 * time.Millisecond, Hold: 300 * time.Millisecond,
		Groups: []Group{
			{Road: Inward, Port: 5201, Kind: lab.Speak, Count: 20, Interval: 20 * time.Millisecond},
			{Road: Inward, Port: 5201, Kind: lab.Datagram, Count: 3, Up: 100, Down: 100},
			{Road: Inward, Port: 5202, Kind: lab.Talk, Count: 10, Interval: 10 * time.Millisecond},
			{Road: Inward, From: 1, Port: 5202, Kind: lab.Datagram, Count: 3, Up: 100, Down: 100},
		},
		Select: []Condition{condition(false, "orig-port-dst", "5201", func(v *view) bool { return v.orig.DstPort == 5201 })},
	}
}

// sel is a selector.
func sel(args ...string) selector.Selector {
	s, err := selector.Parse(args)
	if err != nil {
		panic(err)
	}
	return s
}

// pretending cuts in another way than was asked for, and gives a receipt as if it
// had been that.
func pretending(change func(*cut.Options)) Cutter {
	return func(ctx context.Context, o cut.Options) (*cut.Receipt, error) {
		change(&o)
		r, err := cut.Run(ctx, o)
		if r != nil {
			r.Proven, r.Final = true, true
		}
		return r, err
	}
}

// boasting cuts well and says something else.
func boasting(change func(*cut.Receipt)) Cutter {
	return func(ctx context.Context, o cut.Options) (*cut.Receipt, error) {
		r, err := cut.Run(ctx, o)
		if r != nil {
			change(r)
		}
		return r, err
	}
}

// littering cuts well and leaves a table behind.
func littering(ctx context.Context, o cut.Options) (*cut.Receipt, error) {
	r, err := cut.Run(ctx, o)
	return r, errors.Join(err, netns.DoFd(o.NetNS, exec.Command("nft", "add", "table", "ip", "litter").Run))
}

// deleting does what conntrack -D does, and calls that a cut with a guard.
func deleting(ctx context.Context, o cut.Options) (*cut.Receipt, error) {
	ct, err := conntrack.Dial(conntrack.Config{NetNS: o.NetNS})
	if err != nil {
		return nil, err
	}
	defer ct.Close()
	r := &cut.Receipt{Proven: true, Final: true}
	var keys []conntrack.Key
	for f, err := range ct.Dump(ctx, conntrack.Filter{}) {
		if err != nil {
			return nil, err
		}
		if o.Selector.Match(f) {
			keys = append(keys, f.Key())
		}
	}
	r.Flows.Matched = len(keys)
	r.Flows.Deleted, err = ct.Delete(ctx, keys, nil)
	r.Fence.RaisedAfterMS = cut.Millis(time.Since(o.Start))
	time.Sleep(2 * margin) // which is what it does
	r.ElapsedMS = cut.Millis(time.Since(o.Start))
	r.Fence.LiftedAfterMS = r.ElapsedMS
	return r, err
}

// A cut that is none, one that does too little or too much, and a receipt that
// lies: the check sees each.
func TestBadCuts(t *testing.T) {
	for _, c := range []struct {
		name   string
		cut    Cutter
		broken []Promise
	}{
		{"conntrack -D", deleting, []Promise{Gone, Silent, Final, Told, Proven}},
		{"leaves rules", littering, []Promise{NothingLeft}},
		{"tells nobody", pretending(func(o *cut.Options) { o.Silent = true }), []Promise{Told}},
		{"kicks nobody", pretending(func(o *cut.Options) { o.NoKick = true }), []Promise{Proven}},
		{"cuts others", pretending(func(o *cut.Options) { o.Selector = sel("--orig-port-dst=5201,5202") }), []Promise{NobodyElse}},
		{"spares some", pretending(func(o *cut.Options) { o.Except = []selector.Selector{sel("-p", "tcp")} }), []Promise{Gone}},
		{"counts wrongly", boasting(func(r *cut.Receipt) { r.Endpoints.Dead-- }), []Promise{Proven}},
		{"denies a leak", boasting(func(r *cut.Receipt) { r.Fence.LeakedPackets = 1 }), []Promise{Proven}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := Run(t.Context(), plain(), Tools{Cut: c.cut})
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range r.Broken {
				t.Logf("seen, as it should be: %s", b)
			}
			for _, p := range c.broken {
				if !r.broke(p) {
					t.Errorf("the promise %q is not seen broken", p)
				}
			}
		})
	}
}
