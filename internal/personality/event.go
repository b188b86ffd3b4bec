package personality

import (
	"context"
	"errors"
	"os"
	"syscall"

	"flowcut/conntrack"
)

const overrun = `WARNING: We have hit ENOBUFS! We are losing events.
This message means that the current netlink socket buffer size is too small.
Please, check --buffer-size in conntrack(8) manpage.
`

// events is -E, on flows and on expectations. It goes on until a signal.
func (s *session) events(l *line) error {
	sel, err := s.choose(l)
	if err != nil {
		return err
	}
	listener, err := s.listen(l)
	if err != nil {
		return err
	}
	e := eventPrinter{s: s, line: l, selection: sel, document: documentConntrack}
	if l.command.expect {
		e.document = documentExpect
	}
	if err := s.begin(&l.out, e.document); err != nil {
		return err
	}
	for ev, err := range listener.Events(s.ctx) {
		if err != nil {
			if s.ctx.Err() == nil {
				return failure("failed to received netlink event: %s", cause(err))
			}
			break
		}
		if err := e.print(ev); err != nil {
			return errors.Join(err, listener.Close())
		}
	}
	s.ctx = context.WithoutCancel(s.ctx) // the signal has done its work
	return listener.Close()
}

// listen opens the stream of the events that are asked for.
func (s *session) listen(l *line) (*conntrack.Listener, error) {
	kinds := conntrack.EventAll
	if l.has("event-mask") {
		if kinds = l.kinds; kinds == 0 {
			return nil, usage("--event-mask names no kind of events: write NEW, UPDATES or DESTROY")
		}
	}
	cfg := conntrack.EventConfig{Flows: kinds, Family: l.family, RecvBuffer: l.buffer, Idle: s.flushOut}
	if l.command.expect {
		cfg.Flows, cfg.Expectations, cfg.Family = 0, kinds, conntrack.FamilyBoth
	}
	c, err := s.dial()
	if err != nil {
		return nil, operation('E', err)
	}
	listener, err := c.Listen(cfg)
	if errors.Is(err, os.ErrPermission) {
		s.say("mnl_socket_bind: %s\n", cause(syscall.EPERM))
		return nil, failure("Can't open netlink socket")
	}
	if err == nil && l.has("buffer-size") {
		s.say("NOTICE: Netlink socket buffer size has been set to %d bytes.\n", listener.RecvBuffer())
	}
	return listener, err
}

// eventPrinter prints the events of one run of -E.
type eventPrinter struct {
	s         *session
	line      *line
	selection *selection
	document  string
	programs  programs
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
