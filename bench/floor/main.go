//go:build linux

// Command floor does the least that the kernel can be asked for: it receives
// and counts messages, or deletes flows that are known before the clock
// starts. It prints how many there were; delete prints first what it took,
// as command launch does.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"sync/atomic"
	"time"

	"flowcut/conntrack"

	"golang.org/x/sys/unix"
)

func main() {
	n, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "floor:", err)
		os.Exit(1)
	}
	fmt.Println(n)
}

func run(args []string) (int, error) {
	if len(args) == 1 && args[0] == "events" {
		return events()
	}
	if len(args) == 1 && args[0] == "list" {
		return list(request(nil))
	}
	if len(args) != 2 {
		return 0, fmt.Errorf("usage: floor list [SERVER] | delete SERVER | events, not %q", args)
	}
	server, err := netip.ParseAddr(args[1])
	if err != nil {
		return 0, err
	}
	switch args[0] {
	case "list":
		return list(request(server.AsSlice()))
	case "delete":
		return deleteTo(server)
	}
	return 0, fmt.Errorf("no command %q", args[0])
}

// list sends a request for a dump and counts what is dumped.
func list(request []byte) (int, error) {
	s, err := open(0)
	if err != nil {
		return 0, err
	}
	if err := unix.Sendto(s, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, fmt.Errorf("ask for a dump: %w", err)
	}
	buf := make([]byte, room)
	for n := 0; ; {
		size, err := receive(s, buf)
		if err != nil {
			return 0, fmt.Errorf("receive the dump: %w", err)
		}
		more, done, err := count(buf[:size])
		if n += more; done || err != nil {
			return n, err
		}
	}
}

// deleteTo deletes all flows to server. The clock starts when they are known.
func deleteTo(server netip.Addr) (int, error) {
	c, err := conntrack.Dial(conntrack.Config{})
	if err != nil {
		return 0, err
	}
	x := conntrack.Filter{Reply: conntrack.Tuple{Src: server}, ReplyFields: conntrack.FieldSrc}
	var keys []conntrack.Key
	for f, err := range c.Dump(context.Background(), x) {
		if err != nil {
			return 0, err
		}
		keys = append(keys, f.Key())
	}
	var before, after unix.Rusage
	err = unix.Getrusage(unix.RUSAGE_SELF, &before)
	begin := time.Now()
	n, derr := c.Delete(context.Background(), keys, nil)
	wall := time.Since(begin)
	if err := errors.Join(err, derr, unix.Getrusage(unix.RUSAGE_SELF, &after)); err != nil {
		return 0, err
	}
	fmt.Println(wall.Nanoseconds(), after.Utime.Nano()-before.Utime.Nano(), after.Stime.Nano()-before.Stime.Nano(), after.Maxrss, 0)
	return n, nil
}

// events counts messages about flows until it is interrupted.
func events() (int, error) {
	s, err := open(1<<(unix.NFNLGRP_CONNTRACK_NEW-1) | 1<<(unix.NFNLGRP_CONNTRACK_UPDATE-1) | 1<<(unix.NFNLGRP_CONNTRACK_DESTROY-1))
	if err != nil {
		return 0, err
	}
	var stop atomic.Bool
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt)
	go func() {
		<-signals
		stop.Store(true)
	}()
	b := newBatch(s)
	n := 0
	for !stop.Load() {
		more, err := b.receive()
		if n += more; err != nil {
			return n, fmt.Errorf("receive events: %w", err)
		}
	}
	return n, nil
}
