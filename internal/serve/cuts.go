//go:build linux

package serve

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"flowcut/cut"
	"flowcut/internal/oneline"
	"flowcut/internal/receipts"
	"flowcut/internal/self"
	"flowcut/internal/show"
	"flowcut/selector"
)

// cuts makes cuts for the page: first a dry run, then the cut that it has shown. One
// is under way at a time.
type cuts struct {
	token token
	o     cut.Options
	busy  sync.Mutex // held by what is under way

	mu    sync.Mutex
	plans map[string]planned
}

// planned is a dry run that somebody may make true.
type planned struct {
	selector selector.Selector
	matched  int
	at       time.Time
}

// Dry runs that are remembered: so many, and for so long.
const (
	mostPlans = 16
	validFor  = 5 * time.Minute
)

func newCuts(cfg Config) *cuts {
	c := &cuts{token: newToken(cfg.Token), o: cfg.Cut, plans: map[string]planned{}}
	c.o.NetNS = cfg.NetNS
	return c
}

// failure is the answer to what was refused or failed.
type failure struct {
	Error string `json:"error"`
	Hint  string `json:"hint,omitempty"`
}

// planView is the answer to a dry run.
type planView struct {
	Plan     string   `json:"plan"` // what names it when it is to be made true
	Selector string   `json:"selector"`
	Matched  int      `json:"matched"`
	Words    []string `json:"words"`
	Header   string   `json:"header"`
	Flows    []string `json:"flows"` // the first
	Rules    string   `json:"rules"`
}

// plan answers to POST /cut/plan: what a cut would do.
func (c *cuts) plan(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	var ask struct {
		Selection string `json:"selection"`
	}
	if !read(w, r, &ask) {
		return
	}
	s, err := parse(ask.Selection)
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	if !c.begin(w) {
		return
	}
	defer c.busy.Unlock()
	o, words := c.options(r, s)
	p, err := cut.NewPlan(ctx, o)
	if err != nil {
		fail(w, http.StatusInternalServerError, err)
		return
	}
	v := planView{Selector: s.String(), Matched: p.Flows.Matched, Rules: p.Rules, Header: show.Header, Flows: []string{}}
	v.Plan = c.remember(planned{s, p.Flows.Matched, time.Now()})
	v.Words = append(planWords(p), words...)
	const most = 100
	for _, f := range p.Flow[:min(most, len(p.Flow))] {
		v.Flows = append(v.Flows, oneline.Whole(string(show.AppendRow(nil, f, time.Now()))))
	}
	if n := len(p.Flow) - most; n > 0 {
		v.Words = append(v.Words, fmt.Sprintf("The list has the first %d.", most))
	}
	answer(w, http.StatusOK, v)
}

func planWords(p *cut.Plan) []string {
	words := []string{show.Count(p.Flows.Matched, "flow") + " would be cut."}
	add := func(n int, format string) {
		if n > 0 {
			words = append(words, fmt.Sprintf(format, n))
		}
	}
	add(p.Flows.Related, "Of these, %d are expected by another.")
	add(p.Flows.Mirrored, "Of these, %d were picked up earlier in the other direction.")
	add(p.Flows.Suspects, "%d more look like mirrors and would be left alone.")
	add(p.Flows.Spared, "%d more are selected and would be spared.")
	return words
}

// cutView is the answer to a cut.
type cutView struct {
	Receipt receiptView `json:"receipt"`
	Error   string      `json:"error,omitempty"` // what failed after something was changed
}

