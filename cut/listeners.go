package cut

import (
	"context"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/netns"
)

// listeners are the sockets of the namespace that hear when flows end, such as
// that of conntrackd, by which a standby gateway knows what it takes over. What
// they do not hear of, it brings back. A queue that is full hears nothing.
type listeners struct {
	file   *os.File          // of sockets, that of the namespace
	drops  map[string]uint64 // events that each could not take, by inode
	waited time.Duration     // for them so far
	most   time.Duration     // that they are waited for in all
	stuck  map[string]bool   // not waited for any more: has not read for a while
	blind  error             // why they cannot be seen
}

const (
	heardPiece = 64                     // deletions between two looks
	heardRoom  = 64 << 10               // bytes that may wait in a queue then: it takes twice as much at least
	heardStall = 100 * time.Millisecond // until a listener that reads nothing is given up
	heardWait  = 3 * time.Second        // for all of them, in a whole cut
	heardTold  = 5 * time.Second        // for announcements, likewise
	heardPart  = 8                      // nor longer than this part of --timeout, each
)

// listener is one socket as it is now.
type listener struct {
	inode   string
	waiting uint64 // bytes in its queue
	drops   uint64
}

// newListeners returns the listeners of a namespace, nil if there are none. A cut
// that may take as long as limit waits for them for a part of it.
func newListeners(netNS int, limit time.Duration) *listeners {
	l := &listeners{stuck: map[string]bool{}, drops: map[string]uint64{}, most: min(heardWait, limit/heardPart)}
	l.blind = netns.DoFd(netNS, func() (err error) {
		l.file, err = os.Open("/proc/thread-self/net/netlink")
		return err
	})
	now := l.look()
	if len(now) == 0 && l.blind == nil {
		_ = l.close() // nothing was written
		return nil
	}
	for _, s := range now {
		l.drops[s.inode] = s.drops
	}
	return l
}

func (l *listeners) close() error {
	if l == nil || l.file == nil {
		return nil
	}
	return l.file.Close()
}

// look reads which listeners there are: none when they cannot be seen.
func (l *listeners) look() (out []listener) {
	const most = 1 << 24
	if l.blind != nil {
		return nil
	}
	text, err := io.ReadAll(io.NewSectionReader(l.file, 0, most))
	if l.blind = err; err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		if s, ok := parseListener(line); ok {
			out = append(out, s)
		}
	}
	return out
}

// parseListener reads a line as netlink_native_seq_show in
// net/netlink/af_netlink.c writes it: address, protocol, port, groups as bits,
// bytes to be read, bytes sent, dump, references, drops, inode.
func parseListener(line string) (s listener, ok bool) {
	const netfilter, destroyed = "12", 1 << 2 // NETLINK_NETFILTER, NFNLGRP_CONNTRACK_DESTROY
	f := strings.Fields(line)
	if len(f) < 10 || f[1] != netfilter {
		return s, false
	}
	groups, err := strconv.ParseUint(f[3], 16, 32)
	if err != nil || groups&destroyed == 0 {
		return s, false
	}
	s.inode = f[9]
	if s.waiting, err = strconv.ParseUint(f[4], 10, 64); err != nil {
		return s, false
	}
	s.drops, err = strconv.ParseUint(f[8], 10, 64)
	return s, err == nil
}

// wait waits until no listener has more than room bytes to read, but not for ever.
func (l *listeners) wait(ctx context.Context, room uint64) error {
	began := time.Now()
	defer func() { l.waited += time.Since(began) }()
	moved := began
	var before map[string]uint64
	for l.waited+time.Since(began) < l.most {
		full := map[string]uint64{}
		for _, s := range l.look() {
			if s.waiting > room && !l.stuck[s.inode] {
				full[s.inode] = s.waiting
				if s.waiting != before[s.inode] {
					moved = time.Now()
				}
			}
		}
		if len(full) == 0 {
			return nil
		}
		if time.Since(moved) > heardStall {
			for inode := range full {
				l.stuck[inode] = true
			}
			return nil
		}
		before = full
		if err := wait(ctx, time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// lost tells whether listeners have lost events since the last call.
func (l *listeners) lost() (lost bool) {
	for _, s := range l.look() {
		was, known := l.drops[s.inode]
		lost = lost || known && s.drops != was
		l.drops[s.inode] = s.drops
	}
	return lost
}

// delete deletes the entries of members, and takes down whose end no listener
// has heard of.
func (c *cutting) delete(ctx context.Context, list []*member) error {
	piece := len(list)
	if c.listeners != nil {
		piece = heardPiece
	}
	for chunk := range slices.Chunk(list, max(1, piece)) {
		if err := c.deleteSome(ctx, chunk); err != nil {
			return err
		}
		if c.listeners != nil {
			if err := c.listeners.wait(ctx, heardRoom); err != nil {
				return err
			}
		}
	}
	c.deleted = time.Now()
	return nil
}

func (c *cutting) deleteSome(ctx context.Context, list []*member) error {
	keys := make([]conntrack.Key, len(list))
	c.looking.Lock()
	for i, m := range list {
		keys[i] = m.key
		m.deleted, m.unheard = true, c.listeners != nil
	}
	c.looking.Unlock()
	var heard func(int)
	if c.listeners != nil {
		heard = func(i int) { list[i].unheard = false }
	}
	_, err := c.ct.DeleteHeard(ctx, keys, func(i int) { list[i].gone = true }, heard)
	return err
}

// announce tells the listeners of the ends that they have not heard of: of flows
// that began before they listened, and of all if they have lost something. One
// that does not read will not hear of these either. Where they cannot be seen
// there may be none, and what is announced to nobody stays in the table.
func (c *cutting) announce(ctx context.Context) error {
	const times = 2
	if c.listeners == nil {
		return nil
	}
	if c.listeners.blind != nil {
		c.allUnheard()
		return nil
	}
	missed := false // by one that does not read
	for range times {
		lost := c.listeners.lost()
		if lost && len(c.listeners.stuck) == 0 {
			c.allUnheard()
		} else {
			missed = missed || lost
		}
		list := c.unheard()
		if len(list) == 0 {
			break
		}
		if err := c.announceAll(ctx, list); err != nil {
			return err
		}
	}
	if c.listeners.lost() || missed {
		c.allUnheard()
	}
	return nil
}

// allUnheard takes down that no listener may have heard of any end.
func (c *cutting) allUnheard() {
	for _, m := range c.members.list {
		m.unheard = m.deleted
	}
}

// unheard returns the flows whose end is to be announced.
func (c *cutting) unheard() (list []*member) {
	for _, m := range c.members.list {
		if m.unheard {
			list = append(list, m)
		}
	}
	return list
}

func (c *cutting) announceAll(ctx context.Context, list []*member) error {
	if err := c.listeners.wait(ctx, 0); err != nil { // one that has lost something hears nothing before
		return err
	}
	until := time.Now().Add(min(heardTold, c.o.Timeout/heardPart))
	for chunk := range slices.Chunk(list, heardPiece/2) { // of two events each
		if time.Now().After(until) {
			return nil // the rest is said to be unheard
		}
		var flows []*conntrack.Flow
		for _, m := range chunk {
			flows = append(flows, m.bare())
		}
		if err := c.ct.Announce(ctx, flows, func(i int) { chunk[i].unheard = false }); err != nil {
			return err
		}
		if err := c.listeners.wait(ctx, heardRoom); err != nil {
			return err
		}
	}
	return nil
}
