package top

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"

	"flowcut/conntrack"
	"flowcut/cut"
	"flowcut/internal/netns"
	"flowcut/internal/sysctl"
	"flowcut/selector"
)

// Config says what [Run] shows. All but Warning is needed.
type Config struct {
	NetNS  int // descriptor of the network namespace, 0 for the thread's
	Filter selector.Selector
	View   View
	Sort   Sort
	Every  time.Duration // between two looks at the rows that are shown, and two walks

	// Plan and Cut are a dry run and a cut of the flows that any selector means.
	// Cut calls progress when a step begins.
	Plan func(ctx context.Context, list []selector.Selector) (*cut.Plan, error)
	Cut  func(ctx context.Context, list []selector.Selector, progress func(cut.Step)) []cut.Result

	Warning string // is shown until a key is typed

	Input, Output *os.File // a terminal
}

// The memory that the collector of garbage is to keep to.
const (
	gcPercent   = 50
	memoryLimit = 110 << 20
)

// Run shows the flows on a terminal until a key ends it, or the context: then its
// cause is the error. The terminal is as before when it returns, also after a panic.
// The results of a cut that were not seen any more are written to Output.
//
// Needs CAP_NET_ADMIN, and what a cut needs to cut.
func Run(ctx context.Context, o Config) error {
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit(memoryLimit)
	client, err := conntrack.Dial(conntrack.Config{NetNS: o.NetNS})
	if err != nil {
		return err
	}
	if _, err = client.Count(ctx); err != nil { // before the screen is cleared
		return errors.Join(err, client.Close())
	}
	inner, cancel := context.WithCancelCause(ctx)
	t := NewTable(o.Filter, time.Now)
	s := &screen{ctx: inner}
	m := newModel(inner, t, o, hands{
		refresh:  func(ctx context.Context, rows []*Row) error { return t.Refresh(ctx, client, rows) },
		plan:     o.Plan,
		cut:      o.Cut,
		settings: func() (settings, error) { return readSettings(o.NetNS) },
		switchOn: func() error { return switchOn(o.NetNS) },
	})
	m.run, m.send = s.run, func(msg tea.Msg) { s.program.Send(msg) }
	s.program = tea.NewProgram(m, tea.WithContext(inner), tea.WithInput(o.Input), tea.WithOutput(o.Output), tea.WithoutSignalHandler())
	s.run(func() tea.Msg { return ended(t.Walk(inner, client, o.Every)) })
	s.run(func() tea.Msg { return ended(t.Hear(inner, client)) })
	_, err = s.program.Run()
	cancel(errOver)
	s.all.Wait() // a cut under way lifts its fence
	if err == nil || context.Cause(ctx) != nil {
		err = errors.Join(m.failed, context.Cause(ctx))
	}
	if j := m.job; j != nil && j.results != nil && !j.shown {
		_, werr := o.Output.Write(appendResults(nil, j.results, false))
		err = errors.Join(err, werr)
	}
	return errors.Join(err, client.Close())
}

var errOver = errors.New("the screen is closed")

// ended is the message of what has ended before its time, or none.
func ended(err error) tea.Msg {
	if err == nil {
		return nil
	}
	return failure{err}
}

// screen is the program and what runs beside it.
type screen struct {
	ctx     context.Context
	program *tea.Program
	all     sync.WaitGroup
}

// run runs f beside the program, which takes what f returns. A panic ends the program,
// so that the terminal is put in order.
func (s *screen) run(f func() tea.Msg) {
	s.all.Go(func() {
		defer func() {
			if r := recover(); r != nil {
				s.program.Send(failure{fmt.Errorf("panic: %v\n%s", r, debug.Stack())})
			}
		}()
		msg := f()
		if j, ok := msg.(finished); ok {
			j.job.results = j.results // whether or not somebody still looks
		}
		if msg != nil {
			s.program.Send(msg)
		}
	})
}

// newModel returns the screen as it begins.
func newModel(ctx context.Context, t *Table, o Config, h hands) *model {
	text := o.Filter.String()
	return &model{
		table: t, hands: h, ctx: ctx, every: o.Every, view: o.View, sort: o.Sort, marks: map[any]mark{},
		filter: newLine(text), good: text, note: o.Warning, snap: t.Look(o.View, o.Sort),
	}
}

// The settings that decide what is counted.
const (
	acct      = "net.netfilter.nf_conntrack_acct"
	timestamp = "net.netfilter.nf_conntrack_timestamp"
)

func readSettings(ns int) (s settings, err error) {
	err = netns.DoFd(ns, func() (err error) {
		if s.acct, err = sysctl.Get(acct); err != nil {
			return err
		}
		s.timestamp, err = sysctl.Get(timestamp)
		return err
	})
	return s, err
}

// switchOn sets those that the kernel has.
func switchOn(ns int) error {
	s, err := readSettings(ns)
	if err != nil {
		return err
	}
	return netns.DoFd(ns, func() error {
		var errs []error
		if s.acct == 0 {
			errs = append(errs, sysctl.Set(acct, 1))
		}
		if s.timestamp == 0 {
			errs = append(errs, sysctl.Set(timestamp, 1))
		}
		return errors.Join(errs...)
	})
}

// Once writes what the screen would show, as text: at most n rows. Where the kernel
// counts it walks through the table twice, every apart, for the rates.
func Once(ctx context.Context, o Config, w io.Writer, n int) error {
	debug.SetGCPercent(gcPercent)
	client, err := conntrack.Dial(conntrack.Config{NetNS: o.NetNS})
	if err != nil {
		return err
	}
	t := NewTable(o.Filter, time.Now)
	err = t.readTwice(ctx, client, o.Every)
	if err == nil {
		err = writeText(w, t.Look(o.View, o.Sort), o.Filter.String(), n)
	}
	return errors.Join(err, client.Close())
}

func (t *Table) readTwice(ctx context.Context, c *conntrack.Client, every time.Duration) error {
	b := newBudget(time.Now, spent)
	b.left = 1000 // nobody is to wait for the sake of others
	began := time.Now()
	if _, err := t.walkOnce(ctx, c, b); err != nil || !t.Look(Flows, Rate).Counted {
		return err
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(every - time.Since(began)): // time itself is meant
	}
	_, err := t.walkOnce(ctx, c, b)
	return err
}
