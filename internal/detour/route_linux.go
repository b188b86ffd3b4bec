package detour

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"flowcut/internal/rtnl"
)

// maxRoutes is how many addresses are looked up at most: each look-up takes
// the kernel about 2 µs.
const maxRoutes = 256

// way is where packets to an address go.
type way struct {
	devices []int // more than one where routes have several next hops
	local   bool  // it is an address of this host
	none    bool  // no route at all
	unclear bool  // the route does not name a device
}

// follow looks up the ways to all ends and takes in the devices on them.
func (s *scan) follow() error {
	looked := s.ends.addrs[:min(len(s.ends.addrs), maxRoutes)]
	if err := s.lookUp(looked); err != nil {
		return err
	}
	var err error
	if s.policy, err = s.hasPolicy(); err != nil {
		return err
	}
	all := s.policy || len(looked) < len(s.ends.addrs)
	for _, a := range looked {
		w := s.ways[a]
		if w.local {
			s.concernLoopback()
			continue
		}
		all = all || w.none || w.unclear
		for _, index := range w.devices {
			s.concern(index)
		}
	}
	if all {
		s.concernAll()
	}
	return nil
}

// lookUp asks for the routes in batches that fit into the receive queue.
func (s *scan) lookUp(addrs []netip.Addr) error {
	const batch = 64
	for some := range slices.Chunk(addrs, batch) {
		requests := make([][]byte, len(some))
		for i, a := range some {
			// The route itself, not the one next hop of several that it would take.
			requests[i] = rtnl.RouteRequest(a, unix.RTM_F_FIB_MATCH)
		}
		var failed error
		err := s.rt.AskAll(unix.RTM_GETROUTE, 0, requests, func(i int, data []byte, err error) {
			w, err := parseWay(data, err)
			if err != nil {
				failed = fmt.Errorf("look up the route to %s: %w", some[i], err)
			}
			if some[i].IsLinkLocalUnicast() || some[i].IsMulticast() {
				w.unclear = true // which device is not in the address
			}
			s.ways[some[i]] = w
		})
		if err != nil {
			return fmt.Errorf("ask for %d routes: %w", len(some), err)
		}
		if failed != nil {
			return failed
		}
	}
	return nil
}

// parseWay reads the answer to one request, or the error that it is.
func parseWay(data []byte, err error) (way, error) {
	switch {
	case err == nil:
	case errors.Is(err, unix.ENETUNREACH):
		return way{none: true}, nil
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EACCES), rtnl.Missing(err):
		// Routes of the types unreachable, prohibit, blackhole; a kernel without the family.
		return way{unclear: true}, nil
	default:
		return way{}, err
	}
	r, err := rtnl.ParseRoute(data)
	switch r.Type {
	case unix.RTN_LOCAL:
		return way{local: true}, err
	case unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT:
		return way{unclear: true}, err
	}
	return way{devices: r.Devices, unclear: len(r.Devices) == 0}, err
}

// hasPolicy tells whether rules other than those every host has choose routes.
func (s *scan) hasPolicy() (bool, error) {
	rules, err := s.rt.Rules(unix.AF_UNSPEC)
	return slices.ContainsFunc(rules, func(r rtnl.Rule) bool {
		return !r.Usual() && (r.Family == unix.AF_INET || r.Family == unix.AF_INET6)
	}), err
}
