package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"flowcut/internal/bypass"
	"flowcut/internal/detour"
	"flowcut/internal/ruleset"
)

// search is the search for detours, made when it is first asked for.
type search struct {
	made  bool
	found []detour.Finding
	err   error
}

func (s *search) all() ([]detour.Finding, error) {
	if !s.made {
		s.made = true
		s.found, s.err = detour.Everywhere(0)
	}
	return s.found, s.err
}

// advice is what a kind of detour means and what to do about it.
type advice struct{ means, do string }

var advices = map[string]advice{
	detour.XDP: {
		"it sees packets before any rule does and may forward them itself: cuts of flows on these devices are not proven",
		"ip link set DEVICE xdp off; or, where it forwards nothing: flowcut cut --accept-detours",
	},
	detour.TCProgram: {
		"it sees packets before any rule does and may redirect them: cuts of flows on these devices are not proven",
		"bpftool net show, and detach it; or, where it redirects nothing: flowcut cut --accept-detours",
	},
	detour.TCFilter: {
		"packets are taken elsewhere, or tracked by tc itself, before any rule sees them: cuts of flows on these devices are not proven",
		"tc filter show dev DEVICE ingress, and delete it",
	},
	detour.Flowtable: {
		"once a flow is offloaded its packets go past all rules until its entry is deleted. A cut deletes these first, and is proven; in hardware they go on for up to 5 seconds, and UDP is proven only where there is /proc/net/stat/nf_flowtable",
		"",
	},
	detour.Forward: {
		"packets are sent out by another device before any rule sees them: cuts of flows on these devices are not proven",
		"nft -a list chain netdev TABLE CHAIN, and delete the rule",
	},
	detour.Bridge: {
		"what goes from one port of the bridge to another is seen by no rule: cuts of flows between its ports are not proven. What is routed is seen",
		"modprobe br_netfilter && sysctl -w net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1",
	},
	detour.OpenVSwitch: {
		"its own flows forward, translate and track packets that no rule sees: cuts of flows through it are not proven",
		"cut where the packets are routed; ovs-dpctl dump-flows shows what it does",
	},
	detour.IPVS: {
		"IPVS takes packets at the hook input and sends them on by a table of its own: cuts of flows of its services are not proven",
		"take the server out (ipvsadm -d), with net.ipv4.vs.expire_nodest_conn=1; let IPVS track by net.ipv4.vs.conntrack=1",
	},
}

// detours looks for one kind of detour.
func detours(what string) func(*visit) (finding, error) {
	return func(v *visit) (finding, error) {
		all, err := v.ways.all()
		f := judgeDetours(what, all)
		if f.state != "" {
			return f, nil // whatever else could not be looked at
		}
		return f, detour.Unseen(err, what)
	}
}

func judgeDetours(what string, all []detour.Finding) finding {
	var list []string
	device := "" // of the first, as an example
	for _, d := range all {
		if d.What == what {
			list = append(list, d.String())
			device = cmp.Or(device, d.Device)
		}
	}
	if list == nil {
		return finding{found: "none"}
	}
	state := Fail
	if what == detour.Flowtable { // cuts see to that
		state = Note
	}
	return finding{
		state: state, found: some(list),
		means: advices[what].means, do: strings.ReplaceAll(advices[what].do, "DEVICE", device),
	}
}

// some writes a list that may be long.
func some(list []string) string {
	const most = 6
	if n := len(list) - most; n > 0 {
		list = append(slices.Clone(list[:most]), fmt.Sprintf("and %d more", n))
	}
	return strings.Join(list, ", ")
}

// dataPlane is a program that routes by eBPF, known by its devices and the names
// of its programs.
type dataPlane struct {
	name              string
	devices, programs []string // what their names begin with
}

var dataPlanes = []dataPlane{
	{"Cilium", []string{"cilium_"}, []string{"cil_", "cilium"}},
	{"Calico", []string{"cali", "bpfin.cali", "bpfout.cali"}, []string{"cali_", "calico_"}},
}

func lookAtDataPlane(v *visit) (finding, error) {
	all, err := v.ways.all()
	f := judgeDataPlane(all)
	if f.state == Fail {
		return f, nil
	}
	return f, cmp.Or(detour.Unseen(err, detour.XDP), detour.Unseen(err, detour.TCProgram))
}

// judgeDataPlane looks whose the programs are. Without programs Calico routes
// by the kernel's rules.
func judgeDataPlane(all []detour.Finding) finding {
	starts := func(s string, with []string) bool {
		return slices.ContainsFunc(with, func(p string) bool { return strings.HasPrefix(s, p) })
	}
	for _, p := range dataPlanes {
		var on []string
		for _, d := range all {
			program := d.What == detour.XDP || d.What == detour.TCProgram
			if program && (starts(d.Device, p.devices) || starts(d.Detail, p.programs)) && !slices.Contains(on, d.Device) {
				on = append(on, d.Device)
			}
		}
		if on == nil {
			continue
		}
		return finding{
			state: Fail, found: fmt.Sprintf("%s, on %s", p.name, some(on)),
			means: "it routes, translates and tracks packets by itself, past all rules: cuts of flows through it are not proven",
			do:    "end such flows by its own means, as by a policy; cut is for what the kernel routes",
		}
	}
	return finding{found: "none"}
}

func lookAtNotrack(v *visit) (finding, error) {
	where, err := v.rules.Of(ruleset.Notrack)
	if over, _, err := bypass.Over(0); err == nil { // else the table is somebody else's
		where = slices.DeleteFunc(where, func(w string) bool {
			return slices.ContainsFunc(over, func(b *bypass.Bypass) bool { return b.Has(w) })
		})
	}
	if len(where) == 0 {
		where = nil
	} else {
		err = nil // whatever else could not be looked at
	}
	return judgeNotrack(where, v.rules.Hidden), err
}

func judgeNotrack(where []string, hidden bool) finding {
	switch {
	case where == nil && hidden:
		return finding{
			state: Note, found: "none in nf_tables; the tables of iptables-legacy are not to be seen",
			means: "a rule with NOTRACK there is found by a cut when packets meet it, which is not proven then",
			do:    "run it as root, or give it CAP_DAC_READ_SEARCH",
		}
	case where == nil:
		return finding{found: "none"}
	}
	return finding{
		state: Fail, found: "rules that turn tracking off: " + some(where),
		means: "what they match has no flow that could be listed or cut; where they match packets of a flow that has one, its cut is not proven",
		do:    "nft list ruleset, and delete the rule, or narrow it to what is never to be cut; those in " + bypass.Name + " go by flowcut bypass remove",
	}
}
