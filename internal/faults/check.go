//go:build linux && amd64

package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"time"

	"flowcut/conntrack"
	"flowcut/cut"
	"flowcut/internal/lab"
)

// receipt is what a run claims.
type receipt struct {
	cut.Receipt
	flows []claim
}

// claim is what a receipt says of a flow.
type claim struct {
	flow                  conntrack.Flow
	Outcome               cut.Outcome
	Originator, Responder cut.End
}

// parseReceipts reads receipts, one behind the other.
func parseReceipts(b []byte) (list []receipt, err error) {
	d := json.NewDecoder(bytes.NewReader(b))
	for {
		var raw json.RawMessage
		err := d.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return list, err
		}
		var r receipt
		var lines struct{ Flow []json.RawMessage }
		if err := errors.Join(json.Unmarshal(raw, &r.Receipt), json.Unmarshal(raw, &lines)); err != nil {
			return list, err
		}
		for _, line := range lines.Flow {
			var c claim
			if err := errors.Join(json.Unmarshal(line, &c), json.Unmarshal(line, &c.flow)); err != nil {
				return list, err
			}
			r.flows = append(r.flows, c)
		}
		list = append(list, r)
	}
}

// checkReceipts holds exit code and receipts to what is so.
func (w *World) checkReceipts(ctx context.Context, r *Result, receipts []receipt, v Variant) error {
	proven := len(receipts) > 0
	why := r.Stderr
	for _, x := range receipts {
		proven = proven && x.Proven
		why += x.Reason
		r.untold = r.untold || !x.Final && x.Endpoints.Silent > 0
	}
	if r.Ending == Refused {
		if len(receipts) > 0 {
			r.bad("refused, and there is a receipt")
		}
		return w.checkUnchanged(ctx, r)
	}
	if proven != (r.Ending == Proven) {
		r.bad("the exit code says %s, the receipt proven=%v", r.Ending, proven)
	}
	if !proven && why == "" {
		r.bad("it does not say why")
	}
	entries, err := w.entries(ctx)
	if err != nil {
		return err
	}
	for _, x := range receipts {
		for _, c := range x.flows {
			w.checkClaim(r, c, entries)
		}
	}
	if !proven && r.Case.Fault == Stop && !r.Case.long() {
		r.bad("it was stopped for a moment alone, and could not prove: %s", why)
	}
	if proven && r.Injected && r.Case.loses() {
		r.bad("it says proven, and a message was lost")
	}
	if proven {
		left, err := w.left(ctx, v)
		for _, what := range left {
			r.bad("it says proven, and %s", what)
		}
		return err
	}
	return nil
}

// makesDo are places where what is lost is asked for again, or taken for the worst:
// batches are repeated one by one, zones, expectations and flowtables that cannot be
// seen are there, ends are asked again by another way, and the log and the caller's
// own sessions prove nothing. What a goroutine receives ahead may be of any of
// these: its stack does not tell. And whether there is an entry the first one tells.
var makesDo = regexp.MustCompile(`conntrack\.Client\.Has/|conntrack\.batch\.send/|cut\.cutting\.(prepare|noteOffloads/detour\.Flowtables)/|/probe\.|^cli\.journal/|^self\.|^conntrack\.prefetch\.`)

// loses tells whether the fault loses a message that is needed for the proof.
func (c Case) loses() bool {
	k, _ := syscallOf(c.Site)
	switch c.Fault {
	case NoBufs, Short, Truncated:
		return (k.form == recvfrom || k.form == recvmsg || k.form == recvmmsg) && !makesDo.MatchString(c.Site)
	}
	return false
}

// checkClaim holds what is said of a flow to what is so.
func (w *World) checkClaim(r *Result, c claim, entries []*conntrack.Flow) {
	there := false
	for _, f := range entries {
		there = there || f.Key() == c.flow.Key()
	}
	if there && c.Outcome != cut.Remaining && c.Outcome != cut.Spared {
		r.bad("%v is said to be %s, and is in the table", c.flow.Orig, c.Outcome)
	}
	for _, v := range w.victims {
		if !v.tcp || v.entry.Key() != c.flow.Key() {
			continue
		}
		for i, said := range []cut.End{c.Originator, c.Responder} {
			e := v.ends()[i]
			if said == cut.EndDead && until(w.soon/6, "it is dead", func() (bool, error) { return told(e), nil }) != nil {
				r.bad("end %d of flow %s is said to be dead, and lives", i, v.name)
			}
		}
	}
}

// checkUnchanged looks whether nothing was changed.
func (w *World) checkUnchanged(ctx context.Context, r *Result) error {
	entries, err := w.entries(ctx)
	if err != nil {
		return err
	}
	for _, v := range w.victims {
		there := false
		for _, f := range entries {
			there = there || f.Key() == v.entry.Key()
		}
		if !there {
			r.bad("it says that nothing was changed, and the entry of flow %s is gone", v.name)
		}
		for i, e := range v.ends() {
			if told(e) && v.tcp {
				r.bad("it says that nothing was changed, and end %d of flow %s was told %v", i, v.name, e.Told().Err)
			}
		}
	}
	return nil
}

// left tells what is left of the flows that were cut.
func (w *World) left(ctx context.Context, v Variant) (bad []string, err error) {
	entries, err := w.entries(ctx)
	if err != nil {
		return nil, err
	}
	for _, f := range entries {
		if f.Orig.DstPort == port && f.Orig.Src.Is4() && f.Orig.Src.As4()[0] == 10 {
			bad = append(bad, fmt.Sprintf("there is %v", f.Orig))
			break
		}
	}
	for _, x := range w.victims {
		for _, f := range entries {
			if f.Key() == x.entry.Key() {
				bad = append(bad, fmt.Sprintf("the entry of flow %s is there", x.name))
			} else if v.crowd == 0 && x.tcp && x.on(f) {
				bad = append(bad, fmt.Sprintf("flow %s has an entry again: %v", x.name, f.Orig))
			}
		}
		if v.crowd == 0 && x.tcp && until(w.soon/6, "an end is dead", x.dead) != nil {
			bad = append(bad, fmt.Sprintf("both ends of flow %s live", x.name))
		}
	}
	if v.crowd == 0 && !w.silent() {
		bad = append(bad, "bytes of the flows still arrive")
	}
	return bad, nil
}

// on tells whether an entry is on the victim's tuples, from either end.
func (v *victim) on(f *conntrack.Flow) bool {
	o, r := v.entry.Orig, v.entry.Reply
	return f.Orig == o || f.Orig == r || f.Reply == o || f.Reply == r
}

// dead tells whether at least one end of a connection is.
func (v *victim) dead() (bool, error) {
	ends := v.ends()
	return told(ends[0]) || told(ends[1]), nil
}

// silent tells whether nothing arrives any more. What had arrived before may
// still be read for a moment.
func (w *World) silent() bool {
	const still = 25 * time.Millisecond
	var ends lab.Ends
	for _, v := range w.victims {
		e := v.ends()
		ends = append(ends, e[0], e[1])
	}
	was, since := ends.Received(), time.Now()
	return until(w.soon/6, "nothing arrives", func() (bool, error) {
		if now := ends.Received(); now != was {
			was, since = now, time.Now()
		}
		return time.Since(since) >= still, nil
	}) == nil
}

// newcomer makes a new connection that the ruleset admits.
func (w *World) newcomer(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	ends, err := w.net.Clients[0].Dial(ctx, lab.Streams{Kind: lab.Idle, To: w.to(others, false)})
	if err != nil {
		return fmt.Errorf("a new connection that nobody means: %w", err)
	}
	ends.Close()
	return nil
}
