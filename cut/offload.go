package cut

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/detour"
	"flowcut/internal/fence"
	"flowcut/internal/netns"
)

// A flowtable forwards the packets of its flows before any rule sees them.
// Whatever carries them looks for each packet whether the flow's entry is dying,
// and then leaves it to the hooks (flow_offload_lookup, Linux 5.15 to 7.3). So
// flows that are offloaded are deleted before their ends are asked, whose answers
// would pass by the fence, and are silent from then on.
//
// Hardware does not look. The flowtable's collector runs once in collector and has
// the driver take away what is dying. It passes a flow by whose work for the driver
// still waits, so it has to come twice.
const (
	collector     = time.Second // HZ, nf_flow_offload_work_gc
	hardwareLeast = 2*collector + collector/2
	hardwareMost  = 5 * collector
)

// offload is what forwards a flow past the hooks.
type offload uint8

const (
	onHooks offload = iota // nothing
	inSoftware
	inHardware
)

func offloadOf(s conntrack.Status) offload {
	switch {
	case s&conntrack.StatusHWOffload != 0: // stays for a moment when the other one is gone
		return inHardware
	case s&conntrack.StatusOffload != 0:
		return inSoftware
	}
	return onHooks
}

// offloaded returns the members that a flowtable forwards.
func (ms memberList) offloaded() (out memberList) {
	for _, m := range ms {
		if m.offload != onHooks {
			out = append(out, m)
		}
	}
	return out
}

// unreleased counts those that hardware may still forward. The death of an end
// is as good as to see it let go.
func (ms memberList) unreleased() (n int) {
	for _, m := range ms {
		if m.offload != onHooks && !m.released && !(m.tcp && m.certain()) {
			n++
		}
	}
	return n
}

// deleteFirst deletes what is not told before: crowds, and what is offloaded.
func (c *cutting) deleteFirst(ctx context.Context, found []*member) error {
	if err := c.noteOffloads(ctx); err != nil {
		return err
	}
	if err := c.delete(ctx, slices.Concat(crowd(found), others(found).offloaded())); err != nil {
		return err
	}
	return c.release(ctx)
}

// noteOffloads takes down which members a flowtable forwards by now: until a
// flow meets the fence, which is late where that knows flows by their tuples, its
// next packet may bring it there.
func (c *cutting) noteOffloads(ctx context.Context) error {
	some, hardware, err := detour.Flowtables(c.o.NetNS)
	if err != nil {
		some, hardware = true, true // there may be any; detour.Find says what lasts
	}
	c.hardware = hardware
	if !some {
		return nil
	}
	offloaded := conntrack.Filter{Status: conntrack.StatusOffload, StatusMask: conntrack.StatusOffload}
	for f, err := range c.ct.Dump(ctx, offloaded) {
		if err != nil {
			return err
		}
		if m := c.members.of(f.Key()); m != nil {
			m.offload = max(m.offload, offloadOf(f.Status))
		}
	}
	return nil
}

// release waits until flowtables have let go of all flows that are deleted.
func (c *cutting) release(ctx context.Context) error {
	var list memberList
	hardware := c.hardware // whose driver may have got the work only since the listing
	for _, m := range c.members.list.offloaded() {
		if m.deleted && !m.released {
			list = append(list, m)
			hardware = hardware || m.offload == inHardware
		}
	}
	if len(list) == 0 {
		return nil
	}
	c.begin(stepRelease)
	fence.Grace()
	seen := true
	if hardware {
		var err error
		if seen, err = c.driverDone(ctx); err != nil {
			return err
		}
	}
	for _, m := range list {
		m.released = seen
	}
	c.released = time.Now()
	return nil
}

// driverDone waits until hardware has let go of what was deleted, and tells
// whether that could be seen.
func (c *cutting) driverDone(ctx context.Context) (seen bool, err error) {
	const poll = 50 * time.Millisecond
	if err := wait(ctx, hardwareLeast-time.Since(c.deleted)); err != nil {
		return false, err
	}
	for time.Since(c.deleted) < hardwareMost {
		var n int
		err := netns.DoFd(c.o.NetNS, func() (err error) {
			n, err = driverWork()
			return err
		})
		if errors.Is(err, fs.ErrNotExist) { // CONFIG_NF_FLOW_TABLE_PROCFS
			return false, nil
		}
		if err != nil || n == 0 {
			return err == nil, err
		}
		if err := wait(ctx, poll); err != nil {
			return false, err
		}
	}
	return false, nil
}

// driverWork returns how many additions and removals wait for drivers, in the
// namespace of the calling thread.
func driverWork() (int, error) {
	const path = "/proc/thread-self/net/stat/nf_flowtable"
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, err := parseDriverWork(text)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}

// parseDriverWork reads a heading, "wq_add wq_del wq_stats", and a line of
// numbers for each processor. Who does the work is not who gave it, so that only
// the sum of all lines means something.
func parseDriverWork(text []byte) (n int, err error) {
	heading, rest, _ := bytes.Cut(text, []byte("\n"))
	names := bytes.Fields(heading)
	if len(names) < 2 || string(names[0]) != "wq_add" || string(names[1]) != "wq_del" {
		return 0, fmt.Errorf("unknown heading %q", heading)
	}
	for line := range bytes.Lines(rest) {
		numbers := bytes.Fields(line)
		if len(numbers) != len(names) {
			return 0, fmt.Errorf("%d numbers under %q", len(numbers), heading)
		}
		for _, number := range numbers[:2] {
			v, err := strconv.Atoi(string(number))
			if err != nil {
				return 0, err
			}
			n += v
		}
	}
	return n, nil
}
