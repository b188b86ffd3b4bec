package doctor

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"flowcut/internal/fence"
	"flowcut/internal/rtnl"
	"flowcut/internal/ruleset"
)

// uses looks for one use of rules.
func (v *visit) uses(what ruleset.Kind, judge func(where []string) finding) (finding, error) {
	where, err := v.rules.Of(what)
	return judge(where), err
}

func lookAtZones(v *visit) (finding, error) { return v.uses(ruleset.Zone, judgeZones) }

func judgeZones(where []string) finding {
	if where == nil {
		return finding{found: "none"}
	}
	return finding{
		state: Note, found: "rules that choose a zone: " + some(where),
		means: "each flow is cut by its zone; where the same addresses and ports are in two of them, a cut of one is not proven",
	}
}

func lookAtTProxy(v *visit) (finding, error) { return v.uses(ruleset.TProxy, judgeTProxy) }

func judgeTProxy(where []string) finding {
	if where == nil {
		return finding{found: "none"}
	}
	return finding{
		state: Warning, found: "rules with a transparent proxy: " + some(where),
		means: "connections that the proxy takes are stopped and not reset: their cut is not proven. Its own connections to the other side are flows by themselves",
		do:    "end such connections at the proxy, or cut both sides and take silence for an end: flowcut cut --accept-silent",
	}
}

func lookAtSynproxy(v *visit) (finding, error) { return v.uses(ruleset.Synproxy, judgeSynproxy) }

func judgeSynproxy(where []string) finding {
	if where == nil {
		return finding{found: "none"}
	}
	return finding{
		state: Note, found: "rules with SYNPROXY: " + some(where),
		means: "it answers handshakes in the server's place and changes sequence numbers; an end may be told only once the entry is gone",
	}
}

func lookAtQueues(v *visit) (finding, error) {
	rules, err := v.rules.Of(ruleset.Queue)
	if err != nil {
		return finding{}, err
	}
	queues, hidden, err := readQueues()
	if err != nil {
		return finding{}, err
	}
	var ports []uint32
	for _, q := range queues {
		ports = append(ports, q.Listener)
	}
	who, err := owners(ports...)
	if hidden {
		err = os.ErrPermission
	}
	return judgeQueues(rules, queues, who, hidden), err
}

// readQueues returns the queues that programs listen to. They are hidden if the
// caller may only know that there are some.
func readQueues() (queues []fence.Queue, hidden bool, err error) {
	f, err := fence.New(fence.Config{})
	if err != nil {
		return nil, false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	queues, err = f.Queues()
	if errors.Is(err, os.ErrPermission) {
		hidden, err = f.Queued()
	}
	return queues, hidden, err
}

func judgeQueues(rules []string, queues []fence.Queue, who map[uint32]string, hidden bool) finding {
	var list []string
	for _, q := range queues {
		list = append(list, fmt.Sprintf("%d of %s (%d waiting)", q.Num, who[q.Listener], q.Waiting))
	}
	f := finding{state: Note, means: "a packet that waits there has no entry that could be cut, so a cut waits up to two seconds for the queues to be worked off"}
	switch {
	case list != nil:
		f.found = "queues: " + some(list)
	case hidden:
		f.state = Fail // of cuts, too
		f.found = "there are some, seen by root alone"
		f.means = "a cut does not see either what waits there since before its fence: it is not proven"
		f.do = "run it as root, or give it CAP_DAC_READ_SEARCH"
	case rules != nil:
		f.found = "rules that queue packets, which nobody takes: " + some(rules)
		f.means = "what they match is dropped, or passes if they say bypass"
	default:
		return finding{found: "none"}
	}
	return f
}

// Groups of events of connection tracking, a bit each: enum nfnetlink_groups.
const (
	eventsNew    = 1 << (unix.NFNLGRP_CONNTRACK_NEW - 1)
	eventsChange = 1 << (unix.NFNLGRP_CONNTRACK_UPDATE - 1)
	eventsEnd    = 1 << (unix.NFNLGRP_CONNTRACK_DESTROY - 1)
)

func lookAtListeners(*visit) (finding, error) {
	all, err := sockets()
	if err != nil {
		return finding{}, err
	}
	inodes := map[uint64]bool{}
	for _, s := range all {
		if s.groups&(eventsNew|eventsChange|eventsEnd) != 0 {
			inodes[s.inode] = true
		}
	}
	if len(inodes) == 0 {
		return judgeListeners(nil, 0), nil
	}
	var seen []process
	who := holders(inodes)
	for _, p := range who {
		if !slices.Contains(seen, p) {
			seen = append(seen, p)
		}
	}
	slices.SortFunc(seen, func(a, b process) int { return a.pid - b.pid })
	return judgeListeners(seen, len(inodes)-len(who)), nil
}

// judgeListeners judges who listens to events: processes, and how many sockets
// of processes that are not to be seen.
func judgeListeners(seen []process, unseen int) finding {
	var list []string
	replicates := ""
	for _, p := range seen {
		list = append(list, p.String())
		if strings.HasPrefix(p.name, "conntrackd") {
			replicates = p.String()
		}
	}
	if unseen > 0 {
		list = append(list, fmt.Sprintf("sockets of others: %d", unseen))
	}
	switch {
	case list == nil:
		return finding{found: "none"}
	case replicates != "":
		return finding{
			state: Warning, found: replicates + " replicates flows",
			means: "a gateway that takes over puts back what it was told of, and flows that it puts back look picked up; a cut that sees entries come back is not proven",
			do:    "cut on the gateway that is active, and see that the standby hears of it (conntrackd -e on the standby lists what it would put back)",
		}
	}
	return finding{
		state: Note, found: "events of flows go to " + some(list),
		means: "who keeps a copy of the table may put entries back; a cut that sees them come back is not proven",
	}
}

func lookAtFlowcuts(v *visit) (finding, error) {
	tables, err := v.rules.Tables()
	if err != nil {
		if rtnl.Missing(err) {
			return judgeFlowcuts(nil), nil
		}
		return finding{}, err
	}
	var ports []uint32
	for _, t := range tables {
		if t.Fence() && t.Owner != 0 && !slices.Contains(ports, t.Owner) {
			ports = append(ports, t.Owner)
		}
	}
	names, err := owners(ports...)
	var who []string
	for _, p := range ports {
		who = append(who, names[p])
	}
	return judgeFlowcuts(who), err
}

func judgeFlowcuts(who []string) finding {
	if who == nil {
		return finding{found: "none"}
	}
	return finding{
		state: Note, found: "cuts under way: " + some(who),
		means: "cuts do not disturb each other; what one deletes another counts as already gone",
	}
}
