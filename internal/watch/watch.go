// Package watch prints what happens to flows, a line an event, and which of them
// come back.
package watch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/returns"
	"flowcut/internal/show"
	"flowcut/selector"
)

// Options say what is watched, and how it is shown.
type Options struct {
	NetNS    int // descriptor of a network namespace; 0: the caller's own
	Selector selector.Selector
	Format   string // text, json or conntrack; "" is text
	Colour   bool   // of text, for a terminal

	Out io.Writer // the lines
	Err io.Writer // what is said beside them

	For   time.Duration // how long; 0: until the context ends
	Count int           // how many events; 0: no limit

	room int // for tests: for events that wait, as conntrack.EventConfig.RecvBuffer
}

// Run prints events until the context ends, which is no error, with those that
// had happened before; or until For or Count is reached.
//
// Needs CAP_NET_ADMIN. ready, unless nil, is called once the kernel queues events;
// its error ends the watch.
func Run(ctx context.Context, o Options, ready func() error) (err error) {
	c, err := conntrack.Dial(conntrack.Config{NetNS: o.NetNS})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	w := newWatcher(o)
	l, err := c.Listen(conntrack.EventConfig{SyncAtStart: true, SyncAfterOverrun: true, RecvBuffer: o.room, Idle: w.idle})
	if err != nil {
		return err
	}
	if ready != nil {
		if err := ready(); err != nil {
			return err
		}
	}
	if o.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.For)
		defer cancel()
	}
	if err := w.all(ctx, l); err != nil {
		return err
	}
	w.say("%s, %s", show.Count(w.events, "event"), show.Count(w.returns, "return"))
	return w.out.Flush()
}

// watcher is one run.
type watcher struct {
	o       Options
	book    *returns.Book
	out     *bufio.Writer
	line    []byte
	verdict returns.Verdict // here, or each would be allocated
	render  func(b []byte, e *conntrack.Event, v *returns.Verdict) []byte
	listing bool // of the table, by the stream
	listed  bool // a first time
	last    bool // no event is waited for any more
	events  int  // printed
	returns int  // of those, the ones that tell of a new return
}

func newWatcher(o Options) *watcher {
	w := &watcher{o: o, book: returns.New(o.Selector.Match, 0), out: bufio.NewWriterSize(o.Out, 64<<10), listing: true}
	switch o.Format {
	case "json":
		w.render = AppendJSON
	case "conntrack":
		w.render = appendConntrack
	default:
		w.render = text{o.Colour}.append
	}
	return w
}

func (w *watcher) say(format string, args ...any) {
	fmt.Fprintf(w.o.Err, "flowcut: "+format+"\n", args...)
}

// Ends of the stream that are no failures.
var (
	errNoMore = errors.New("no more events")
	errEnough = errors.New("enough events")
)

// lastEvents bounds the time for events that had happened when the watch ended.
const lastEvents = 500 * time.Millisecond

// all prints events until the context ends, and then those that had happened.
func (w *watcher) all(ctx context.Context, l *conntrack.Listener) error {
	err := w.some(ctx, l)
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) && !w.listing {
		w.last = true
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastEvents)
		defer cancel()
		err = w.some(late, l)
	}
	if errors.Is(err, errNoMore) || errors.Is(err, errEnough) || errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return w.out.Flush()
	}
	return err
}

// some prints events until there is an error.
func (w *watcher) some(ctx context.Context, l *conntrack.Listener) error {
	for e, err := range l.Events(ctx) {
		if err == nil {
			err = w.take(e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// idle is called when no event is left.
func (w *watcher) idle() error {
	if w.last {
		return errNoMore
	}
	return w.out.Flush()
}

// take prints an event, if it is meant and news.
func (w *watcher) take(e *conntrack.Event) error {
	w.verdict = w.book.Apply(e)
	v := &w.verdict
	switch {
	case e.Kind == conntrack.EventSyncBegin:
		w.listing = true
	case e.Kind == conntrack.EventSynced:
		return w.synced()
	case e.Kind == conntrack.EventOverrun:
		return w.overrun(v)
	case !v.Meant, e.Kind == conntrack.EventSync && !v.First:
	case e.Kind == conntrack.EventNew && v.Returned && !v.First: // the listing was faster
	default:
		return w.print(e, v)
	}
	return nil
}

// synced says that a listing is complete.
func (w *watcher) synced() error {
	w.listing = false
	if w.listed {
		w.say("the table has been listed again")
	} else {
		w.say("watching, of the selected flows %d are there", w.book.Len())
	}
	w.listed = true
	return w.out.Flush()
}

// overrun says that events were lost.
func (w *watcher) overrun(v *returns.Verdict) error {
	w.say("events were lost: they came faster than they were taken; the table will be listed again")
	if w.o.Format != "json" {
		return nil
	}
	_, err := w.out.Write(append(appendBegin(w.line[:0], "overrun", v), '}', '\n'))
	return err
}

// print writes the line of an event.
func (w *watcher) print(e *conntrack.Event, v *returns.Verdict) error {
	w.line = append(w.render(w.line[:0], e, v), '\n')
	if _, err := w.out.Write(w.line); err != nil {
		return err
	}
	w.events++
	if v.First {
		w.returns++
	}
	if w.events == w.o.Count {
		return errEnough
	}
	if w.listing { // then idle is not called
		return w.out.Flush()
	}
	return nil
}
