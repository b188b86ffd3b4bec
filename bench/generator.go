//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"flowcut/conntrack"
	"flowcut/internal/mmsg"
	"flowcut/internal/nft"

	"golang.org/x/sys/unix"
)

// Bits of the flags of a TCP header.
const (
	tcpSYN = 1 << 1
	tcpRST = 1 << 2
)

const (
	headers = 20 + 20 // IPv4 and TCP
	atOnce  = 256     // packets that are sent at once, two of each flow
)

// generator makes flows by packets, as traffic does: a SYN begins one, and a
// reset that follows at once ends it. What other programs do to the table is
// announced otherwise: conntrack(8) then looks for the name of the program.
type generator struct {
	socket  int
	msgs    [atOnce]mmsg.Message
	iovs    [atOnce]unix.Iovec
	packets [atOnce][headers]byte
	to      unix.RawSockaddrInet4
}

// track makes the gateway track connections: the kernel does so where a rule
// asks for it.
func (s *site) track() error {
	c, err := nft.Dial(s.gateway.Fd())
	if err != nil {
		return err
	}
	defer c.Close()   //nolint:errcheck // what was committed stays
	const invalid = 1 // NF_CT_STATE_INVALID_BIT
	var b nft.Batch
	b.AddTable(&nft.Table{Family: nft.IPv4, Name: "filter", Chains: []*nft.Chain{{
		Name: "forward", Hook: &nft.Hook{Type: "filter", Num: nft.Forward},
		Rules: []nft.Rule{nft.NewRule("", nft.AnyBit(nft.CTState, invalid))},
	}}})
	return c.Commit(&b)
}

// newGenerator opens a socket inside the gateway.
func (s *site) newGenerator() (g *generator, err error) {
	g = &generator{}
	err = s.gateway.Do(func() error {
		g.socket, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open a raw socket: %w", err)
	}
	g.to = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: remote.As4()}
	for i := range g.msgs {
		p := &g.packets[i]
		p[0], p[8], p[9] = 4<<4|5, 64, unix.IPPROTO_TCP // version and words of the header, time to live
		copy(p[16:], remote.AsSlice())
		p[32] = 5 << 4 // words of the TCP header
		g.iovs[i].Base = &p[0]
		g.iovs[i].SetLen(headers)
		h := &g.msgs[i].Header
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&g.to)), unix.SizeofSockaddrInet4
		h.Iov = &g.iovs[i]
		h.SetIovlen(1)
	}
	return g, nil
}

func (g *generator) close() { _ = unix.Close(g.socket) }

// cycle makes n flows from the one numbered first on, and ends each.
func (g *generator) cycle(first, n int) error {
	for n > 0 {
		some := min(n, atOnce/2)
		for i := range some {
			t := tuple(first+i, false, conntrack.ProtoTCP, 443)
			g.write(2*i, t, tcpSYN, 1)
			g.write(2*i+1, t, tcpRST, 2)
		}
		if err := g.send(2 * some); err != nil {
			return err
		}
		first, n = first+some, n-some
	}
	return nil
}

// write writes packet i. The kernel fills in length and checksum.
func (g *generator) write(i int, t conntrack.Tuple, flags byte, seq uint32) {
	p := &g.packets[i]
	copy(p[12:], t.Src.AsSlice())
	binary.BigEndian.PutUint16(p[20:], t.SrcPort)
	binary.BigEndian.PutUint16(p[22:], t.DstPort)
	binary.BigEndian.PutUint32(p[24:], seq)
	p[33] = flags
}

// send sends the first n packets.
func (g *generator) send(n int) error {
	for at := 0; at < n; {
		sent, err := mmsg.Send(g.socket, g.msgs[at:n])
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("send packets of flows: %w", err)
		}
		at += sent
	}
	return nil
}
