//go:build linux

package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mdlayher/socket"
	"golang.org/x/sys/unix"
)

// Floods says what to send; To and Sources, of one family, are needed.
type Floods struct {
	To      netip.AddrPort
	Sources netip.Prefix // whom to pretend to be; the gateway needs a way back for the answers
	UDP     bool         // one datagram of each source, instead of a SYN
	Rate    int          // packets a second, 0: as many as go
	Count   int          // packets in all, 0: until Stop
}

// Flood is a stream of first packets, each from another source, whose answers
// nobody hears.
type Flood struct {
	sent atomic.Uint64
	stop context.CancelFunc
	done sync.WaitGroup
	err  error
}

// Flood begins to send from the host.
func (h *Host) Flood(f Floods) (*Flood, error) {
	family := unix.AF_INET
	if f.To.Addr().Is6() {
		family = unix.AF_INET6
	}
	conn, err := h.open(family, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		return nil, err
	}
	_ = conn.SetWriteBuffer(datagramBuffer) // room only
	ctx, stop := context.WithCancel(h.lab.ctx)
	out := &Flood{stop: stop}
	out.done.Add(1)
	h.lab.tasks.Go(func() {
		defer out.done.Done()
		out.err = errors.Join(out.run(ctx, conn, f), conn.Close())
	})
	return out, nil
}

// Sent counts packets.
func (f *Flood) Sent() uint64 { return f.sent.Load() }

// Wait waits until Count packets were sent.
func (f *Flood) Wait() error {
	f.done.Wait()
	return f.err
}

// Stop ends the flood.
func (f *Flood) Stop() error {
	f.stop()
	return f.Wait()
}

func (f *Flood) run(ctx context.Context, conn *socket.Conn, s Floods) error {
	to := sockaddr(netip.AddrPortFrom(s.To.Addr(), 0))
	begin, tick := time.Now(), time.NewTicker(time.Millisecond)
	defer tick.Stop()
	next := source{s.Sources.Masked().Addr(), firstSource}
	for n := 0; s.Count == 0 || n < s.Count; n++ {
		for s.Rate > 0 && n >= int(time.Since(begin)*time.Duration(s.Rate)/time.Second) {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		next.advance(s.Sources)
		if err := conn.Sendto(ctx, first(next, s), 0, to); err != nil && !errors.Is(err, unix.ENOBUFS) {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		f.sent.Add(1)
	}
	return nil
}

// source is whom a packet of a flood comes from.
type source struct {
	addr netip.Addr
	port uint16
}

const firstSource = 1024

// advance goes to the next address, and to the next port after the last one.
func (s *source) advance(within netip.Prefix) {
	if s.addr = s.addr.Next(); !within.Contains(s.addr) {
		s.addr = within.Masked().Addr().Next()
		s.port++
	}
}

// first is the first packet of a flow.
func first(from source, s Floods) []byte {
	const window = 1024
	ports := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, from.port), s.To.Port())
	if s.UDP {
		const size = 16 // too short for a server of the lab to answer
		udp := append(ports, 0, size, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
		return Packet(from.addr, s.To.Addr(), unix.IPPROTO_UDP, udp)
	}
	return Packet(from.addr, s.To.Addr(), unix.IPPROTO_TCP, segment(ports, tcpSYN, window, 1, 0))
}
