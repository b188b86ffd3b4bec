//go:build linux

// Command record writes seeds for the fuzz targets that read routing, devices,
// tc and nf_tables: what the running kernel says of a scratch network
// namespace. Run it in the root of the module, as root:
//
//	go run ./internal/fuzz/record
package main

import (
	_ "embed"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"flowcut/internal/netns"
	"flowcut/internal/rtnl"
)

// site is run by sh(1) in the namespace.
//
//go:embed site.sh
var site string

func main() {
	ns, err := netns.New()
	if err == nil {
		err = ns.Do(record)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
}

func record() error {
	cmd := exec.Command("sh", "-eu")
	cmd.Stdin, cmd.Stderr = strings.NewReader(site), os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("make the site: %w", err)
	}
	if err := routes(); err != nil {
		return err
	}
	return lists()
}

// routes writes the answers to questions for single routes.
func routes() error {
	c, err := rtnl.Dial(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	for name, dst := range map[string]string{
		"unicast": "10.0.0.9", "gateway": "10.1.0.1", "hops": "10.2.0.1", "via": "10.3.0.1",
		"local": "10.0.0.1", "unicast6": "2001:db8::9", "gateway6": "2001:db8:1::1", "hops6": "2001:db8:2::1",
	} {
		for kind, flags := range map[string]uint32{"": 0, "-fib": unix.RTM_F_FIB_MATCH} {
			b, err := c.Ask(unix.RTM_GETROUTE, 0, rtnl.RouteRequest(netip.MustParseAddr(dst), flags))
			if err != nil {
				return fmt.Errorf("route to %s: %w", dst, err)
			}
			if err := write("route-"+name+kind, b, "rtnl/FuzzRoute", "probe/FuzzAnswer", "detour/FuzzLink"); err != nil {
				return err
			}
		}
	}
	return nil
}

// list is a question whose answer is many messages.
type list struct {
	name     string
	protocol int
	typ      uint16
	body     []byte
	targets  []string
}

// lists writes lists of all kinds.
func lists() error {
	v1, err := net.InterfaceByName("v1")
	if err != nil {
		return err
	}
	filters := make([]byte, 20) // struct tcmsg
	binary.NativeEndian.PutUint32(filters[4:], uint32(v1.Index))
	binary.NativeEndian.PutUint32(filters[12:], 0xfffffff2) // TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)
	nft := func(typ uint16, family byte, attrs ...string) list {
		b := []byte{family, 0, 0, 0}
		for i, name := range attrs { // table and name are the first two of all objects
			b = rtnl.Append(b, uint16(i+1), append([]byte(name), 0))
		}
		return list{protocol: unix.NETLINK_NETFILTER, typ: unix.NFNL_SUBSYS_NFTABLES<<8 | typ, body: b}
	}
	named := func(l list, name string, targets ...string) list {
		l.name, l.targets = name, targets
		return l
	}
	all := []list{
		{"rule", unix.NETLINK_ROUTE, unix.RTM_GETRULE, make([]byte, unix.SizeofRtMsg), []string{"rtnl/FuzzRoute"}},
		{"link", unix.NETLINK_ROUTE, unix.RTM_GETLINK, make([]byte, unix.SizeofIfInfomsg), []string{"detour/FuzzLink", "probe/FuzzAnswer"}},
		{"neighbour", unix.NETLINK_ROUTE, unix.RTM_GETNEIGH, make([]byte, unix.SizeofNdMsg), []string{"probe/FuzzAnswer"}},
		{"address", unix.NETLINK_ROUTE, unix.RTM_GETADDR, make([]byte, unix.SizeofIfAddrmsg), []string{"probe/FuzzAnswer"}},
		{"qdisc", unix.NETLINK_ROUTE, unix.RTM_GETQDISC, make([]byte, 20), []string{"detour/FuzzFilter"}},
		{"filter", unix.NETLINK_ROUTE, unix.RTM_GETTFILTER, filters, []string{"detour/FuzzFilter"}},
		named(nft(unix.NFT_MSG_GETCHAIN, unix.NFPROTO_NETDEV), "chain", "detour/FuzzTables"),
		named(nft(unix.NFT_MSG_GETRULE, unix.NFPROTO_NETDEV), "rule", "detour/FuzzTables"),
		named(nft(unix.NFT_MSG_GETRULE, unix.NFPROTO_IPV4), "rule", "nft/FuzzRule"),
		named(nft(unix.NFT_MSG_GETSET, unix.NFPROTO_UNSPEC), "set", "nft/FuzzHeader"),
	}
	for _, set := range []string{"single", "ranges", "ends", "catch", "timed", "tuples", "verdicts"} {
		all = append(all, named(nft(unix.NFT_MSG_GETSETELEM, unix.NFPROTO_IPV4, "t", set), set, "nft/FuzzElements"))
	}
	all = append(all, named(nft(unix.NFT_MSG_GETSETELEM, unix.NFPROTO_IPV6, "t6", "ranges"), "ranges6", "nft/FuzzElements"))
	for _, l := range all {
		if err := l.write(); err != nil {
			return fmt.Errorf("list %s: %w", l.name, err)
		}
	}
	return nil
}

// most is how many messages of a list are kept.
const most = 8

func (l list) write() error {
	c, err := rtnl.Dial(l.protocol)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	msgs, err := c.Dump(l.typ, l.body)
	if err != nil {
		return err
	}
	if len(msgs) == 0 {
		return fmt.Errorf("it is empty")
	}
	for i, b := range msgs[:min(len(msgs), most)] {
		if err := write(fmt.Sprintf("%s-%d", l.name, i), b, l.targets...); err != nil {
			return err
		}
	}
	return nil
}

// write writes a seed for targets.
func write(name string, b []byte, targets ...string) error {
	for _, target := range targets {
		pkg, function, _ := strings.Cut(target, "/")
		dir := filepath.Join("internal", pkg, "testdata/fuzz", function)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		text := fmt.Sprintf("go test fuzz v1\n[]byte(%q)\n", b)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
