//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	topTime   = 75 * time.Second // of each round
	topLeast  = 100_000          // flows: smaller tables are walked through each second
	topRounds = 2
	topWidth  = 80
	topHeight = 24

	clockTick = 100 // of /proc/PID/stat, in a second
)

// topChurn are flows that begin and end in each second.
var topChurn = []int{0, 1_000}

// Values of part top.
const (
	topCPU      = "CPU, % of one processor"
	topMemory   = "peak memory, MB"
	topKeys     = "keys"
	topHalf     = "answer p50, ms"
	topMost     = "answer p99, ms"
	topWorst    = "longest answer, ms"
	topInterval = "walk every, s"
)

// runTop looks at the table by "flowcut top", and types.
func runTop(ctx context.Context, b *bench) ([]*table, error) {
	n := b.site.size
	if n < topLeast || n > peerMost {
		return nil, nil
	}
	t := &table{
		Work: "top", Title: "Watch the table, and type a key each half second", Size: n, Env: b.env,
		Columns: []string{topCPU, topMemory, topKeys, topHalf, topMost, topWorst, topInterval},
	}
	for _, rate := range topChurn {
		r := row{Name: thousands(rate) + " flows a second begin and end", Who: us}
		for i := range min(b.rounds, topRounds) {
			say("top, %s flows, %d a second: round %d of %d", thousands(n), rate, i+1, min(b.rounds, topRounds))
			m, err := b.top(ctx, rate)
			if err != nil {
				return nil, fmt.Errorf("flowcut top: %w", err)
			}
			r.Rounds = append(r.Rounds, m)
		}
		t.Rows = append(t.Rows, r)
	}
	return []*table{t}, nil
}

// top is one round.
func (b *bench) top(ctx context.Context, rate int) (m measure, err error) {
	limit, cancel := context.WithTimeout(ctx, 4*topTime)
	defer cancel()
	begin := time.Now()
	t, err := openTerminal(b.site.gateway, topWidth, topHeight, []string{b.flowcut, "top"})
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	if _, err := t.await(limit, "there are rows", func(l []string) bool { return cursor(l) > 0 }); err != nil {
		return m, err
	}
	churned := make(chan error, 1)
	churning, stop := context.WithCancel(limit)
	go func() { churned <- b.site.trickle(churning, rate) }()
	answers, err := t.typeKeys(limit, begin.Add(topTime))
	stop()
	if err := errors.Join(err, <-churned); err != nil {
		return m, err
	}
	m.Wall = time.Since(begin)
	if m.CPU, m.Memory, err = taken(t.cmd.Process.Pid); err != nil {
		return m, err
	}
	interval, err := walkEvery(t.lines())
	if err != nil {
		return m, err
	}
	slices.Sort(answers)
	n := len(answers)
	m.Values = map[string]float64{
		topCPU: 100 * m.CPU.Seconds() / m.Wall.Seconds(), topMemory: float64(m.Memory) / 1e6, topKeys: float64(n), topInterval: interval,
		topHalf: milliseconds(answers[n/2]), topMost: milliseconds(answers[n*99/100]), topWorst: milliseconds(answers[n-1]),
	}
	_, err = t.pty.WriteString("q")
	return m, errors.Join(err, t.cmd.Wait())
}

// trickle makes flows and ends them, at a rate.
func (s *site) trickle(ctx context.Context, rate int) error {
	g, err := s.newGenerator()
	if err != nil {
		return err
	}
	defer g.close()
	clock := time.NewTicker(tick)
	defer clock.Stop()
	begin, flows := time.Now(), 0
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-clock.C:
		}
		due := int(time.Since(begin).Seconds()*float64(rate)) - flows
		if err := g.cycle(s.size+flows, due); err != nil { // of clients that have none
			return err
		}
		flows += due
	}
}

