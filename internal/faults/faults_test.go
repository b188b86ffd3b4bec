//go:build linux && amd64

package faults

import (
	"fmt"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

// program is the built program.
var program string

func TestMain(m *testing.M) { labtest.Main(m, &program) }

// Some of what `make faults` tries, others each time; not what takes seconds.
func TestDrawnFaults(t *testing.T) {
	const enough = 6
	seed := uint64(time.Now().UnixNano())
	tried := 0
	r := Runner{Program: program, Seed: seed, Count: enough, Variants: []Variant{Variants[seed%uint64(len(Variants))]}, Records: 1, Skip: Case.slow}
	r.Each = func(x *Result) {
		t.Logf("%s: %s", x.Case, x)
		if x.Injected {
			tried++
		}
		for _, b := range x.Bad {
			t.Errorf("seed %d, make faults CASE=%s: %s\n%s%s\nand then: %s", seed, x.Case, b, x.Stdout, x.Stderr, x.Again)
		}
	}
	total, err := r.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("seed %d: %d of %d cases", seed, tried, total)
	if tried == 0 || total < 500 {
		t.Errorf("%d cases of %d: the test does not test", tried, total)
	}
}

func world(t *testing.T) *World {
	t.Helper()
	w, err := NewWorld(t.Context(), program)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// Faults arrive where they are meant to, as the program itself tells.
func TestFaultsArrive(t *testing.T) {
	w := world(t)
	v := Variants[0]
	made, err := w.Record(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	at := func(end string) string { // functions in between may change
		match := regexp.MustCompile(end + "$")
		for _, site := range slices.Sorted(maps.Keys(made)) {
			if match.MatchString(site) {
				return site
			}
		}
		t.Fatalf("no site ends in %s", end)
		return ""
	}
	for _, c := range []struct {
		site   string
		fault  Fault
		ending Ending
		words  string
	}{
		{"netns.NS.Do/setns", Perm, Refused, "operation not permitted"},
		{"Fence.Lift/.*rtnl.Conn.receive/recvfrom", Short, NotProven, "is no message"},
		// The fence has stood then, and may have reset somebody: that is no refusal.
		{"Fence.Raise/nft.*rtnl.Conn.receive/recvfrom", Perm, NotProven, "operation not permitted"},
		{"cut.newListeners/openat", NoMem, Proven, "could not be seen"},
		// Who was stopped for a moment does not take what is old for new.
		{"cut.cutting.revive/.*rtnl.Conn.receive/recvfrom", Stop, Proven, ""},
		{"Fence.Raise/nft.*rtnl.Conn.send/sendto", Kill, Killed, ""},
	} {
		r, err := w.Run(t.Context(), Case{v.Name, Point{at(c.site), 1}, c.fault})
		if err != nil {
			t.Fatal(err)
		}
		if !r.Injected || r.Ending != c.ending || !strings.Contains(r.Stdout+r.Stderr, c.words) || len(r.Bad) > 0 {
			t.Errorf("%s: %s\n%s%s", r.Case, r, r.Stdout, r.Stderr)
		}
	}
}

// What a run claims falsely is seen, and what it leaves behind or does to others.
func TestChecksSee(t *testing.T) {
	w, ctx, v := world(t), t.Context(), Variants[0]
	w.soon = 300 * time.Millisecond // nothing is to be seen late here
	sees := func(r *Result, words ...string) {
		t.Helper()
		all := strings.Join(r.Bad, "\n")
		for _, want := range words {
			if !strings.Contains(all, want) {
				t.Errorf("not seen: %s, only:\n%s", want, all)
			}
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(w.populate(ctx, v))
	run := func(exit int, stdout, stderr string) *Result {
		r := &Result{Case: Case{Variant: v.Name, Fault: NoBufs}}
		must(w.check(ctx, r, &Outcome{Exit: exit, Stdout: []byte(stdout), Stderr: []byte(stderr)}, v))
		return r
	}
	key := w.victims[0].entry
	claim := fmt.Sprintf(`{"flow":[{"outcome":"deleted","originator":"dead",%s]}`, key.AppendJSON(nil)[1:])
	sees(run(0, `{"proven":true}`, ""), "the entry of flow idle is there", "both ends of flow talking6 live", "bytes of the flows still arrive")
	sees(run(1, `{"proven":true}`, ""), "the exit code says not proven")
	sees(run(1, `{"proven":false}`, ""), "does not say why")
	sees(run(1, claim, ""), "is said to be deleted, and is in the table", "end 0 of flow idle is said to be dead, and lives")
	sees(run(2, "", "goroutine 1"), "it crashed")
	must(w.net.Gateway.NS.Do(exec.Command("nft", "add", "table", "ip", "litter").Run))
	r := &Result{}
	must(w.rulesAsBefore(r, time.Now()))
	sees(r, "the ruleset is not as before")
	must(w.clear(ctx))
	must(w.populate(ctx, v))
	_, err := w.ct.Delete(ctx, []conntrack.Key{w.victims[0].entry.Key()}, nil)
	must(err)
	sees(run(3, "", "no"), "the entry of flow idle is gone")
	idle := w.bystanders[0].client
	idle.Close()
	must(lab.Until(ctx, "the other end is told", func() (bool, error) { return told(idle.Peer()), nil }))
	must(w.net.Gateway.Block(w.net.Clients[0].Addr6))
	udp := w.bystanders[7].client
	sent := udp.Sent.Messages()
	must(lab.Until(ctx, "something is lost", func() (bool, error) {
		return udp.Sent.Messages() > sent+10 && udp.Peer().Missing(sent+1) > 0, nil
	}))
	must(w.net.Gateway.Unblock())
	sees(&Result{Bad: w.unhurt(false)}, "bystander idle, end 1, was told EOF", "bystander udp6 lost")
}
