//go:build linux

// Command peer does with github.com/vishvananda/netlink what the benchmark
// compares with, and prints how many flows it listed or deleted.
package main

import (
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func main() {
	n, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
	fmt.Println(n)
}

func run(args []string) (uint, error) {
	if len(args) == 1 && args[0] == "list" {
		return list(unix.AF_UNSPEC, all{})
	}
	if len(args) != 2 {
		return 0, fmt.Errorf("usage: peer list [SERVER] | delete SERVER, not %q", args)
	}
	to := &netlink.ConntrackFilter{}
	if err := to.AddIP(netlink.ConntrackReplySrcIP, net.ParseIP(args[1])); err != nil {
		return 0, err
	}
	switch args[0] {
	case "list":
		return list(unix.AF_INET, to)
	case "delete":
		return netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, to)
	}
	return 0, fmt.Errorf("no command %q", args[0])
}

// all matches every flow.
type all struct{}

func (all) MatchConntrackFlow(*netlink.ConntrackFlow) bool { return true }

// list lists the table and counts what the filter matches.
func list(family netlink.InetFamily, filter netlink.CustomConntrackFilter) (n uint, err error) {
	flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
	if err != nil {
		return 0, err
	}
	for _, f := range flows {
		if filter.MatchConntrackFlow(f) {
			n++
		}
	}
	return n, nil
}
