//go:build linux

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"

	"github.com/mdlayher/socket"
	"golang.org/x/sys/unix"
)

// Control is the kind of FTP's control connections. Their data connections
// are of kind Download.
const Control Kind = 32

// FTP is a client's session with a server of [Host.ListenFTP].
//
// Not safe for concurrent use, but for Control's readings.
type FTP struct {
	Control *End

	host    *Host
	answers chan string
}

// ListenFTP starts an FTP server that lives as long as the lab. It knows
// USER, PORT, PASV, EPRT, EPSV and RETR; a file never ends.
func (h *Host) ListenFTP(port uint16) error {
	conn, err := h.listening(port)
	if err != nil {
		return err
	}
	h.lab.tasks.Go(func() {
		for {
			c, _, err := conn.Accept(context.Background(), 0)
			if errors.Is(err, unix.ECONNABORTED) {
				continue // reset before it was accepted
			}
			if err != nil {
				return
			}
			h.lab.welcomeFTP(h, c)
		}
	})
	return nil
}

// listening makes a TCP socket that listens until the lab is closed; port 0
// lets the kernel choose.
func (h *Host) listening(port uint16) (*socket.Conn, error) {
	conn, err := h.bound(unix.SOCK_STREAM, port)
	if err != nil {
		return nil, err
	}
	err = conn.Listen(backlog)
	if err == nil && !h.lab.hold(&stranger{conn}) {
		err = h.lab.ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("lab: %s: listen on %d: %w", h.Name, port, err)
	}
	return conn, nil
}

// welcomeFTP begins a session on an accepted connection.
func (l *Lab) welcomeFTP(h *Host, c *socket.Conn) {
	e, err := l.newEnd(Control, c)
	if err != nil {
		_ = c.Close()
		return
	}
	s := &session{host: h, control: e}
	e.start(func() error { return e.lines(s.obey) })
}

// FTP logs in to a server of the same lab.
func (h *Host) FTP(ctx context.Context, to netip.AddrPort) (*FTP, error) {
	conn, err := h.connect(ctx, unix.SOCK_STREAM, 0, netip.AddrPort{}, to)
	if err != nil {
		return nil, err
	}
	e, err := h.lab.newEnd(Control, conn)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	f := &FTP{Control: e, host: h, answers: make(chan string, 1)}
	e.start(func() error {
		defer close(f.answers)
		return e.lines(func(line string) error {
			select {
			case f.answers <- line:
				return nil
			case <-h.lab.ctx.Done():
				return h.lab.ctx.Err()
			}
		})
	})
	id := h.lab.number()
	if _, err := f.command(ctx, fmt.Sprint("USER ", id)); err != nil {
		e.Close()
		return nil, err
	}
	e.peer = h.lab.peer(id)
	return f, nil
}

// Port tells the server where the client listens for a data connection, and
// does not ask for one: the gateway's helper expects it from now on.
func (f *FTP) Port(ctx context.Context) (accept *socket.Conn, err error) {
	conn, err := f.host.listening(0)
	if err != nil {
		return nil, err
	}
	local, err := conn.Getsockname()
	if err != nil {
		return nil, err
	}
	here := netip.AddrPortFrom(f.Control.Local.Addr(), addrPort(local).Port())
	command := fmt.Sprintf("EPRT |2|%s|%d|", here.Addr(), here.Port())
	if here.Addr().Is4() {
		command = "PORT " + commas(here)
	}
	_, err = f.command(ctx, command)
	return conn, err
}

// Active begins a transfer in active mode: the server connects.
func (f *FTP) Active(ctx context.Context) (*End, error) {
	accept, err := f.Port(ctx)
	if err != nil {
		return nil, err
	}
	id := f.host.lab.number()
	if _, err := f.command(ctx, fmt.Sprint("RETR ", id)); err != nil {
		return nil, err
	}
	conn, _, err := accept.Accept(ctx, 0)
	if err != nil {
		return nil, fmt.Errorf("lab: %s: accept FTP data: %w", f.host.Name, err)
	}
	return f.receive(conn, id)
}

// Pasv asks where the server listens for a data connection, and makes none.
func (f *FTP) Pasv(ctx context.Context) (netip.AddrPort, error) {
	if f.Control.Remote.Addr().Is6() {
		answer, err := f.command(ctx, "EPSV")
		if err != nil {
			return netip.AddrPort{}, err
		}
		_, port, _ := strings.Cut(answer, "(|||")
		n, err := strconv.ParseUint(strings.TrimSuffix(port, "|)"), 10, 16)
		return netip.AddrPortFrom(f.Control.Remote.Addr(), uint16(n)), err
	}
	answer, err := f.command(ctx, "PASV")
	if err != nil {
		return netip.AddrPort{}, err
	}
	_, numbers, _ := strings.Cut(answer, "(")
	return parseCommas(strings.TrimSuffix(numbers, ")"))
}

// Passive begins a transfer in passive mode: the client connects.
func (f *FTP) Passive(ctx context.Context) (*End, error) {
	to, err := f.Pasv(ctx)
	if err != nil {
		return nil, err
	}
	e, err := f.Connect(ctx, to)
	if err != nil {
		return nil, err
	}
	id := f.host.lab.number()
	if _, err := f.command(ctx, fmt.Sprint("RETR ", id)); err != nil {
		e.Close()
		return nil, err
	}
	e.peer = f.host.lab.peer(id)
	return e, nil
}

