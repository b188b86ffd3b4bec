package personality

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
	"time"

	"flowcut/conntrack"
)

const overrun = `WARNING: We have hit ENOBUFS! We are losing events.
This message means that the current netlink socket buffer size is too small.
Please, check --buffer-size in conntrack(8) manpage.
`

// events is -E, on flows and on expectations. It goes on until a signal.
func (s *session) events(l *line) error {
	// Also where the shell has it ignored, as in the background of a script.
	ctx, stop := signal.NotifyContext(s.ctx, syscall.SIGINT)
	defer stop()
	e := eventPrinter{s: s, ctx: ctx, line: l, selection: l.selection()}
	listener, err := s.listen(l, e.idle)
	if err != nil {
		return err
	}
	document := documentConntrack
	if l.command.expect {
		document = documentExpect
	}
	err = s.begin(&l.out, document)
	if err == nil {
		err = e.printAll(listener)
	}
	return errors.Join(err, listener.Close())
}

// listen opens the stream of the events that are asked for.
func (s *session) listen(l *line, idle func() error) (*conntrack.Listener, error) {
	kinds := conntrack.EventAll
	if l.has("event-mask") {
		if kinds = l.kinds; kinds == 0 {
			return nil, usage("--event-mask names no kind of events: write NEW, UPDATES or DESTROY")
		}
	}
	cfg := conntrack.EventConfig{Flows: kinds, Family: l.family, RecvBuffer: l.room(), Idle: idle}
	if l.command.expect {
		cfg.Flows, cfg.Expectations, cfg.Family = 0, kinds, conntrack.FamilyBoth
	}
	c, err := s.dial()
	if err != nil {
		return nil, err
	}
	listener, err := c.Listen(cfg)
	if errors.Is(err, os.ErrPermission) {
		s.say("mnl_socket_bind: %s\n", cause(syscall.EPERM))
		return nil, failure("Can't open netlink socket")
	}
	if err == nil && l.has("buffer-size") {
		s.say("NOTICE: Netlink socket buffer size has been set to %d bytes.\n", listener.RecvBuffer())
	}
	return listener, operation('E', err)
}

// room returns the size of the buffer, 0 for the library's own. With -b 0 the
// kernel gives the least it can.
func (l *line) room() int {
	if l.has("buffer-size") {
		return max(1, l.buffer)
	}
	return 0
}

// eventPrinter prints the events of one run of -E.
type eventPrinter struct {
	s         *session
	ctx       context.Context // until a signal
	line      *line
	selection *selection
	programs  programs
	last      bool // no event is waited for any more
}

// lastEvents bounds the time for events that waited when the signal came.
const lastEvents = time.Second

// errNoMore ends the stream when nothing is left in it.
var errNoMore = errors.New("no more events")

// printAll prints events until a signal comes, and then those that had happened
// before.
func (p *eventPrinter) printAll(l *conntrack.Listener) error {
	err := p.printSome(p.ctx, l)
	if p.ctx.Err() == nil {
		return err
	}
	p.last = true
	p.s.ctx = context.WithoutCancel(p.s.ctx) // the signal has done its work
	ctx, cancel := context.WithTimeout(p.s.ctx, lastEvents)
	defer cancel()
	err = p.printSome(ctx, l)
	if errors.Is(err, errNoMore) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// printSome prints events until there is an error.
func (p *eventPrinter) printSome(ctx context.Context, l *conntrack.Listener) error {
	for e, err := range l.Events(ctx) {
		if err == nil {
			err = p.print(e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// idle is called when no event is left.
func (p *eventPrinter) idle() error {
	if p.last {
		return errNoMore
	}
	return p.s.flushOut()
}

// print prints an event, if it is meant.
func (p *eventPrinter) print(e *conntrack.Event) error {
	switch {
	case e.Kind == conntrack.EventOverrun:
		p.s.say("%s", overrun)
		return nil
	case e.Flow == nil && e.Expect == nil, e.Flow != nil && !p.selection.match(e.Flow):
		return nil
	}
	program := ""
	if e.PortID != 0 && !p.line.out.XML && e.Flow != nil {
		program = p.programs.name(e.PortID)
	}
	p.s.shown++
	return p.s.print(p.line.out.AppendEvent(p.s.buf[:0], e, program))
}
