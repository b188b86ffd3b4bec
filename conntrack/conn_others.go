//go:build !linux

package conntrack

import (
	"context"
	"sync/atomic"
)

// conn stands in where there is no netlink.
type conn struct {
	seq    uint32
	out    []byte
	rcvbuf int
	closed atomic.Bool
}

func dialConn(int, int) (*conn, error) { return nil, errNotLinux }

func (*conn) close() error                            { return nil }
func (*conn) send([]byte) error                       { return errNotLinux }
func (*conn) receive(context.Context) ([]byte, error) { return nil, errNotLinux }

func (*conn) receiveMany(*datagrams) error { return errNotLinux }

func (*conn) peek(context.Context) ([]byte, error) { return nil, errNotLinux }
func (*conn) skip() error                          { return errNotLinux }

const recvSize = 0

// datagrams stands in where there is no netlink.
type datagrams struct{}

func newDatagrams(int, int) *datagrams   { return nil }
func (*datagrams) next() ([]byte, error) { return nil, errNotLinux }

// eventQueue stands in where there is no netlink.
type eventQueue struct{ *conn }

func newEventQueue(*conn, int, []uint32) (*eventQueue, error) { return nil, errNotLinux }

func (*eventQueue) fill(bool) error       { return errNotLinux }
func (*eventQueue) next() ([]byte, error) { return nil, errNotLinux }
func (*eventQueue) wake()                 {}

// netNS stands in where there are no network namespaces.
type netNS struct{}

func openNetNS(int) (*netNS, error)    { return nil, errNotLinux }
func (*netNS) dial(int) (*conn, error) { return nil, errNotLinux }
func (*netNS) close() error            { return nil }

func kernelRelease() string { return "" }

func dialScratch() (*conn, error) { return nil, errNotLinux }

var errNotLinux = &NotSupportedError{Feature: "connection tracking outside of Linux"}
