//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mdlayher/socket"
	"golang.org/x/sys/unix"
)

// Traffic is what one end has sent or received. All methods may be called at
// any time and take no lock.
type Traffic struct {
	bytes, messages atomic.Uint64
	last            atomic.Int64 // offset from the lab's start
	lab             *Lab
}

// Bytes of payload; what the lab says to set a connection up is left out.
func (t *Traffic) Bytes() uint64 { return t.bytes.Load() }

// Messages are datagrams, each counted once however often it came; of a
// stream, the calls that moved bytes.
func (t *Traffic) Messages() uint64 { return t.messages.Load() }

// Last is when the last byte was handed to or taken from the kernel; zero
// when none was.
func (t *Traffic) Last() time.Time { return t.lab.at(t.last.Load()) }

func (t *Traffic) add(bytes int) {
	t.bytes.Add(uint64(bytes))
	t.messages.Add(1)
	t.last.Store(t.lab.since())
}

// Told is what an end learned about the other one.
type Told struct {
	Err error // ECONNRESET, io.EOF, ECONNREFUSED and so on; nil when it was told nothing
	At  time.Time
}

// End is one end of a connection, or of an exchange of datagrams, in a host.
//
// Readings may be taken at any time, during traffic and after the end.
type End struct {
	Kind          Kind
	Local, Remote netip.AddrPort // as this end sees them
	Opened        time.Time
	Sent          Traffic
	Received      Traffic
	Repeated      atomic.Uint64 // datagrams that came more than once

	lab     *Lab
	conn    *socket.Conn
	peer    *End // of a client's end
	done    chan struct{}
	quiet   atomic.Bool   // no more is to be sent
	pause   chan struct{} // closed when quiet
	numbers numbers       // of datagrams that came

	mu   sync.Mutex
	told Told
}

// newEnd takes conn over; the caller must start it.
func (l *Lab) newEnd(kind Kind, conn *socket.Conn) (*End, error) {
	e := &End{Kind: kind, Opened: time.Now(), lab: l, conn: conn, done: make(chan struct{}), pause: make(chan struct{})}
	e.Sent.lab, e.Received.lab = l, l
	local, err := conn.Getsockname()
	if err != nil {
		return nil, fmt.Errorf("lab: own address: %w", err)
	}
	remote, err := conn.Getpeername()
	if err != nil {
		return nil, fmt.Errorf("lab: peer's address: %w", err)
	}
	e.Local, e.Remote = addrPort(local), addrPort(remote)
	if !l.hold(e) {
		return nil, os.ErrClosed
	}
	return e, nil
}

// start runs the end's loops, each on a goroutine of the lab; when all have
// returned the socket is closed and the end is done.
func (e *End) start(loops ...func() error) {
	var running sync.WaitGroup
	for _, loop := range loops {
		running.Add(1)
		e.lab.tasks.Go(func() {
			defer running.Done()
			e.tell(loop())
		})
	}
	e.lab.tasks.Go(func() {
		running.Wait()
		e.Close()
		close(e.done)
	})
}

// tell notes an error that a call on the socket returned. A reset is seen by
// one call only and leaves an end of file or a broken pipe to the others,
// which may note it first: the plainer word wins.
func (e *End) tell(err error) {
	if err == nil || errors.Is(err, os.ErrClosed) || errors.Is(err, unix.EBADF) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.told.Err == nil || vague(e.told.Err) && !vague(err) {
		e.told = Told{Err: err, At: e.lab.at(e.lab.since())}
	}
}

func vague(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, unix.EPIPE) }

// Told returns what the end was told. Of a stream it is settled when Done is
// closed; an end of datagrams lives on and keeps the first.
func (e *End) Told() Told {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.told
}

// Done is closed when the end's socket is closed and its loops have returned:
// because it was told so, or by Close.
func (e *End) Done() <-chan struct{} { return e.done }

// Peer is the server's end of a connection that was dialled in this lab; nil
// for the server's end itself and for echo requests.
func (e *End) Peer() *End { return e.peer }

// Quiet makes the end send no more; it goes on receiving.
func (e *End) Quiet() {
	if !e.quiet.Swap(true) {
		close(e.pause)
	}
}

// Say sends one byte on an idle connection, or returns what the end is told.
func (e *End) Say() error {
	if _, err := e.conn.Write([]byte{'.'}); err != nil {
		err = cause(err)
		e.tell(err)
		return err
	}
	e.Sent.add(1)
	return nil
}

// Close closes the end's socket as a program does: a stream says goodbye.
func (e *End) Close() {
	e.lab.release(e)
	_ = e.conn.Close()
}

// abort closes the socket without a word to wait for, so that nothing of it
// outlives the lab.
func (e *End) abort() {
	_ = setLinger(e.conn)
	e.Close()
}

// Ends are the ends of several connections.
type Ends []*End

// Peers returns the servers' ends of dialled connections.
func (es Ends) Peers() Ends {
	peers := make(Ends, 0, len(es))
	for _, e := range es {
		peers = append(peers, e.peer)
	}
	return peers
}

// Received returns the bytes that all of them have received.
func (es Ends) Received() uint64 {
	var n uint64
	for _, e := range es {
		n += e.Received.Bytes()
	}
	return n
}

// Sent returns the bytes that all of them have sent.
func (es Ends) Sent() uint64 {
	var n uint64
	for _, e := range es {
		n += e.Sent.Bytes()
	}
	return n
}

// Messages returns the messages that all of them have received.
func (es Ends) Messages() uint64 {
	var n uint64
	for _, e := range es {
		n += e.Received.Messages()
	}
	return n
}

// LastReceived returns when the last of them received its last byte.
func (es Ends) LastReceived() time.Time {
	var last time.Time
	for _, e := range es {
		if at := e.Received.Last(); at.After(last) {
			last = at
		}
	}
	return last
}

// Told returns how many of them were told target, as [errors.Is] has it; nil
// counts those that were told nothing.
func (es Ends) Told(target error) int {
	n := 0
	for _, e := range es {
		if err := e.Told().Err; errors.Is(err, target) {
			n++
		}
	}
	return n
}

// WaitTold waits until every end was told something.
func (es Ends) WaitTold(ctx context.Context) error {
	return Until(ctx, "every end is told", func() (bool, error) { return es.Told(nil) == 0, nil })
}

// WaitReceived waits until each of them has received at least n bytes.
func (es Ends) WaitReceived(ctx context.Context, n uint64) error {
	return Until(ctx, fmt.Sprintf("every end has received %d bytes", n), func() (bool, error) {
		for _, e := range es {
			if e.Received.Bytes() < n {
				return false, nil
			}
		}
		return true, nil
	})
}

// Close closes all of them and waits until they are done.
func (es Ends) Close() {
	for _, e := range es {
		e.Close()
	}
	for _, e := range es {
		<-e.done
	}
}
