//go:build linux

package lab_test

import (
	"testing"
	"time"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

// Through a gateway of each kind every client reaches every server, in both
// families.
func TestGatewayKinds(t *testing.T) {
	for _, kind := range lab.GatewayKinds {
		t.Run(kind.Name, func(t *testing.T) {
			cfg, err := lab.NewConfig(kind.Name)
			if err != nil {
				t.Fatal(err)
			}
			reach(t, cfg)
		})
	}
	t.Run("mixture", func(t *testing.T) {
		cfg, err := lab.NewConfig("output-drop", "input-drop", "mark", "zones", "macvlan-devices", "crowd-dropping", "routers", "snat")
		if err != nil {
			t.Fatal(err)
		}
		reach(t, cfg)
	})
	if cfg, err := lab.NewConfig("mark", "twins"); err == nil {
		t.Errorf("mark and twins give %+v, want an error", cfg)
	}
	if cfg, err := lab.NewConfig("mark", "unheard of"); err == nil {
		t.Errorf("an unknown kind gives %+v, want an error", cfg)
	}
}

func reach(t *testing.T, cfg lab.Config) {
	t.Helper()
	net := labtest.Standard(t, cfg)
	for i, s := range net.Servers {
		labtest.Listen(t, s.Host, port+uint16(i))
		if err := net.Gateway.Forward(port+uint16(i), s); err != nil {
			t.Fatal(err)
		}
	}
	for _, v6 := range []bool{false, true} {
		for c, client := range net.Clients {
			for i, s := range net.Servers {
				if cfg.Twins && c != i {
					continue // the other one's network
				}
				to := net.To(client, s, port+uint16(i), v6)
				ends := labtest.Dial(t, client.Host, lab.Streams{Kind: lab.Talk, To: to, Interval: time.Millisecond})
				if err := ends.WaitReceived(labtest.Context(t), 10); err != nil {
					t.Errorf("from %s to %s: %v", client.Name, to, err)
				}
			}
		}
	}
}