// cut answers to POST /cut: it makes a dry run true. The cut goes on when the client
// goes away, and ends when the server does.
func (s *Server) cut(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	var ask struct {
		Plan string `json:"plan"`
	}
	if !read(w, r, &ask) {
		return
	}
	c := s.cuts
	if !c.begin(w) {
		return
	}
	defer c.busy.Unlock()
	p, ok := c.take(ask.Plan)
	if !ok {
		fail(w, http.StatusConflict, errors.New("that dry run is too old, was made true already, or never was: make it again"))
		return
	}
	o, _ := c.options(r, p.selector)
	o.Start = time.Now()
	o.Max = bound(p.matched)
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(cmp.Or(o.Timeout, cut.DefaultTimeout) + timeForAll))
	receipt, err := cut.Run(ctx, o)
	if receipt == nil {
		if tooMany, ok := errors.AsType[*cut.TooManyError](err); ok {
			err = fmt.Errorf("%s match by now, the dry run had %d: nothing was changed, make it again", show.Count(tooMany.Found, "flow"), p.matched)
			fail(w, http.StatusConflict, err)
			return
		}
		fail(w, http.StatusInternalServerError, err)
		return
	}
	note := receipts.NewNote("the page, from "+r.RemoteAddr, receipt)
	s.note(note)
	if s.cfg.Log != nil {
		s.cfg.Log(receipt, r.RemoteAddr)
	}
	v := cutView{Receipt: viewReceipt(note, time.Now())}
	if err != nil {
		v.Error = oneline.Text(err.Error())
	}
	answer(w, http.StatusOK, v)
}

// bound is how many flows may match where a dry run had so many: more are not what was
// shown.
func bound(matched int) int { return matched + max(10, matched/4) }

// begin refuses what would run beside another.
func (c *cuts) begin(w http.ResponseWriter) bool {
	if c.busy.TryLock() {
		return true
	}
	fail(w, http.StatusConflict, errors.New("another cut or dry run is under way: try again when it is done"))
	return false
}

// options returns those for a request, and what there is to say of whom they spare:
// the connections that the caller and whoever started the server work through.
func (c *cuts) options(r *http.Request, s selector.Selector) (o cut.Options, words []string) {
	o = c.o
	o.Selector = s
	own, hidden := self.Sessions()
	o.Spare = own
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if local, ok := localAddr(r); ok && err == nil {
		through, unseen := self.Through(netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port()), local)
		o.Spare, hidden = append(o.Spare, through...), hidden || unseen
	} else { // a Unix socket says nothing of its peer
		hidden = true
	}
	if hidden {
		words = append(words, "Which connection you work through cannot be seen from here: if it is one that is selected, it is cut, too.")
	}
	return o, words
}

// remember keeps a dry run and returns its name.
func (c *cuts) remember(p planned) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, old := range c.plans {
		if time.Since(old.at) > validFor {
			delete(c.plans, name)
		}
	}
	for len(c.plans) >= mostPlans {
		oldest := ""
		for name := range c.plans {
			if oldest == "" || c.plans[name].at.Before(c.plans[oldest].at) {
				oldest = name
			}
		}
		delete(c.plans, oldest)
	}
	name := rand.Text()
	c.plans[name] = p
	return name
}

// take returns a dry run, once.
func (c *cuts) take(name string) (planned, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.plans[name]
	delete(c.plans, name)
	return p, ok && time.Since(p.at) <= validFor
}

// parse reads a selection as it is typed behind "flowcut cut". Files and sets are not
// read for others, and everything is not cut.
func parse(s string) (selector.Selector, error) {
	if strings.Contains(s, "@") {
		return selector.Selector{}, &selector.Error{Problem: "@ is not possible here", Hint: "write the addresses, or use the command line"}
	}
	var flags selector.Flags
	x, err := flags.Parse(strings.Fields(s), nil)
	if err == nil && !x.Narrows() {
		err = &selector.Error{Problem: "nothing narrows the selection", Hint: "add an address, a port or the like"}
	}
	return x, err
}

// read reads a request's JSON.
func read(w http.ResponseWriter, r *http.Request, into any) bool {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil && d.More() {
		err = errors.New("more than one value")
	}
	if tooLong, ok := errors.AsType[*http.MaxBytesError](err); ok {
		fail(w, http.StatusRequestEntityTooLarge, fmt.Errorf("the request is longer than %d bytes", tooLong.Limit))
		return false
	}
	if err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("read the request: %w", err))
	}
	return err == nil
}

// fail answers with an error.
func fail(w http.ResponseWriter, code int, err error) {
	f := failure{Error: oneline.Text(err.Error())}
	if bad, ok := errors.AsType[*selector.Error](err); ok {
		f = failure{Error: oneline.Text(bad.What()), Hint: bad.Hint}
	}
	answer(w, code, f)
}

// answer answers with JSON.
func answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // who does not read it is gone
}
