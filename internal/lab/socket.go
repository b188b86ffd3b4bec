//go:build linux

package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"

	"github.com/mdlayher/socket"
	"golang.org/x/sys/unix"
)

// open makes a socket inside the host. IPv6 sockets that are not bound to an
// address serve IPv4 as well.
func (h *Host) open(domain, typ, proto int) (*socket.Conn, error) {
	c, err := socket.Socket(domain, typ, proto, "lab", &socket.Config{NetNS: h.NS.Fd()})
	if err != nil {
		return nil, fmt.Errorf("lab: %s: %w", h.Name, err)
	}
	return c, nil
}

// bound makes a socket of a type that is bound to a port of every address.
func (h *Host) bound(typ int, port uint16) (*socket.Conn, error) {
	c, err := h.open(unix.AF_INET6, typ, 0)
	if err != nil {
		return nil, err
	}
	for _, opt := range [][3]int{{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}, {unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0}} {
		if err := c.SetsockoptInt(opt[0], opt[1], opt[2]); err != nil {
			_ = c.Close()
			return nil, fmt.Errorf("lab: %s: %w", h.Name, err)
		}
	}
	if err := c.Bind(&unix.SockaddrInet6{Port: int(port)}); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("lab: %s: port %d: %w", h.Name, port, err)
	}
	return c, nil
}

// connect makes a socket of a type inside the host and connects it, from any
// port when local is not valid.
func (h *Host) connect(ctx context.Context, typ, proto int, local, to netip.AddrPort) (*socket.Conn, error) {
	domain := unix.AF_INET6
	if to.Addr().Is4() {
		domain = unix.AF_INET
	}
	c, err := h.open(domain, typ, proto)
	if err != nil {
		return nil, err
	}
	if local.IsValid() {
		// A server may listen on the port later on.
		if err := c.SetsockoptInt(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			_ = c.Close()
			return nil, fmt.Errorf("lab: %s: %w", h.Name, err)
		}
		if err := c.Bind(sockaddr(local)); err != nil {
			_ = c.Close()
			return nil, fmt.Errorf("lab: %s: from %s: %w", h.Name, local, err)
		}
	}
	if _, err := c.Connect(ctx, sockaddr(to)); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("lab: %s: connect to %s: %w", h.Name, to, err)
	}
	return c, nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// setLinger makes the next close of a stream a reset.
func setLinger(c *socket.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	})
	if err != nil {
		return err
	}
	return os.NewSyscallError("setsockopt", set)
}
