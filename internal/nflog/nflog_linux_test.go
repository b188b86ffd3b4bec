package nflog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

// What a rule copies arrives with its prefix, from the network header on and no
// longer than was asked for, and nothing of another group's.
func TestRead(t *testing.T) {
	net := labtest.Standard(t, lab.Config{})
	h := net.Gateway.Host
	c, err := Open(h.NS.Fd(), 32)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	other, err := Open(h.NS.Fd(), 32)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if c.Group() == other.Group() {
		t.Fatalf("both have group %d", c.Group())
	}
	rule := []string{"-w", "-A", "OUTPUT", "-p", "udp", "--dport", "9", "-j", "NFLOG", "--nflog-prefix", "some prefix", "--nflog-group"}
	err = h.NS.Do(func() error {
		cmd := exec.Command("iptables-legacy", append(rule, strconv.Itoa(int(c.Group())))...)
		return cmd.Run()
	})
	if err != nil {
		t.Fatal(err)
	}
	labtest.Listen(t, net.Servers[0].Host, 9)
	to := netip.AddrPortFrom(net.Servers[0].Addr4, 9)
	labtest.Exchange(t, h, lab.Datagrams{To: to, Up: 200})
	var got []Packet
	read := func(c *Conn) (list []Packet) {
		t.Helper()
		err := c.Read(func(p Packet) { list = append(list, Packet{p.Prefix, bytes.Clone(p.Data)}) })
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	labtest.Until(t, "ten packets", func() bool { got = append(got, read(c)...); return len(got) >= 10 })
	for _, p := range got {
		if p.Prefix != "some prefix" || len(p.Data) != 32 || p.Data[0] != 0x45 || binary.BigEndian.Uint16(p.Data[22:]) != 9 {
			t.Fatalf("prefix %q, data % x", p.Prefix, p.Data)
		}
	}
	if list := read(other); len(list) != 0 {
		t.Errorf("the other group has %d packets", len(list))
	}
	if c.Lost() != 0 {
		t.Errorf("lost %d times", c.Lost())
	}
	// What is not read for long is lost, and that is told.
	if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond) // time itself is meant
	read(c)
	if c.Lost() == 0 {
		t.Error("nothing is said to be lost")
	}
}

// No bytes bring the parser down, and what it takes for a packet lies inside them.
func FuzzParse(f *testing.F) {
	payload := append(attr(attrPrefix, []byte("dead\x00")), attr(attrPayload, []byte{0x45, 0, 0, 20})...)
	message := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+sizeofNfgenmsg+len(payload)))
	message = binary.NativeEndian.AppendUint16(message, msgPacket)
	message = append(message, make([]byte, 10+sizeofNfgenmsg)...)
	message = append(message, payload...)
	f.Add(message)
	f.Add(append(bytes.Clone(message), message...))
	f.Add(message[:len(message)-3])
	long := bytes.Clone(message)
	long[unix.SizeofNlMsghdr+sizeofNfgenmsg] = 200 // the length of an attribute
	f.Add(long)
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		err := parse(b, func(p Packet) { n += len(p.Data) + len(p.Prefix) })
		if n > len(b) {
			t.Errorf("%d bytes out of %d", n, len(b))
		}
		if err != nil && !errors.Is(err, errShort) {
			t.Errorf("error %v", err)
		}
	})
}
