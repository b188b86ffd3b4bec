package probe_test

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/internal/lab/labtest"
)

// narrow makes the gateway's link to the client slow, with room for few
// packets in front of it.
func (s *site) narrow(t *testing.T, rate string) {
	t.Helper()
	s.run(t, "tc", "qdisc", "add", "dev", s.Clients[0].Device, "root", "tbf", "rate", rate, "burst", "2kb", "limit", "4kb")
}

// sent is how many packets have left for the client.
func (s *site) sent(t *testing.T) uint64 {
	t.Helper()
	dev, err := s.route.LinkByName(s.Clients[0].Device)
	if err != nil {
		t.Fatal(err)
	}
	return dev.Attrs().Statistics.TxPackets
}

// TestCrowd holds that none of 20,000 packets is lost in the gateway, also
// where they must wait for room in a device's queue.
func TestCrowd(t *testing.T) {
	for name, six := range map[string]bool{"v4": false, "v6": true} {
		for where, rate := range map[string]string{"open": "", "narrow": "32mbit"} {
			for how, way := range ways {
				t.Run(name+"/"+where+"/"+how, func(t *testing.T) {
					s := newSite(t)
					targets := s.crowd(t, six, false)
					if rate != "" {
						s.narrow(t, rate)
					}
					p := s.prober(t)
					before, lost := s.sent(t), s.dropped(t)
					told := 0
					for _, to := range targets {
						p.Syn(to, way, 1, func(_ bool, err error) {
							if told++; err != nil {
								t.Error(err)
							}
						})
					}
					p.Flush()
					if told != crowd {
						t.Errorf("told of %d of %d packets", told, crowd)
					}
					labtest.Until(t, "all have left", func() bool { return s.sent(t)-before >= crowd })
					// A receiver whose CPU has other work for long loses a few.
					if n := s.dropped(t) - lost; n > crowd/1000 {
						t.Errorf("%d packets were dropped by the receiver", n)
					}
				})
			}
		}
	}
}

// TestNoRoom holds that packets that find no room for long are reported, and
// that none but the first is waited for.
func TestNoRoom(t *testing.T) {
	for how, way := range ways {
		t.Run(how, func(t *testing.T) {
			s := newSite(t)
			targets := s.crowd(t, false, false)[:500]
			s.narrow(t, "8kbit")
			p := s.prober(t)
			began, full := time.Now(), 0
			for _, to := range targets {
				p.Syn(to, way, 1, func(_ bool, err error) {
					if errors.Is(err, unix.ENOBUFS) {
						full++
					}
				})
			}
			p.Flush()
			if full < 300 || full == 500 {
				t.Errorf("%d of 500 packets are known to have found no room", full)
			}
			if d := time.Since(began); d > 2*time.Second {
				t.Errorf("that took %v", d)
			}
		})
	}
}

// TestAbsentCrowd holds that 20,000 neighbours that do not exist, more than the
// kernel has room for, do not hold up a round for long.
func TestAbsentCrowd(t *testing.T) {
	for how, way := range ways {
		t.Run(how, func(t *testing.T) {
			s := newSite(t)
			targets := s.crowd(t, false, true)
			s.run(t, "ip", "neigh", "flush", "nud", "permanent")
			for i := range targets {
				targets[i].End.Src = numbered(targets[0].End.Src, i)
			}
			p := s.prober(t)
			began, told := time.Now(), 0
			for _, to := range targets {
				p.Syn(to, way, 1, func(bool, error) { told++ })
			}
			p.Flush()
			if told != crowd {
				t.Errorf("told of %d of %d packets", told, crowd)
			}
			if d := time.Since(began); d > 12*time.Second {
				t.Errorf("that took %v", d)
			}
		})
	}
}
