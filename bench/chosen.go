//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"net/netip"

	"flowcut/conntrack"
)

const (
	chosenMost = 1_000 // addresses that have flows
	chosenEach = 3     // flows of each
)

// chosenAddr returns address i of those that are selected one by one. No other
// flow has any of them.
func chosenAddr(i int) netip.Addr {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], 10<<24+200<<16+uint32(i))
	return netip.AddrFrom4(a)
}

// chosen yields the flows of the first n addresses.
func chosen(n int) iter.Seq[*conntrack.Flow] {
	return func(yield func(*conntrack.Flow) bool) {
		for i := range n * chosenEach {
			f := conntrack.Flow{Has: conntrack.AttrStatus, Timeout: lifetime, Status: both}
			f.Orig = conntrack.Tuple{
				Proto: conntrack.ProtoTCP, Src: chosenAddr(i / chosenEach), SrcPort: uint16(32768 + i%chosenEach), Dst: remote, DstPort: 443,
			}
			setState(&f, conntrack.TCPEstablished)
			if !yield(&f) {
				return
			}
		}
	}
}

// choose adds the flows of the first n addresses to the table.
func (s *site) choose(ctx context.Context, n int) error {
	if _, err := s.client.CreateAll(ctx, chosen(n)); err != nil {
		return fmt.Errorf("make the flows of %d addresses: %w", n, err)
	}
	return s.expect(s.size + n*chosenEach)
}
