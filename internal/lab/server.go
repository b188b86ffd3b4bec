//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/mdlayher/socket"
	"golang.org/x/sys/unix"
)

// Server answers on one port of a host, TCP and UDP, IPv4 and IPv6, whatever
// kind of connection the client asks for.
type Server struct {
	host *Host
	port uint16
	tcp  *socket.Conn
	udp  *socket.Conn

	mu   sync.Mutex
	ends Ends
}

// Listen starts a server that lives as long as the lab, or until Close.
func (h *Host) Listen(port uint16) (*Server, error) {
	tcp, err := h.bound(unix.SOCK_STREAM, port)
	if err != nil {
		return nil, err
	}
	if err := tcp.Listen(backlog); err != nil {
		_ = tcp.Close()
		return nil, fmt.Errorf("lab: %s: listen on %d: %w", h.Name, port, err)
	}
	udp, err := h.bound(unix.SOCK_DGRAM, port)
	if err != nil {
		_ = tcp.Close()
		return nil, err
	}
	s := &Server{host: h, port: port, tcp: tcp, udp: udp}
	if err := udp.SetReadBuffer(datagramBuffer); err != nil || !h.lab.hold(s) {
		s.abort()
		return nil, fmt.Errorf("lab: %s: listen on %d: %w", h.Name, port, errors.Join(err, h.lab.ctx.Err()))
	}
	h.lab.tasks.Go(s.accept)
	h.lab.tasks.Go(s.welcome)
	return s, nil
}

// Ends returns the server's ends of all connections so far, but for those of
// kind Request.
func (s *Server) Ends() Ends {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append(Ends(nil), s.ends...)
}

// Pace holds what is sent on each connection that is accepted from now on to so many
// bytes a second. Unlike a full queue of a device it makes no connection wait for
// another one.
func (s *Server) Pace(rate int) error {
	if err := s.tcp.SetsockoptInt(unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, rate); err != nil {
		return fmt.Errorf("lab: %s: pace connections to %d: %w", s.host.Name, s.port, err)
	}
	return nil
}

// Close stops listening; connections go on.
func (s *Server) Close() {
	s.host.lab.release(s)
	s.abort()
}

func (s *Server) abort() {
	_ = s.tcp.Close()
	_ = s.udp.Close()
}

// accept serves connections until the socket is closed.
func (s *Server) accept() {
	for {
		conn, _, err := s.tcp.Accept(context.Background(), 0)
		switch {
		case errors.Is(err, unix.ECONNABORTED):
			continue // reset before it was accepted
		case err != nil:
			return
		}
		s.host.lab.tasks.Go(func() { s.greet(conn) })
	}
}

// greet reads what the client wants, notes the end, and says so.
func (s *Server) greet(conn *socket.Conn) {
	waiting := &stranger{conn}
	if !s.host.lab.hold(waiting) {
		waiting.abort()
		return
	}
	defer s.host.lab.release(waiting)
	g, err := waiting.greeting()
	if err != nil {
		_ = conn.Close()
		return
	}
	if g.kind == Request {
		_, _ = conn.Write([]byte{'!'})
		_, _ = conn.Read(make([]byte, 1)) // until the client has closed
		_ = conn.Close()
		return
	}
	e, err := s.host.lab.newEnd(g.kind, conn)
	if err != nil {
		_ = conn.Close()
		return
	}
	s.note(g.id, e)
	if _, err := conn.Write([]byte{'!'}); err != nil {
		e.tell(cause(err))
	}
	e.startServer(g)
}

func (s *Server) note(id uint64, e *End) {
	s.host.lab.accepted(id, e)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ends = append(s.ends, e)
}

// stranger is an accepted connection that has not said what it wants.
type stranger struct{ conn *socket.Conn }

func (s *stranger) abort() {
	_ = setLinger(s.conn)
	_ = s.conn.Close()
}

func (s *stranger) greeting() (greeting, error) {
	if err := s.conn.SetReadDeadline(time.Now().Add(helloWait)); err != nil {
		return greeting{}, err
	}
	buf := make([]byte, hello)
	if _, err := io.ReadFull(s.conn, buf); err != nil {
		return greeting{}, err
	}
	if err := s.conn.SetReadDeadline(time.Time{}); err != nil {
		return greeting{}, err
	}
	return parseGreeting(buf)
}
