package doctor

import (
	"context"
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"flowcut/internal/detour"
	"flowcut/internal/netns"
	"flowcut/internal/ruleset"
)

// check is one of the things that are looked at.
type check struct {
	name, group string
	decides     bool // without an answer it cannot be told whether a cut can be proven
	// look may say in its finding what an error means; otherwise [check.cannot] does.
	look func(*visit) (finding, error)
}

// checks are all there are, in the order of the report; a line more is a check
// more. Names are documented in the man page, which a test holds to this list.
var checks = []check{
	{"version", groupKernel, true, lookAtVersion},
	{"ctnetlink", groupKernel, true, lookAtCtnetlink},
	{"nf_tables", groupKernel, true, lookAtNFTables},
	{"filter", groupKernel, false, lookAtFilter},
	{"filter_ipv6", groupKernel, false, lookAtFilterIPv6},
	{"delete_id", groupKernel, true, lookAtDeleteID},
	{"labels", groupKernel, false, lookAtLabels},
	{"ext_ack", groupKernel, false, lookAtExtAck},
	{"membarrier", groupKernel, false, lookAtMembarrier},

	{"cap_net_admin", groupRights, true, capability(unix.CAP_NET_ADMIN)},
	{"cap_net_raw", groupRights, true, capability(unix.CAP_NET_RAW)},
	{"cap_sys_admin", groupRights, false, capability(unix.CAP_SYS_ADMIN)},
	{"cap_sys_ptrace", groupRights, false, capability(unix.CAP_SYS_PTRACE)},
	{"cap_dac_read_search", groupRights, false, capability(unix.CAP_DAC_READ_SEARCH)},
	{"cap_sys_nice", groupRights, false, capability(unix.CAP_SYS_NICE)},

	{"tcp_loose", groupSettings, false, lookAtLoose},
	{"tcp_be_liberal", groupSettings, false, lookAtLiberal},
	{"events", groupSettings, false, lookAtEvents},
	{"acct", groupSettings, false, lookAtAcct},
	{"timestamp", groupSettings, false, lookAtTimestamp},
	{"helper", groupSettings, false, lookAtHelper},
	{"icmp_limits", groupSettings, false, lookAtICMPLimits},
	{"tcp_limits", groupSettings, false, lookAtTCPLimits},

	{"entries", groupTable, true, lookAtEntries},
	{"buckets", groupTable, false, lookAtBuckets},
	{"cpu_stats", groupTable, false, lookAtCPUStats},
	{"expectations", groupTable, false, lookAtExpectations},

	{"xdp", groupDetours, true, detours(detour.XDP)},
	{"tc_programs", groupDetours, true, detours(detour.TCProgram)},
	{"ebpf_data_plane", groupDetours, true, lookAtDataPlane},
	{"tc_filters", groupDetours, true, detours(detour.TCFilter)},
	{"flowtables", groupDetours, true, detours(detour.Flowtable)},
	{"fwd_rules", groupDetours, true, detours(detour.Forward)},
	{"bridges", groupDetours, true, detours(detour.Bridge)},
	{"openvswitch", groupDetours, true, lookAtOpenVSwitch},
	{"ipvs", groupDetours, true, detours(detour.IPVS)},
	{"notrack", groupDetours, true, lookAtNotrack},

	{"zones", groupOthers, false, lookAtZones},
	{"tproxy", groupOthers, false, lookAtTProxy},
	{"synproxy", groupOthers, false, lookAtSynproxy},
	{"queues", groupOthers, true, lookAtQueues},
	{"listeners", groupOthers, false, lookAtListeners},
	{"flowcuts", groupOthers, false, lookAtFlowcuts},

	{"leftovers", groupLeftovers, false, lookAtLeftovers},
}

// Names returns the names and groups of all checks, in their order.
func Names() []Check {
	var out []Check
	for _, c := range checks {
		out = append(out, Check{Name: c.name, Group: c.group})
	}
	return out
}

// Options say what to examine.
type Options struct {
	NetNS           string // what the namespace is called, for the report
	RemoveLeftovers bool   // of flowcuts that are gone; all else is only looked at
}

// visit is one examination.
type visit struct {
	ctx     context.Context
	options Options
	kernel  string // its release
	lab     scratch
	ways    search
	rules   ruleset.Rules
	removal error // of leftovers
}

// Examine looks at the network namespace of the calling thread, which must be
// locked to it unless it is the process's own. Nothing is changed there but by
// RemoveLeftovers; what is tried is tried in a namespace of its own, which ends
// before Examine returns. The kernel may load modules for it, as for a cut.
//
// The error is about leftovers that could not be removed, or why ctx has ended;
// what could not be looked at is in the report.
func Examine(ctx context.Context, o Options) (*Report, error) {
	v := &visit{ctx: ctx, options: o, kernel: release()}
	r := &Report{Version: 1, Provable: true, Kernel: v.kernel, NetNS: o.NetNS}
	for _, c := range checks {
		if err := context.Cause(ctx); err != nil {
			return nil, errors.Join(err, v.lab.close())
		}
		f, err := c.look(v)
		denied := errors.Is(err, os.ErrPermission)
		switch {
		case err != nil && f.state == "":
			f = c.cannot(err)
		case f.state == "":
			f.state = OK
		}
		r.Checks = append(r.Checks, Check{c.name, c.group, f.state, f.found, f.means, f.do})
		if f.state == Fail {
			r.Denied = denied && (r.Provable || r.Denied)
			r.Provable = false
		}
	}
	return r, errors.Join(v.removal, v.lab.close())
}

// cannot says that something could not be looked at. What does not decide is
// then only a note.
func (c check) cannot(err error) finding {
	f := finding{state: Note, found: "could not look: " + strings.ReplaceAll(err.Error(), "\n", "; ")}
	if c.decides {
		f.state, f.means = Fail, "without it nobody can tell whether a cut can be proven here"
	}
	// With the right that is usual what refuses is something else, which the error names.
	held, unknown := effective()
	if errors.Is(err, os.ErrPermission) && (unknown != nil || held&(1<<unix.CAP_NET_ADMIN) == 0) {
		f.found = "not permitted to look"
		f.do = "run it as root, or with CAP_NET_ADMIN and CAP_NET_RAW"
	}
	return f
}

func release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// scratch is a network namespace to try things in, made when it is first needed.
type scratch struct {
	made bool
	ns   *netns.NS
	err  error
}

// fd returns the descriptor of the namespace. Needs CAP_SYS_ADMIN.
func (s *scratch) fd() (int, error) {
	if !s.made {
		s.made = true
		s.ns, s.err = netns.New()
	}
	return s.ns.Fd(), s.err
}

func (s *scratch) close() error { return s.ns.Close() }
