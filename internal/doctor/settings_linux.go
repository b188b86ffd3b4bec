package doctor

import (
	"fmt"

	"flowcut/internal/sysctl"
)

// judged reads a setting of connection tracking and judges its value.
func judged(name string, judge func(int) finding) (finding, error) {
	n, err := sysctl.Get("net.netfilter." + name)
	if err != nil {
		return finding{}, err
	}
	return judge(n), nil
}

var noTracking = finding{state: Note, found: "not there: connection tracking is not loaded", means: "no flow has been tracked yet, so there is nothing to cut"}

func lookAtLoose(*visit) (finding, error) { return judged("nf_conntrack_tcp_loose", judgeLoose) }

func judgeLoose(n int) finding {
	switch n {
	case sysctl.Absent:
		return noTracking
	case 0:
		return finding{found: "0: deleted connections are not adopted again"}
	}
	return finding{
		found: fmt.Sprintf("%d: deleted connections are adopted again", n),
		means: "entries that are deleted come back with the next packet; those of a cut are kept out",
	}
}

func lookAtLiberal(*visit) (finding, error) {
	return judged("nf_conntrack_tcp_be_liberal", judgeLiberal)
}

func judgeLiberal(n int) finding {
	switch n {
	case sysctl.Absent:
		return noTracking
	case 0:
		return finding{found: "0: segments outside the window are invalid"}
	}
	return finding{
		state: Note, found: fmt.Sprintf("%d: segments outside the window are tracked, too", n),
		means: "a forged reset with any number ends an entry; cuts do not depend on it",
	}
}

func lookAtEvents(*visit) (finding, error) { return judged("nf_conntrack_events", judgeEvents) }

func judgeEvents(n int) finding {
	switch n {
	case sysctl.Absent:
		return finding{state: Note, found: "not there", means: "nobody hears of new and deleted flows; a cut does without"}
	case 0:
		return finding{
			state: Note, found: "0: nobody hears of new and deleted flows",
			means: "conntrackd and the like do not learn of a cut",
			do:    "sysctl -w net.netfilter.nf_conntrack_events=2",
		}
	case 1:
		return finding{found: "1: every flow is announced"}
	}
	return finding{
		found: fmt.Sprintf("%d: announced while somebody listens", n),
		means: "who begins to listen does not hear of the end of older flows; a cut looks at the table itself",
	}
}

func lookAtAcct(*visit) (finding, error) { return judged("nf_conntrack_acct", judgeAcct) }

func judgeAcct(n int) finding {
	switch n {
	case sysctl.Absent:
		return noTracking
	case 0:
		return finding{
			state: Note, found: "0: list shows no BYTES",
			means: "packets and bytes are counted for flows that begin while it is 1",
			do:    "sysctl -w net.netfilter.nf_conntrack_acct=1",
		}
	}
	return finding{found: fmt.Sprintf("%d: packets and bytes are counted", n)}
}

func lookAtTimestamp(*visit) (finding, error) {
	return judged("nf_conntrack_timestamp", judgeTimestamp)
}

func judgeTimestamp(n int) finding {
	switch n {
	case sysctl.Absent:
		return finding{state: Note, found: "not there", means: "list shows no AGE"}
	case 0:
		return finding{
			state: Note, found: "0: list shows no AGE",
			means: "the time is noted for flows that begin while it is 1",
			do:    "sysctl -w net.netfilter.nf_conntrack_timestamp=1",
		}
	}
	return finding{found: fmt.Sprintf("%d: when a flow began is noted", n)}
}

func lookAtHelper(*visit) (finding, error) { return judged("nf_conntrack_helper", judgeHelper) }

func judgeHelper(n int) finding {
	switch n {
	case sysctl.Absent, 0:
		return finding{found: "flows get helpers by rules alone"}
	}
	return finding{
		state: Note, found: fmt.Sprintf("%d: flows get helpers by their port", n),
		means: "who talks to such a port can make the gateway expect connections; a cut takes expected ones with it",
		do:    "sysctl -w net.netfilter.nf_conntrack_helper=0",
	}
}

// icmpLimits are what hold for the kernel's own ICMP errors.
type icmpLimits struct {
	rate4, mask4, perSecond int // milliseconds between two to a host; a bit for each type; of all hosts together
	rate6                   int
}

func lookAtICMPLimits(*visit) (finding, error) {
	var l icmpLimits
	for key, n := range map[string]*int{
		"net.ipv4.icmp_ratelimit": &l.rate4, "net.ipv4.icmp_ratemask": &l.mask4,
		"net.ipv4.icmp_msgs_per_sec": &l.perSecond, "net.ipv6.icmp.ratelimit": &l.rate6,
	} {
		var err error
		if *n, err = sysctl.Get(key); err != nil {
			return finding{}, err
		}
	}
	return judgeICMPLimits(l), nil
}

// judgeICMPLimits never has a complaint: what must reach an end flowcut sends
// itself.
func judgeICMPLimits(l icmpLimits) finding {
	const unreachable = 1 << 3 // ICMP_DEST_UNREACH
	each := func(rate int, limited bool) string {
		if rate <= 0 || !limited {
			return "without limit"
		}
		return fmt.Sprintf("1 in %d ms", rate)
	}
	words := "IPv4 " + each(l.rate4, l.mask4&unreachable != 0)
	if l.perSecond > 0 {
		words += fmt.Sprintf(" and %d/s", l.perSecond)
	}
	if l.rate6 != sysctl.Absent {
		words += "; IPv6 " + each(l.rate6, true)
	}
	return finding{
		found: words,
		means: "this is for the kernel's own ICMP errors; those that tell the ends of a cut flow are flowcut's, which it does not limit",
	}
}

func lookAtTCPLimits(*visit) (finding, error) {
	interval, err := sysctl.Get("net.ipv4.tcp_invalid_ratelimit")
	if err != nil {
		return finding{}, err
	}
	challenges, err := sysctl.Get("net.ipv4.tcp_challenge_ack_limit")
	if err != nil {
		return finding{}, err
	}
	return judgeTCPLimits(interval, challenges), nil
}

// Defaults of the kernel. What flowcut asks of an end keeps to the first.
const (
	usualInterval   = 500  // ms between two answers of a socket to wrong segments
	usualChallenges = 1000 // challenge ACKs a second, on kernels that limit them
)

// judgeTCPLimits is about this host's own sockets; the ends elsewhere have their
// own settings, which nobody can see from here.
func judgeTCPLimits(interval, challenges int) finding {
	found := fmt.Sprintf("own sockets answer wrong segments every %d ms", max(interval, 0))
	switch {
	case interval > usualInterval:
		return finding{
			state: Note, found: found,
			means: "connections of the gateway itself may not answer a cut in time: not certain to be gone",
			do:    "sysctl -w net.ipv4.tcp_invalid_ratelimit=500",
		}
	case challenges != sysctl.Absent && challenges < usualChallenges:
		return finding{
			state: Note, found: fmt.Sprintf("this host sends %d challenge ACKs a second", challenges),
			means: "many connections of the gateway itself, cut at once, may not answer in time: not certain to be gone",
			do:    "sysctl -w net.ipv4.tcp_challenge_ack_limit=1000",
		}
	}
	return finding{found: found}
}
