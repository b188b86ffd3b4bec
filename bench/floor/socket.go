//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	room  = 64 << 10 // for what is received; the kernel fills 32 KiB of a dump at most
	queue = 64 << 20 // for events that wait, as the others are told to have

	// From enum ctattr_type and enum ctattr_filter.
	attrReply       = 2                                 // CTA_TUPLE_REPLY
	attrIP          = 1                                 // CTA_TUPLE_IP
	attrSource      = 1                                 // CTA_IP_V4_SRC
	attrFilter      = 25                                // CTA_FILTER
	attrOrigFlags   = 1                                 // CTA_FILTER_ORIG_FLAGS
	attrReplyFlags  = 2                                 // CTA_FILTER_REPLY_FLAGS
	bySource        = 1                                 // CTA_FILTER_F_CTA_IP_SRC
	messageGet      = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1 // IPCTNL_MSG_CT_GET
	headerSize      = unix.SizeofNlMsghdr
	netfilterHeader = 4 // struct nfgenmsg
)

// open opens a socket that is a member of groups, a bit each.
func open(groups uint32) (int, error) {
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return -1, fmt.Errorf("open a netlink socket: %w", err)
	}
	if groups != 0 {
		if err := unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, queue); err != nil {
			return -1, fmt.Errorf("set a receive queue of %d bytes: %w; run as root", queue, err)
		}
	}
	if err := unix.Bind(s, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return -1, fmt.Errorf("bind a netlink socket: %w", err)
	}
	return s, nil
}

// request makes the request for a dump: of all, or of those IPv4 flows whose
// replies come from server.
func request(server []byte) []byte {
	body := make([]byte, netfilterHeader)
	if server != nil {
		body[0] = unix.AF_INET
		e := netlink.NewAttributeEncoder()
		e.Nested(attrReply, func(e *netlink.AttributeEncoder) error {
			e.Nested(attrIP, func(e *netlink.AttributeEncoder) error {
				e.Bytes(attrSource, server)
				return nil
			})
			return nil
		})
		e.Nested(attrFilter, func(e *netlink.AttributeEncoder) error {
			e.Uint32(attrOrigFlags, 0)
			e.Uint32(attrReplyFlags, bySource)
			return nil
		})
		attrs, _ := e.Encode() // fails only if something is too long
		body = append(body, attrs...)
	}
	b := binary.NativeEndian.AppendUint32(nil, uint32(headerSize+len(body)))
	b = binary.NativeEndian.AppendUint16(b, messageGet)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	b = append(b, 0, 0, 0, 1, 0, 0, 0, 0) // sequence number, port
	return append(b, body...)
}

// count counts the messages in a datagram; done means that it ends the dump.
func count(b []byte) (n int, done bool, err error) {
	for len(b) >= headerSize {
		size := int(binary.NativeEndian.Uint32(b))
		if size < headerSize || size > len(b) {
			return n, true, fmt.Errorf("message of %d bytes, %d are there", size, len(b))
		}
		switch binary.NativeEndian.Uint16(b[4:]) {
		case unix.NLMSG_DONE:
			return n, true, nil
		case unix.NLMSG_ERROR:
			errno := unix.Errno(-int32(binary.NativeEndian.Uint32(b[headerSize:])))
			return n, true, fmt.Errorf("the kernel refuses: %w", errno)
		}
		n++
		b = b[min(len(b), (size+3)&^3):]
	}
	return n, false, nil
}

// receive receives one datagram.
func receive(s int, buf []byte) (int, error) {
	for {
		n, err := unix.Read(s, buf)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