// Connect makes a data connection to where the server listens, and asks for
// nothing; its end has no peer.
func (f *FTP) Connect(ctx context.Context, to netip.AddrPort) (*End, error) {
	conn, err := f.host.connect(ctx, unix.SOCK_STREAM, 0, netip.AddrPort{}, to)
	if err != nil {
		return nil, err
	}
	return f.receive(conn, 0)
}

// receive makes conn the client's end of data connection id.
func (f *FTP) receive(conn *socket.Conn, id uint64) (*End, error) {
	e, err := f.host.lab.newEnd(Download, conn)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	e.peer = f.host.lab.peer(id)
	e.start(e.read)
	return e, nil
}

// command says a line and returns the answer, which must promise success.
func (f *FTP) command(ctx context.Context, line string) (string, error) {
	if err := f.Control.line(line); err != nil {
		return "", fmt.Errorf("lab: %s: say %q: %w", f.host.Name, line, err)
	}
	select {
	case answer, ok := <-f.answers:
		if !ok || answer == "" || answer[0] > '3' {
			return "", fmt.Errorf("lab: %s: %q was answered with %q", f.host.Name, line, answer)
		}
		return answer, nil
	case <-ctx.Done():
		return "", fmt.Errorf("lab: %s: answer to %q: %w", f.host.Name, line, context.Cause(ctx))
	}
}

// line sends a line of text.
func (e *End) line(s string) error {
	n, err := e.conn.Write([]byte(s + "\r\n"))
	e.Sent.add(n)
	return err
}

// lines hands on what comes, line by line, until the connection ends or each
// fails.
func (e *End) lines(each func(line string) error) error {
	defer e.Close()
	var text []byte
	buf := make([]byte, small)
	for {
		n, err := e.conn.Read(buf)
		if n > 0 {
			e.Received.add(n)
		}
		if err != nil {
			return cause(err)
		}
		text = append(text, buf[:n]...)
		for {
			line, rest, whole := bytes.Cut(text, []byte("\r\n"))
			if !whole {
				break
			}
			text = rest
			if err := each(string(line)); err != nil {
				return cause(err)
			}
		}
	}
}

// session is the server's side of a control connection.
type session struct {
	host    *Host
	control *End
	to      netip.AddrPort // where the client listens, of PORT
	passive *socket.Conn   // where the server does, of PASV
}

// obey carries a command out and answers it.
func (s *session) obey(line string) error {
	verb, arg, _ := strings.Cut(line, " ")
	answer, err := s.carry(verb, arg)
	if err != nil {
		answer = "500 " + err.Error()
	}
	return s.control.line(answer)
}

func (s *session) carry(verb, arg string) (answer string, err error) {
	id, _ := strconv.ParseUint(arg, 10, 64)
	switch verb {
	case "USER":
		s.host.lab.accepted(id, s.control)
		return "230 welcome", nil
	case "PORT":
		s.to, err = parseCommas(arg)
		return "200 so be it", err
	case "EPRT":
		if parts := strings.Split(arg, "|"); len(parts) == 5 {
			s.to, err = netip.ParseAddrPort("[" + parts[2] + "]:" + parts[3])
			return "200 so be it", err
		}
	case "PASV", "EPSV":
		return s.listen(verb)
	case "RETR":
		return "150 here it comes", s.send(id)
	}
	return "", fmt.Errorf("%q is not understood", verb)
}

func (s *session) listen(verb string) (answer string, err error) {
	if s.passive, err = s.host.listening(0); err != nil {
		return "", err
	}
	local, err := s.passive.Getsockname()
	if err != nil {
		return "", err
	}
	here := netip.AddrPortFrom(s.control.Local.Addr(), addrPort(local).Port())
	if verb == "EPSV" {
		return fmt.Sprintf("229 Entering Extended Passive Mode (|||%d|)", here.Port()), nil
	}
	return "227 Entering Passive Mode (" + commas(here) + ")", nil
}

// send begins the transfer of a file that has no end.
func (s *session) send(id uint64) error {
	var conn *socket.Conn
	var err error
	switch {
	case s.passive != nil:
		conn, _, err = s.passive.Accept(s.host.lab.ctx, 0)
	case s.to.IsValid():
		ctx, cancel := context.WithTimeout(s.host.lab.ctx, helloWait)
		defer cancel()
		conn, err = s.host.connect(ctx, unix.SOCK_STREAM, 0, netip.AddrPort{}, s.to)
	default:
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	e, err := s.host.lab.newEnd(Download, conn)
	if err != nil {
		_ = conn.Close()
		return err
	}
	s.host.lab.accepted(id, e)
	e.start(e.read, e.load)
	return nil
}

// commas writes an IPv4 address and port as PORT and PASV do (RFC 959, 4.1.2).
func commas(a netip.AddrPort) string {
	b := a.Addr().As4()
	return fmt.Sprintf("%d,%d,%d,%d,%d,%d", b[0], b[1], b[2], b[3], a.Port()>>8, a.Port()&0xff)
}

func parseCommas(s string) (netip.AddrPort, error) {
	var b [6]byte
	parts := strings.Split(s, ",")
	if len(parts) != len(b) {
		return netip.AddrPort{}, fmt.Errorf("%q is no address and port", s)
	}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 8)
		if err != nil {
			return netip.AddrPort{}, fmt.Errorf("%q is no address and port: %w", s, err)
		}
		b[i] = byte(n)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[:4])), uint16(b[4])<<8|uint16(b[5])), nil
}