// typeKeys types keys at random moments and returns how long each answer took.
func (t *terminal) typeKeys(ctx context.Context, end time.Time) ([]time.Duration, error) {
	r := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	var answers []time.Duration
	for time.Now().Before(end) {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(time.Duration(r.IntN(1000)) * time.Millisecond): // time itself is meant: a moment that nothing decides
		}
		keys := t.keys(r)
		for _, k := range keys {
			took, err := t.press(ctx, k.key, k.shows)
			if err != nil {
				return nil, err
			}
			answers = append(answers, took)
		}
	}
	return answers, nil
}

// keystroke is a key, and what the screen shows when it was answered.
type keystroke struct {
	key   string
	shows func(lines []string) bool
}

// keys draws keys whose answers are not on the screen yet.
func (t *terminal) keys(r *rand.Rand) []keystroke {
	l := t.lines()
	shown := func(word string) func([]string) bool {
		return func(l []string) bool { return strings.Contains(l[1], "["+word+"]") }
	}
	all := []keystroke{
		{"r", shown("rate")}, {"b", shown("bytes")}, {"a", shown("age")}, {"c", shown("count")},
		{"1", shown("flows")}, {"2", shown("server")}, {"3", shown("client")}, {"4", shown("port")}, {"5", shown("protocol")},
		{"6", shown("nat-target")}, {"7", shown("zone")},
	}
	if at := cursor(l); at > 0 {
		moved := func(l []string) bool { return cursor(l) != at }
		if at > 4 {
			all = append(all, keystroke{"k", moved}, keystroke{"\x1b[A", moved}, keystroke{"g", moved})
		}
		if at+1 < topHeight-3 && strings.TrimSpace(l[at+1]) != "" {
			all = append(all, keystroke{"j", moved}, keystroke{"\x1b[B", moved}, keystroke{"G", moved})
		}
	}
	if r.IntN(12) == 0 {
		return filterKeys(l, []string{"-p udp", "--dport 443", "-s 10.0.0.0/12", "-g"}[r.IntN(4)])
	}
	all = slices.DeleteFunc(all, func(k keystroke) bool { return k.shows(l) })
	return []keystroke{all[r.IntN(len(all))]}
}

// filterKeys type a filter in the place of the one that is there.
func filterKeys(l []string, text string) []keystroke {
	const head = "filter>"
	line := func(want string) func([]string) bool {
		return func(l []string) bool { return strings.TrimRight(l[2], " ") == strings.TrimRight(want, " ") }
	}
	out := []keystroke{{"/", func(l []string) bool { return strings.HasPrefix(l[2], head) }}}
	if !strings.Contains(l[2], "none, all flows") {
		out = append(out, keystroke{"\x15", line(head)}) // Ctrl-U
	}
	typed := ""
	for i := range text {
		typed += text[i : i+1]
		if text[i] == ' ' {
			continue
		}
		key := text[i : i+1]
		if i > 0 && text[i-1] == ' ' {
			key = " " + key
		}
		out = append(out, keystroke{key, line(head + " " + typed)})
	}
	return append(out, keystroke{"\r", func(l []string) bool { return strings.HasPrefix(l[2], "filter: "+text) }})
}

// cursor returns the line that the cursor is on, 0 if there is none.
func cursor(lines []string) int {
	return max(0, slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, ">") }))
}

// walkEvery finds how often the table is walked through.
func walkEvery(lines []string) (float64, error) {
	for _, l := range lines {
		if _, rest, ok := strings.Cut(l, "whole table every "); ok {
			n, _, _ := strings.Cut(rest, " ")
			return strconv.ParseFloat(n, 64)
		}
	}
	return 0, nil // the walk of a new filter is under way
}

// taken is what a process that runs has taken.
func taken(pid int) (cpu time.Duration, memory int64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest) // from the third on
	user, uerr := strconv.Atoi(fields[11])
	system, serr := strconv.Atoi(fields[12])
	text, ferr := field(fmt.Sprintf("/proc/%d/status", pid), "VmHWM")
	if err := errors.Join(uerr, serr, ferr); err != nil {
		return 0, 0, err
	}
	_, err = fmt.Sscan(text, &memory)
	return time.Duration(user+system) * time.Second / clockTick, memory << 10, err
}
