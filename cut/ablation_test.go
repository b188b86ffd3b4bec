//go:build linux

package cut

import (
	"fmt"
	"testing"
	"time"

	"flowcut/internal/fence"
	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

// recorder takes down errors, where a test is to fail.
type recorder struct {
	testing.TB
	errors []string
}

func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

// streams cuts loaded streams and idle connections of a DMZ that was turned off.
func streams(t testing.TB, o Options) {
	net := dmz(t, lab.Config{})
	idle := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: at(net, port, false), Count: 50})
	busy := loaded(t, net.Clients[0].Host, lab.Streams{Kind: lab.Download, To: at(net, port, false), Count: 4})
	off(t, net)
	o.Selector = toServer(t, net)
	r := runCut(t, net, o)
	exit := time.Now()
	wantProven(t, r)
	wantReset(t, both(idle, busy))
	wantSilence(t, both(idle, busy), exit, time.Second)
	wantNoEntries(t, net)
}

// speakers cuts connections whose server speaks now and then, without asking
// any end: what the fence lets go must be stopped by the guard.
func speakers(t testing.TB, o Options) {
	net := dmz(t, lab.Config{})
	ends := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Speak, To: at(net, port, false), Count: 1000, Interval: 300 * time.Millisecond})
	off(t, net)
	o.Selector = toServer(t, net)
	o.NoKick = true
	r := runCut(t, net, o)
	exit := time.Now()
	if !r.Proven {
		t.Errorf("not proven: %s", r.Reason)
	}
	wantSilence(t, ends, exit, time.Second)
	wantNoEntries(t, net)
}

// Each part of a cut is needed: without it a scenario that holds with it fails.
func TestEachPartIsNeeded(t *testing.T) {
	for _, c := range []struct {
		name     string
		scenario func(testing.TB, Options)
		options  Options
	}{
		{"streams without the fence", streams, Options{without: fence.PartFence}},
		{"speakers without the fence", speakers, Options{without: fence.PartFence}},
		{"speakers without the guard", speakers, Options{without: fence.PartGuard}},
		{"streams without kicks", streams, Options{NoKick: true}},
		{"streams without fence and kicks", streams, Options{NoKick: true, without: fence.PartFence}},
		{"streams without guard and kicks", streams, Options{NoKick: true, without: fence.PartGuard}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &recorder{TB: t}
			c.scenario(r, c.options)
			if len(r.errors) == 0 {
				t.Fatal("all promises are kept")
			}
			for _, e := range r.errors {
				t.Logf("broken as it should be: %s", e)
			}
		})
	}
	t.Run("speakers with all parts", func(t *testing.T) { speakers(t, Options{}) })
	t.Run("streams with all parts", func(t *testing.T) { streams(t, Options{}) })
}
