package serve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"flowcut/conntrack"
	"flowcut/cut"
	"flowcut/internal/lab/labtest"
	"flowcut/internal/netns"
)

// rules is what nft(8) shows of a namespace.
func rules(t *testing.T, ns *netns.NS) (text string) {
	t.Helper()
	err := ns.Do(func() error {
		b, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
		text = string(b)
		return err
	})
	if err != nil {
		t.Fatalf("nft: %v: %s", err, text)
	}
	return text
}

// A cut that is under way when the server ends leaves no rule, and its receipt is
// out before Run returns, also when that takes longer than clients are waited for.
func TestEndDuringCut(t *testing.T) {
	for _, slow := range []bool{false, true} {
		t.Run(fmt.Sprintf("slow %v", slow), func(t *testing.T) { endDuringCut(t, slow) })
	}
}

func endDuringCut(t *testing.T, slow bool) {
	ns := scratch(t)
	gone := make(chan struct{}) // the client
	var s *serving
	logged := false
	s = start(t, ns, func(cfg *Config) {
		cfg.Cut = cut.Options{Settle: cut.None, Hold: time.Minute, Timeout: 2 * time.Minute}
		cfg.Log = func(*cut.Receipt, string) {
			if slow {
				<-gone
				const enough = 200 * time.Millisecond
				select { // time itself is meant: Run is not to return
				case <-s.ended:
				case <-time.After(enough):
				}
			}
			logged = true
		}
	})
	maker(t, s.Server)(3)
	_, answer := s.ask(t, "/cut/plan", `{"selection":"-p udp -s 203.0.113.9"}`, nil)
	var plan planView
	if err := json.Unmarshal([]byte(answer), &plan); err != nil || plan.Matched == 0 {
		t.Fatalf("a dry run: %s", answer)
	}
	var made cutView
	var err error
	go func() {
		defer close(gone)
		var r *http.Request
		if r, err = http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/cut", strings.NewReader(fmt.Sprintf(`{"plan":%q}`, plan.Plan))); err != nil {
			return
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", "Bearer "+secret)
		var got *http.Response
		if got, err = s.client.Do(r); err == nil {
			err = json.NewDecoder(got.Body).Decode(&made)
			_ = got.Body.Close()
		}
	}()
	labtest.Until(t, "the fence stands", func() bool { return rules(t, ns) != "" })
	s.stop()
	<-s.ended
	if !logged {
		t.Error("Run has returned before the receipt was out")
	}
	if left := rules(t, ns); left != "" {
		t.Errorf("rules are left:\n%s", left)
	}
	<-gone
	if !slow && (err != nil || !strings.Contains(made.Error, "context canceled") || made.Receipt.Proven) {
		t.Errorf("the answer: %+v, %v", made, err)
	}
}

// What ends without having been told to is an error, so that systemd starts it again.
func TestEndByItself(t *testing.T) {
	s, err := New(Config{Listen: "127.0.0.1:0", NetNS: scratch(t).Fd(), Events: true, Warn: func(string) {}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ct.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); !errors.Is(err, conntrack.ErrClosed) {
		t.Errorf("Run: %v", err)
	}
	if err := s.Close(); err != nil && !errors.Is(err, conntrack.ErrClosed) {
		t.Error(err)
	}
}

// begin runs what counts events until the test ends.
func begin(t *testing.T, s *Server) (end func()) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.watch(ctx) }()
	return func() {
		t.Helper()
		stop()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}
