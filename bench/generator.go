//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"flowcut/conntrack"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// generator makes UDP flows and deletes each again, by its tuple alone: the
// library deletes by ID as well, which the makers of flows do not know.
type generator struct {
	client *conntrack.Client
	socket *netlink.Conn
	delete []byte // attributes of a request, of which source address and port change
	source int    // where the address is in it
	port   int
}

func (s *site) newGenerator() (*generator, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: s.gateway.Fd()})
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	if err := c.SetOption(netlink.CapAcknowledge, true); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	g := &generator{client: s.client, socket: c}
	if g.delete, err = tupleAttributes(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	// A header of 4 bytes each: tuple, addresses, source; then destination,
	// protocol, its number and the source port.
	g.source = netfilterHeader + 3*4
	g.port = g.source + 4 + 8 + 4 + 8 + 4
	return g, nil
}

func (g *generator) close() { _ = g.socket.Close() }

// netfilterHeader is the size of struct nfgenmsg.
const netfilterHeader = 4

// tupleAttributes returns a header and the original tuple of a UDP flow.
func tupleAttributes() ([]byte, error) {
	const ( // enum ctattr_type, ctattr_tuple, ctattr_ip, ctattr_l4proto
		tupleOrig, ip, proto                = 1, 1, 2
		v4Source, v4Destination             = 1, 2
		number, sourcePort, destPort        = 1, 2, 3
		destination                  uint16 = 53
	)
	e := netlink.NewAttributeEncoder()
	e.ByteOrder = binary.BigEndian
	e.Nested(tupleOrig, func(e *netlink.AttributeEncoder) error {
		e.Nested(ip, func(e *netlink.AttributeEncoder) error {
			e.Bytes(v4Source, make([]byte, 4))
			e.Bytes(v4Destination, remote.AsSlice())
			return nil
		})
		e.Nested(proto, func(e *netlink.AttributeEncoder) error {
			e.ByteOrder = binary.BigEndian
			e.Uint8(number, unix.IPPROTO_UDP)
			e.Uint16(sourcePort, 0)
			e.Uint16(destPort, destination)
			return nil
		})
		return nil
	})
	attrs, err := e.Encode()
	return append([]byte{unix.AF_INET, 0, 0, 0}, attrs...), err
}

// cycle makes n flows from the one numbered first on, and deletes them.
func (g *generator) cycle(first, n int) error {
	if _, err := g.client.CreateAll(context.Background(), g.flows(first, n)); err != nil {
		return fmt.Errorf("make flows: %w", err)
	}
	var requests []netlink.Message
	for i := first; i < first+n; i++ {
		requests = append(requests, g.request(i))
	}
	requests[n-1].Header.Flags |= netlink.Acknowledge
	if _, err := g.socket.SendMessages(requests); err != nil {
		return fmt.Errorf("delete flows: %w", err)
	}
	// Only refusals are answered, and the last.
	if _, err := g.socket.Receive(); err != nil {
		return fmt.Errorf("delete flows: %w", err)
	}
	return nil
}

// request asks to delete flow i.
func (g *generator) request(i int) netlink.Message {
	data := append([]byte(nil), g.delete...)
	t := churnTuple(i)
	copy(data[g.source:], t.Src.AsSlice())
	binary.BigEndian.PutUint16(data[g.port:], t.SrcPort)
	const deleteMessage = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2 // IPCTNL_MSG_CT_DELETE
	return netlink.Message{Header: netlink.Header{Type: deleteMessage, Flags: netlink.Request}, Data: data}
}

// churnTuple is the original tuple of flow i of those that come and go.
func churnTuple(i int) conntrack.Tuple { return tuple(i, false, conntrack.ProtoUDP, 53) }

func (g *generator) flows(first, n int) iter.Seq[*conntrack.Flow] {
	return func(yield func(*conntrack.Flow) bool) {
		for i := first; i < first+n; i++ {
			f := conntrack.Flow{Orig: churnTuple(i), Timeout: lifetime}
			if !yield(&f) {
				return
			}
		}
	}
}
