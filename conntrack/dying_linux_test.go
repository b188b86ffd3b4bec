package conntrack

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// deafWatcher opens a socket that insists on each end of a flow and reads none.
func deafWatcher(t testing.TB) {
	t.Helper()
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := nl.Close(); err != nil {
			t.Error(err)
		}
	})
	const destroyed = 3 // NFNLGRP_CONNTRACK_DESTROY
	if err := errors.Join(nl.SetReadBuffer(1), nl.SetOption(netlink.BroadcastError, true), nl.JoinGroup(destroyed)); err != nil {
		t.Fatal(err)
	}
}

// TestDumpDying deletes flows whose end a watcher does not take.
func TestDumpDying(t *testing.T) {
	c := dialTest(t)
	deafWatcher(t)
	fill(t, c, 50)
	six := &Flow{Orig: tuple(ProtoUDP, "[::1]:1", "[::2]:2"), Timeout: time.Minute}
	mustCreate(t, c, six)
	keys := keysOf(t, c)
	if got := dying(t, c, FamilyBoth); len(got) != 0 {
		t.Fatalf("%d dying before anything was deleted", len(got))
	}
	// The queue takes the first few.
	slices.SortFunc(keys, func(a, b Key) int { return a.Orig.Src.Compare(b.Orig.Src) })
	mustDelete(t, c, keys...)
	both, six6 := dying(t, c, FamilyBoth), dying(t, c, FamilyIPv6)
	if len(both) < 20 || !slices.Contains(both, six.Orig) {
		t.Errorf("%d dying, want most of 51 and the last of them", len(both))
	}
	if !slices.Equal(six6, []Tuple{six.Orig}) {
		t.Errorf("dying of IPv6: %v", six6)
	}
	if four := dying(t, c, FamilyIPv4); len(four) != len(both)-1 {
		t.Errorf("%d dying of IPv4, want %d", len(four), len(both)-1)
	}
	if left := keysOf(t, c); len(left) != 0 {
		t.Errorf("%d flows in the table", len(left))
	}
	for range c.DumpDying(t.Context(), FamilyBoth) {
		break
	}
	if _, err := c.Count(t.Context()); err != nil {
		t.Errorf("after a dump that was left: %v", err)
	}
}

// dying returns the original tuples of the dying flows of family f.
func dying(t testing.TB, c *Client, f Family) []Tuple {
	t.Helper()
	var all []Tuple
	for f, err := range c.DumpDying(t.Context(), f) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, f.Orig)
	}
	return all
}

// TestDumpUnconfirmed: this kernel has no such list, and says so by an empty
// one.
func TestDumpUnconfirmed(t *testing.T) {
	c := dialTest(t)
	fill(t, c, 5)
	for f, err := range c.DumpUnconfirmed(t.Context(), FamilyBoth) {
		t.Fatalf("%v, %v", f, err)
	}
}
