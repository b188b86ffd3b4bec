package demo

import (
	"context"
	"fmt"

	"flowcut/conntrack"
	"flowcut/cut"
	"flowcut/selector"
)

// method is one way to end the flows to a server. run returns what it found
// in the table.
type method struct {
	name, does string
	run        func(ctx context.Context, s *site) (string, error)
}

// passes of the loop: one that had a chance would win long before.
const passes = 20

// methods in the order they are tried.
func methods() []method {
	return []method{
		{"delete", "conntrack -D -g -r SERVER", deleteOnce},
		{"loop", "then -D -s SERVER, -D -d CLIENT, 20 times", deleteLoop},
		{"raw drop", "iptables -t raw -s SERVER -j DROP around the delete", dropAround},
		{"flowcut", "flowcut cut -g -r SERVER", flowcut},
	}
}

// remove deletes what matches, entry by entry as the dump yields them, as
// `conntrack -D` does.
func (s *site) remove(ctx context.Context, x conntrack.Filter) (int, error) {
	x.Family = conntrack.FamilyIPv4
	total := 0
	for f, err := range s.ct.Dump(ctx, x) {
		if err != nil {
			return total, err
		}
		n, err := s.ct.Delete(ctx, []conntrack.Key{f.Key()}, nil)
		if err != nil {
			return total, err
		}
		total += n
	}
	return total, nil
}

// translated matches -g -r SERVER.
func (s *site) translated() conntrack.Filter {
	return conntrack.Filter{
		Reply: conntrack.Tuple{Src: s.server}, ReplyFields: conntrack.FieldSrc,
		Status: conntrack.StatusDstNAT, StatusMask: conntrack.StatusDstNAT,
	}
}

func deleteOnce(ctx context.Context, s *site) (string, error) {
	n, err := s.remove(ctx, s.translated())
	return fmt.Sprint(n), err
}

// deleteLoop goes on with both ends of what may have come back.
func deleteLoop(ctx context.Context, s *site) (string, error) {
	first, err := s.remove(ctx, s.translated())
	if err != nil {
		return "", err
	}
	ends := []conntrack.Filter{{Orig: conntrack.Tuple{Src: s.server}, OrigFields: conntrack.FieldSrc}}
	for _, peer := range s.peers {
		ends = append(ends, conntrack.Filter{Orig: conntrack.Tuple{Dst: peer}, OrigFields: conntrack.FieldDst})
	}
	again, found := 0, 0
	for range passes {
		before := again
		for _, x := range ends {
			n, err := s.remove(ctx, x)
			if err != nil {
				return "", err
			}
			again += n
		}
		if again > before {
			found++
		}
	}
	return fmt.Sprintf("%d + %d in %d of %d passes", first, again, found, passes), nil
}

// dropAround keeps the server's packets from connection tracking while the
// entries are deleted.
func dropAround(ctx context.Context, s *site) (string, error) {
	if err := s.net.Gateway.Block(s.server); err != nil {
		return "", err
	}
	n, err := s.remove(ctx, s.translated())
	if err != nil {
		return "", err
	}
	return fmt.Sprint(n), s.net.Gateway.Unblock()
}

func flowcut(ctx context.Context, s *site) (string, error) {
	sel, err := selector.Parse([]string{"-g", "-r", s.server.String()})
	if err != nil {
		return "", err
	}
	receipt, err := cut.Run(ctx, cut.Options{Selector: sel, NetNS: s.net.Gateway.NS.Fd()})
	if err != nil {
		return "", err
	}
	if !receipt.Proven {
		return "", fmt.Errorf("not proven: %s", receipt.Reason)
	}
	return fmt.Sprint(receipt.Flows.Deleted), nil
}
