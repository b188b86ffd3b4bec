package top

import (
	"context"
	"time"
)

// What the program may take of one processor, in parts of it.
const (
	share     = 0.18 // in the long run, with whatever it does
	calmShare = 0.14 // while it walks through a table that is shown already
	saved     = 3.0  // seconds that it may take at once, if it took less before
)

// budget keeps a walk from taking more of the processor than it should. What the
// whole process takes counts.
type budget struct {
	clock func() time.Time
	spent func() time.Duration // by the process, since it began

	left     float64 // seconds that may be taken at once
	at       time.Time
	was      time.Duration
	walkAt   time.Time
	walkWas  time.Duration
	patience time.Duration // the longest pause, after which one looks again
}

func newBudget(clock func() time.Time, spent func() time.Duration) *budget {
	return &budget{clock: clock, spent: spent, left: saved, at: clock(), was: spent(), patience: 50 * time.Millisecond}
}

// begin notes that a walk begins.
func (b *budget) begin() { b.walkAt, b.walkWas = b.clock(), b.spent() }

// due returns how long a walk should pause now. One that somebody waits for may use
// up what was saved.
func (b *budget) due(waited bool) time.Duration {
	now, spent := b.clock(), b.spent()
	b.left = min(saved, b.left+now.Sub(b.at).Seconds()*share-(spent-b.was).Seconds())
	b.at, b.was = now, spent
	pause := -b.left / share
	if !waited {
		pause = max(pause, (spent-b.walkWas).Seconds()/calmShare-now.Sub(b.walkAt).Seconds())
	}
	return time.Duration(max(0, pause) * float64(time.Second))
}

// rest pauses a walk as long as is due. It returns early when stop says so, and the
// context's cause when that ends.
func (b *budget) rest(ctx context.Context, waited bool, stop func() bool) error {
	for !stop() {
		pause := b.due(waited)
		if pause < time.Millisecond {
			break
		}
		select { // time itself is meant
		case <-ctx.Done():
		case <-time.After(min(pause, b.patience)): // time itself is meant: the processor is left to others
		}
		if ctx.Err() != nil {
			break
		}
	}
	return context.Cause(ctx)
}
