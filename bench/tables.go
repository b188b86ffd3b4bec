//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"flowcut/cut"
)

// peerMost is the largest table that others than flowcut are tried with.
const peerMost = 1_000_000

// Who contends.
const (
	us      = "flowcut"
	tool    = "conntrack(8)"
	library = "vishvananda/netlink"
	floor   = "floor" // the least that the kernel can be asked for
)

func runList(ctx context.Context, b *bench) ([]*table, error) {
	n := b.site.size
	return b.duels(ctx, work{name: "list", title: "List the whole table", contenders: []contender{
		{who: us, name: "flowcut conntrack -L", argv: []string{b.flowcut, "conntrack", "-L"}, want: n, count: shown},
		{who: us, name: "flowcut list", argv: []string{b.flowcut, "list"}, want: n, lines: n + 1, count: succeeded},
		{who: tool, name: "conntrack -L", argv: []string{b.conntrack, "-L"}, most: peerMost, want: n, count: shown},
		{who: library, name: library + " ConntrackTableList", argv: []string{b.dir + "/peer", "list"}, most: peerMost, want: n, keep: true, count: printed},
		{who: floor, name: floor, argv: []string{b.dir + "/floor", "list"}, want: n, keep: true, count: printed},
	}})
}

func runFilter(ctx context.Context, b *bench) ([]*table, error) {
	n := targets(b.site.size)
	return b.duels(ctx, work{name: "filter", title: "List the flows to one server, a tenth of the table", contenders: []contender{
		{who: us, name: "flowcut conntrack -L -g -r", argv: []string{b.flowcut, "conntrack", "-L", "-g", "-r", server}, want: n, count: shown},
		{who: us, name: "flowcut list -g -r", argv: []string{b.flowcut, "list", "-g", "-r", server}, want: n, lines: n + 1, count: succeeded},
		{who: tool, name: "conntrack -L -g -r", argv: []string{b.conntrack, "-L", "-g", "-r", server}, most: peerMost, want: n, count: shown},
		{who: library, name: library + " ConntrackTableList and filter", argv: []string{b.dir + "/peer", "list", server}, most: peerMost, want: n, keep: true, count: printed},
		{who: floor, name: floor, argv: []string{b.dir + "/floor", "list", server}, want: n, keep: true, count: printed},
	}})
}

func runDelete(ctx context.Context, b *bench) ([]*table, error) {
	n := targets(b.site.size)
	w := work{name: "delete", title: "Delete the flows to one server, a tenth of the table", deletes: true, contenders: []contender{
		{who: us, name: "flowcut conntrack -D -g -r", argv: []string{b.flowcut, "conntrack", "-D", "-g", "-r", server}, want: n, count: shown},
	}}
	w.contenders = append(w.contenders, b.deleters()...)
	w.contenders = append(w.contenders, contender{
		who: floor, name: floor, argv: []string{b.dir + "/floor", "delete", server}, want: n, keep: true, clock: true, count: printed,
	})
	return b.duels(ctx, w)
}

// deleters are the others that delete the flows to the server.
func (b *bench) deleters() []contender {
	n := targets(b.site.size)
	return []contender{
		{who: tool, name: "conntrack -D -g -r", argv: []string{b.conntrack, "-D", "-g", "-r", server}, most: peerMost, want: n, count: shown},
		{who: library, name: library + " ConntrackDeleteFilters", argv: []string{b.dir + "/peer", "delete", server}, most: peerMost, want: n, keep: true, count: printed},
	}
}

func runCut(ctx context.Context, b *bench) ([]*table, error) {
	n := targets(b.site.size)
	// A million flows may take longer than the 30 s that a cut has by default.
	base := []string{b.flowcut, "cut", "-g", "-r", server, "-o", "json", "--timeout", "10m"}
	fast := slices.Concat(base, []string{"--no-kick", "--settle", "0s"})
	whole := slices.Concat(base, []string{"--accept-silent"})
	w := work{name: "cut", title: "Cut the flows to one server, a tenth of the table", deletes: true, contenders: []contender{
		{who: us, name: "flowcut cut --no-kick --settle 0s", argv: fast, want: n, keep: true, count: receipt},
		{who: us, name: "flowcut cut --accept-silent", argv: whole, want: n, keep: true, count: receipt},
	}}
	w.contenders = append(w.contenders, b.deleters()...)
	return b.duels(ctx, w)
}

// duels is [bench.duel] for a part that has one work.
func (b *bench) duels(ctx context.Context, w work) ([]*table, error) {
	t, err := b.duel(ctx, w)
	if err != nil {
		return nil, err
	}
	return []*table{t}, nil
}

// succeeded takes the exit code for all there is to know.
func succeeded(_ output, m *measure) error {
	if m.Exit != 0 {
		return fmt.Errorf("failed")
	}
	return nil
}

var shownPattern = regexp.MustCompile(`: (\d+) flow (?:entries|events) have been (?:shown|deleted)\.`)

// shown finds the number that conntrack(8) ends with.
func shown(o output, m *measure) error {
	found := shownPattern.FindStringSubmatch(o.stderr)
	if found == nil || m.Exit != 0 {
		return fmt.Errorf("no number of flows")
	}
	var err error
	m.Count, err = strconv.Atoi(found[1])
	return err
}

// printed finds the number in the last line of standard output.
func printed(o output, m *measure) error {
	if m.Exit != 0 {
		return fmt.Errorf("failed")
	}
	text := strings.TrimSpace(o.stdout)
	var err error
	m.Count, err = strconv.Atoi(text[strings.LastIndex(text, "\n")+1:])
	return err
}

// receipt reads the receipt of a cut. The exit code is noted, not judged: no
// end answers here.
func receipt(o output, m *measure) error {
	var r cut.Receipt
	if err := json.Unmarshal([]byte(o.stdout), &r); err != nil {
		return fmt.Errorf("receipt: %w", err)
	}
	m.Count = r.Flows.Deleted
	if r.Flows.Matched != r.Flows.Deleted || r.Flows.Remaining != 0 {
		return fmt.Errorf("the receipt says %+v", r.Flows)
	}
	m.Values = map[string]float64{"exit code": float64(m.Exit)}
	return nil
}
