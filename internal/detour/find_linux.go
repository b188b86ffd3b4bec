package detour

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
	"flowcut/internal/netns"
	"flowcut/internal/rtnl"
)

// Find looks for detours of the packets that match tuples. Give it both
// tuples of each flow, as its ends send: the original and the reply. netNS is
// the descriptor of a network namespace, 0 for the calling thread's.
//
// It looks at the devices that routes to the addresses lead to, and at those
// below and above them: bridges and their ports, VLANs' parents, bonds' slaves.
// Where routes do not tell, it looks at all that are up: when there are more
// than 256 addresses, or rules of policy routing, or addresses without a route.
// Packets that come in elsewhere than the answers go out are not thought of.
// Whether flows are bridged is judged by the first 4096 addresses.
//
// Only what packets meet before the hooks is looked at. What takes them
// elsewhere when they leave, tc at egress, comes too late to go past a rule.
//
// It returns what it has found also with an error, which then says what it
// could not look at; [Unseen] tells which kinds that concerns. That is no
// finding: CAP_NET_ADMIN is enough to see all but the names of programs, for
// which it needs CAP_SYS_ADMIN.
func Find(netNS int, tuples iter.Seq[conntrack.Tuple]) ([]Finding, error) {
	e := &ends{known: map[netip.Addr]struct{}{}, tuples: tuples}
	for t := range tuples {
		if !e.add(t.Src) || !e.add(t.Dst) {
			break
		}
	}
	if len(e.addrs) == 0 {
		return nil, nil
	}
	return find(netNS, &scan{ends: e})
}

// Everywhere is [Find] for whatever flows there may be: it looks at all devices
// of the namespace that are up.
func Everywhere(netNS int) ([]Finding, error) {
	return find(netNS, &scan{ends: &ends{more: true}, everywhere: true})
}

func find(netNS int, s *scan) ([]Finding, error) {
	s.ways, s.reported = map[netip.Addr]way{}, map[Finding]struct{}{}
	if err := netns.DoFd(netNS, s.run); err != nil {
		return nil, fmt.Errorf("detour: %w", err)
	}
	// Not the order of maps, so that two searches can be compared.
	slices.SortFunc(s.found, func(a, b Finding) int { return strings.Compare(a.String(), b.String()) })
	if s.unseen != nil {
		return s.found, s.unseen
	}
	return s.found, nil
}

// maxEnds is how many addresses are kept: reading on would change nothing,
// since the devices of that many are not looked up one by one.
const maxEnds = 4096

// ends are the addresses that packets come from and go to.
type ends struct {
	addrs  []netip.Addr // each once
	known  map[netip.Addr]struct{}
	tuples iter.Seq[conntrack.Tuple]
	more   bool // than addrs
}

// add tells whether there is room for more.
func (e *ends) add(a netip.Addr) bool {
	if _, old := e.known[a]; old || !a.IsValid() {
		return true
	}
	if len(e.addrs) == maxEnds {
		e.more = true
		return false
	}
	e.known[a] = struct{}{}
	e.addrs = append(e.addrs, a)
	return true
}

// scan is one search, on a thread inside the namespace.
type scan struct {
	ends       *ends
	everywhere bool // whoever the ends are

	rt        *rtnl.Conn
	devices   map[int]*device
	ports     map[int][]*device // by their master's index
	ways      map[netip.Addr]way
	policy    bool      // rules of policy routing may choose other ways
	concerned []*device // grows while tc filters are read
	found     []Finding
	reported  map[Finding]struct{} // what is in found
	unseen    unseenError
}

// run looks everywhere. Only what everything else needs ends it.
func (s *scan) run() error {
	var err error
	if s.rt, err = rtnl.Dial(unix.NETLINK_ROUTE); err != nil {
		return err
	}
	defer func() { _ = s.rt.Close() }() // nothing was written
	if err := s.readDevices(); err != nil {
		return err
	}
	if s.everywhere {
		s.concernAll()
	} else if err := s.follow(); err != nil {
		return err
	}
	s.look("tc filters", s.readFilters, TCFilter, TCProgram) // first, since filters lead to more devices
	s.lookAtXDP()
	s.look("BPF programs at tc", s.readPrograms, TCProgram)
	s.look("flowtables and fwd rules", s.readNFTables, Flowtable, Forward)
	s.look("bridges", s.judgeBridges, Bridge)
	s.lookAtOpenVSwitch()
	s.look("IPVS services", s.readIPVS, IPVS)
	return nil
}

// look takes down why something could not be looked at.
func (s *scan) look(what string, f func() error, kinds ...string) {
	if err := f(); err != nil {
		s.unseen = append(s.unseen, unseen{fmt.Errorf("detour: look for %s: %w", what, err), kinds})
	}
}

// report takes a finding down, once.
func (s *scan) report(what string, d *device, format string, args ...any) {
	f := Finding{What: what, Detail: fmt.Sprintf(format, args...)}
	if d != nil {
		f.Device = d.name
	}
	if _, old := s.reported[f]; !old {
		s.reported[f] = struct{}{}
		s.found = append(s.found, f)
	}
}
