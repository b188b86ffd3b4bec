//go:build linux

package main

import (
	"context"
	"errors"
	"net/netip"
	"os/exec"
	"path/filepath"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/lab"
)

// Ports that the gateway forwards to the two servers.
const (
	port      = 5201
	otherPort = 443
	dnsPort   = 53 // of a client outside, asked by the servers
)

// site is a gateway with live traffic of several kinds.
type site struct {
	net   *lab.Topology
	ct    *conntrack.Client
	path  string            // directory of the program
	short *lab.Reconnecting // short connections through the forwarded port; nil: none
}

// newSite builds the network and starts the traffic: connections to both servers, a
// query from inside that is translated to the gateway's address, and a ping.
func newSite(ctx context.Context, program string) (_ *site, err error) {
	s := &site{path: filepath.Dir(program)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.net, err = lab.Standard(ctx, lab.Config{Sysctls: map[string]string{
		"net.netfilter.nf_conntrack_acct":      "1",
		"net.netfilter.nf_conntrack_timestamp": "1",
	}}); err != nil {
		return nil, err
	}
	g := s.net.Gateway
	if s.ct, err = conntrack.Dial(conntrack.Config{NetNS: g.NS.Fd()}); err != nil {
		return nil, err
	}
	for _, l := range []struct {
		host *lab.Host
		port uint16
	}{
		{s.net.Servers[0].Host, port}, {s.net.Servers[1].Host, otherPort}, {s.net.Clients[1].Host, dnsPort},
	} {
		if _, err := l.host.Listen(l.port); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(g.Forward(port, s.net.Servers[0]), g.Forward(otherPort, s.net.Servers[1])); err != nil {
		return nil, err
	}
	return s, s.traffic(ctx)
}

// traffic starts what goes on in every scene, and returns when all of it flows.
func (s *site) traffic(ctx context.Context) error {
	client, client2 := s.net.Clients[0], s.net.Clients[1]
	to, other := netip.AddrPortFrom(s.net.Gateway.Public4, port), netip.AddrPortFrom(s.net.Gateway.Public4, otherPort)
	const pause = 20 * time.Millisecond
	var talks lab.Ends
	for _, c := range []struct {
		from    *lab.Station
		streams lab.Streams
	}{
		{client, lab.Streams{Kind: lab.Speak, To: to, Count: 2, Interval: pause}},
		{client2, lab.Streams{Kind: lab.Idle, To: to}},
		{client, lab.Streams{Kind: lab.Talk, To: other, Interval: pause}},
		{client2, lab.Streams{Kind: lab.Talk, To: other, Interval: pause}},
	} {
		ends, err := c.from.Dial(ctx, c.streams)
		if err != nil {
			return err
		}
		if c.streams.Kind == lab.Talk {
			talks = append(talks, ends...)
		}
	}
	if _, err := s.net.Servers[0].Exchange(ctx, lab.Datagrams{To: netip.AddrPortFrom(client2.Addr4, dnsPort), Up: 20, Down: 20}); err != nil {
		return err
	}
	if _, err := s.net.Servers[1].Ping(ctx, client2.Addr4, pause); err != nil {
		return err
	}
	return talks.WaitReceived(ctx, 5)
}

func (s *site) close() error {
	var errs []error
	if s.ct != nil {
		errs = append(errs, s.ct.Close())
	}
	if s.net != nil {
		errs = append(errs, s.net.Close())
	}
	return errors.Join(errs...)
}

// command returns a line of a shell on the gateway, not started. It must be started
// in the gateway's namespace.
func (s *site) command(line string) *exec.Cmd {
	cmd := exec.Command("sh", "-c", line)
	cmd.Env = []string{"PATH=" + s.path + ":/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "TERM=xterm-256color", "LANG=C.UTF-8", "TZ=UTC"}
	return cmd
}

// forwardOff turns the forwarding of the first port off.
func forwardOff(_ context.Context, s *site) error { return s.net.Gateway.Unforward(port) }

// deleted does what people do: it turns the forwarding off and deletes the entries.
// It returns when connection tracking has taken up what goes on all the same.
func deleted(ctx context.Context, s *site) error {
	if err := forwardOff(ctx, s); err != nil {
		return err
	}
	if err := deleteEntries(ctx, s); err != nil {
		return err
	}
	return lab.Until(ctx, "a flow that is picked up", func() (bool, error) {
		for f, err := range s.ct.Dump(ctx, conntrack.Filter{}) {
			if err != nil || f.PickedUp() {
				return err == nil, err
			}
		}
		return false, nil
	})
}

// reconnecting makes short connections through the forwarded port as well, so that
// there is something new all the time.
func reconnecting(_ context.Context, s *site) error {
	s.short = s.net.Clients[1].Reconnect(lab.Reconnects{To: netip.AddrPortFrom(s.net.Gateway.Public4, port), Rate: 2})
	return nil
}

// cutOff turns the forwarding off and deletes the entries, while somebody looks.
func cutOff(ctx context.Context, s *site) error {
	s.short.Stop()
	return errors.Join(forwardOff(ctx, s), deleteEntries(ctx, s))
}

// deleteEntries deletes the entries of the first server's connections, as
// "conntrack -D -g -r SERVER" does.
func deleteEntries(ctx context.Context, s *site) error {
	var keys []conntrack.Key
	for f, err := range s.ct.Dump(ctx, conntrack.Filter{Family: conntrack.FamilyIPv4}) {
		if err != nil {
			return err
		}
		if f.Reply.Src == s.net.Servers[0].Addr4 && f.Status&conntrack.StatusDstNAT != 0 {
			keys = append(keys, f.Key())
		}
	}
	_, err := s.ct.Delete(ctx, keys, nil)
	return err
}

// ran returns a preparation that runs a line on the gateway.
func ran(line string) func(context.Context, *site) error {
	return func(_ context.Context, s *site) error {
		return s.net.Gateway.NS.Do(func() error {
			out, err := s.command(line).CombinedOutput()
			if err != nil {
				return errors.New(line + ": " + err.Error() + ": " + string(out))
			}
			return nil
		})
	}
}
