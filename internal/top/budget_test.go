package top

import (
	"context"
	"errors"
	"testing"
	"time"
)

// machine is a clock, and a process that takes a whole processor while it works.
type machine struct {
	now   time.Time
	spent time.Duration
}

func (m *machine) budget() *budget {
	return newBudget(func() time.Time { return m.now }, func() time.Duration { return m.spent })
}

// walk does work, a chunk at a time, with the pauses that are due.
func (m *machine) walk(b *budget, work time.Duration, waited bool) (took time.Duration) {
	const chunk = 3 * time.Millisecond
	began := m.now
	b.begin()
	for done := time.Duration(0); done < work; done += chunk {
		m.spent += chunk
		m.now = m.now.Add(chunk)
		m.now = m.now.Add(b.due(waited))
	}
	return m.now.Sub(began)
}

// What a walk may take of a processor is bounded in the long run, and the first one
// does not wait.
func TestBudget(t *testing.T) {
	m := &machine{now: epoch}
	b := m.budget()
	if took := m.walk(b, 2*time.Second, true); took > 2100*time.Millisecond {
		t.Errorf("the first walk of 2 s takes %v", took)
	}
	if took := m.walk(b, 2*time.Second, false); took < 14*time.Second || took > 15*time.Second {
		t.Errorf("the next takes %v, a seventh of a processor", took)
	}
	for m.now.Sub(epoch) < time.Minute {
		m.walk(b, time.Second, true) // somebody changes the filter again and again
	}
	if part := m.spent.Seconds() / m.now.Sub(epoch).Seconds(); part > 0.25 {
		t.Errorf("%.0f %% of a processor in a minute", 100*part)
	}
	m.now = m.now.Add(time.Hour)
	if took := m.walk(b, 3*time.Second, true); took > 4*time.Second {
		t.Errorf("a walk after an hour takes %v", took)
	}
}

// A rest ends with the context, and when the walk is none any more.
func TestRest(t *testing.T) {
	m := &machine{now: epoch}
	b := m.budget()
	m.spent = time.Hour
	if err := b.rest(t.Context(), true, func() bool { return true }); err != nil {
		t.Errorf("a walk that is over: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("the end")
	cancel(cause)
	if err := b.rest(ctx, true, func() bool { return false }); !errors.Is(err, cause) {
		t.Errorf("the context has ended: %v", err)
	}
}
