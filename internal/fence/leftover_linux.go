package fence

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
	"flowcut/internal/iptables"
)

// xtChains is what the names of our chains of iptables begin with.
const xtChains = "FLOWCUT-"

// owner is the process that a fence of iptables belongs to.
type owner struct {
	pid   int
	start string // when it started, in clock ticks since the system did
	space string // namespace of its process number
}

// self is this process. What cannot be told is empty: /proc may be missing.
func self() owner {
	// By this name /proc has us also where it is that of another namespace, in
	// which our number is that of somebody else.
	o := owner{pid: os.Getpid()}
	_, o.start, _ = stat("self")
	space, _ := os.Readlink("/proc/self/ns/pid")
	o.space = strings.Trim(strings.TrimPrefix(space, "pid:"), "[]")
	return o
}

// stat returns the state and the start of a process of /proc.
func stat(process string) (state, start string, err error) {
	text, err := os.ReadFile("/proc/" + process + "/stat")
	if err != nil {
		return "", "", err
	}
	after := text[bytes.LastIndexByte(text, ')')+1:] // the name before may have anything
	const starttime = 22 - 3                         // field 22, counted from the third
	words := strings.Fields(string(after))
	if len(words) <= starttime {
		return "", "", fmt.Errorf("/proc/%s/stat has %d fields", process, len(words))
	}
	return words[0], words[starttime], nil
}

// comment is what the rules that call our chains say.
func (o owner) comment(id uint32) string {
	return fmt.Sprintf("flowcut-%08x pid %d start %s in %s", id, o.pid, o.start, o.space)
}

// lives tells whether the process is there, and whether that can be told. That
// nothing is seen of it in /proc tells nothing: that may be hidden from us.
func (o owner) lives() (lives, known bool) {
	if o.space == "" || o.start == "" || o.space != self().space {
		return false, false
	}
	if errors.Is(unix.Kill(o.pid, 0), unix.ESRCH) {
		return false, true
	}
	if number, err := os.Readlink("/proc/self"); err != nil || number != strconv.Itoa(os.Getpid()) {
		return false, false // that of another namespace
	}
	state, start, err := stat(strconv.Itoa(o.pid))
	dead := state == "Z" || state == "X" // and not yet waited for by its parent
	return err == nil && start == o.start && !dead, err == nil
}

// Leftover is a fence of iptables whose process is gone, in one family and
// table.
type Leftover struct {
	Name   string // of its chains
	Family conntrack.Family
	Table  string
	Until  time.Time // from then on it does nothing; zero if no rule calls it
	Pid    int       // of the process that made it; 0 if no rule tells

	tools *iptables.Tools
}

// String says what it is and where.
func (l Leftover) String() string {
	return fmt.Sprintf("chains %s of table %s (%s), made by process %d", l.Name, l.Table, l.Family, l.Pid)
}

var (
	chainLine = regexp.MustCompile(`^:(` + xtChains + `[0-9a-f]{8})[ -]`)
	stopWord  = regexp.MustCompile(`--datestop (\S+)`)
	ownerWord = regexp.MustCompile(`flowcut-([0-9a-f]{8}) pid (\d+) start (\d*) in (\d*)`)
)

// Leftovers finds what fences of iptables have left behind that nobody has
// lifted: chains whose process is gone, or, where that cannot be told, as of a
// process in another container, whose time is over. A namespace without tables of
// iptables has none, and so has a host without the programs.
//
// Needs to be root, or CAP_NET_ADMIN, CAP_NET_RAW and CAP_DAC_READ_SEARCH. The namespace is given by a descriptor, 0
// is the calling thread's.
func Leftovers(ctx context.Context, netNS int) ([]Leftover, error) {
	var out []Leftover
	for _, family := range []conntrack.Family{conntrack.FamilyIPv4, conntrack.FamilyIPv6} {
		tools, err := iptables.Find(ctx, family, netNS)
		if errors.Is(err, conntrack.ErrNotSupported) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("fence: look for leftovers: %w", err)
		}
		tables, err := tools.Tables(ctx)
		if err != nil {
			return nil, fmt.Errorf("fence: look for leftovers: %w", err)
		}
		for _, table := range xtTables {
			for _, l := range leftovers(tables[table], time.Now()) {
				l.Family, l.Table, l.tools = family, table, tools
				out = append(out, l)
			}
		}
	}
	return out, nil
}

// leftovers finds them in a table as iptables-save(8) writes it.
func leftovers(text string, now time.Time) []Leftover {
	var names []string
	for line := range strings.Lines(text) {
		if m := chainLine.FindStringSubmatch(line); m != nil && !slices.Contains(names, m[1]) {
			names = append(names, m[1])
		}
	}
	var out []Leftover
	for _, name := range names {
		l := Leftover{Name: name}
		over := true
		for _, rule := range callers(text, name) {
			if m := stopWord.FindStringSubmatch(rule); m != nil {
				l.Until, _ = time.Parse("2006-01-02T15:04:05", m[1])
			}
			over = !now.Before(l.Until)
			m := ownerWord.FindStringSubmatch(rule)
			if m == nil || xtChains+m[1] != name {
				over = false // somebody else's, and of a similar name
				break
			}
			l.Pid, _ = strconv.Atoi(m[2])
			if lives, known := (owner{l.Pid, m[3], m[4]}).lives(); known {
				over = !lives
			}
		}
		if over {
			out = append(out, l)
		}
	}
	return out
}

// callers are the rules that lead to chains of a fence from outside.
func callers(text, name string) (rules []string) {
	for line := range strings.Lines(text) {
		rule, _, ok := parseCounted(line)
		words := strings.Fields(rule)
		if !ok || len(words) < 2 || isChainOf(words[1], name) {
			continue
		}
		if isChainOf(words[len(words)-1], name) {
			rules = append(rules, rule)
		}
	}
	return rules
}

// isChainOf tells whether a chain is one of a fence.
func isChainOf(chain, name string) bool { return chain == name || strings.HasPrefix(chain, name+"-") }

// Remove removes it. What is gone already is no error.
func (l Leftover) Remove(ctx context.Context) error {
	if err := removeChains(ctx, l.tools, l.Name, l.Table); err != nil {
		return fmt.Errorf("fence: remove %s: %w", l, err)
	}
	return nil
}

// removeChains removes from tables what there is of the chains of a fence, and of
// the rules that lead to them; the last table first, what stops before what notes.
func removeChains(ctx context.Context, tools *iptables.Tools, name string, tables ...string) error {
	var changes []iptables.Change
	for _, table := range slices.Backward(tables) {
		saved, err := tools.Save(ctx, table)
		if err != nil {
			return err
		}
		if text := removal(saved, name); text != "" {
			changes = append(changes, iptables.Change{Table: table, Text: text})
		}
	}
	if len(changes) == 0 {
		return nil
	}
	return tools.Restore(ctx, changes...)
}

// removal is what removes chains from a table; "" if there are none.
func removal(table, name string) string {
	var rules, empty, gone strings.Builder
	for _, rule := range callers(table, name) {
		fmt.Fprintln(&rules, "-D", strings.TrimPrefix(rule, "-A "))
	}
	for line := range strings.Lines(table) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if chain, ok := strings.CutPrefix(words[0], ":"); ok && isChainOf(chain, name) {
			fmt.Fprintln(&empty, "-F", chain)
			fmt.Fprintln(&gone, "-X", chain)
		}
	}
	return rules.String() + empty.String() + gone.String()
}
