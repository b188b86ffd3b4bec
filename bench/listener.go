//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"

	"flowcut/internal/netns"

	"golang.org/x/sys/unix"
)

// listener is a server of idle connections in a process of its own: the ends of
// 10,000 at both sides are more descriptors than one process may have.
type listener struct {
	cmd  *exec.Cmd
	says *bufio.Reader
	hold io.Closer // the process ends when this is closed, by us or by our death
}

// listenerName as first argument makes the program a listener.
const listenerName = "listen"

// listen starts a listener in a named namespace, for a number of connections.
func listen(ctx context.Context, namespace string, port, connections int) (*listener, error) {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", listenerName, namespace, strconv.Itoa(port), strconv.Itoa(connections))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true} // Ctrl-C is not for it
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	l := &listener{cmd, bufio.NewReader(out), in}
	if _, err := l.number(); err != nil {
		return nil, errors.Join(fmt.Errorf("listen in %s: %w", namespace, err), l.close())
	}
	return l, nil
}

// number reads the next number that the process says.
func (l *listener) number() (n int, err error) {
	_, err = fmt.Fscanln(l.says, &n)
	return n, err
}

// close ends the process.
func (l *listener) close() error { return errors.Join(l.hold.Close(), l.cmd.Wait()) }

// listenMain is the process: it says how many connections it waits for when it
// listens, and, once all have ended, how many of them by a reset. It returns
// the exit code.
func listenMain(args []string) int {
	if err := listenAndCount(args[0], args[1], args[2]); err != nil {
		say("listen: %v", err)
		return 1
	}
	return 0
}

func listenAndCount(namespace, port, connections string) error {
	n, err := strconv.Atoi(connections)
	if err != nil {
		return err
	}
	ns, err := netns.Open(namespace)
	if err != nil {
		return err
	}
	var l net.Listener
	if err := ns.Do(func() (err error) { l, err = net.Listen("tcp4", ":"+port); return err }); err != nil {
		return err
	}
	fmt.Println(n)
	go serveAll(l, n)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// serveAll serves n connections and says how many of them a reset has ended.
func serveAll(l net.Listener, n int) {
	var running sync.WaitGroup
	var resets atomic.Int64
	for range n {
		c, err := l.Accept()
		if err != nil {
			say("listen: accept: %v", err)
			return
		}
		running.Go(func() {
			if errors.Is(serveIdle(c), unix.ECONNRESET) {
				resets.Add(1)
			}
		})
	}
	running.Wait()
	fmt.Println(resets.Load())
}

// serveIdle answers the greeting of a client of the lab, and reads until the
// connection ends.
func serveIdle(c net.Conn) error {
	defer c.Close() //nolint:errcheck // it is over
	const greeting = 24
	if _, err := io.ReadFull(c, make([]byte, greeting)); err != nil {
		return err
	}
	if _, err := c.Write([]byte{'!'}); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 1))
	return err
}
