package sysctl

import (
	"testing"

	"flowcut/internal/netns"
)

// What is set in a namespace is read there, and not elsewhere.
func TestSet(t *testing.T) {
	const key = "net.ipv4.ip_forward"
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	outside, err := Get(key)
	if err != nil {
		t.Fatal(err)
	}
	err = ns.Do(func() error {
		for _, want := range []int{1, 0, 1 - outside} {
			if err := Set(key, want); err != nil {
				return err
			}
			if got, err := Get(key); err != nil || got != want {
				t.Errorf("set %d, read %d, error %v", want, got, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Get(key); err != nil || got != outside {
		t.Errorf("outside: %d, was %d, error %v", got, outside, err)
	}
	if got, err := Get("net.netfilter.no_such_setting"); err != nil || got != Absent {
		t.Errorf("a setting that does not exist: %d, error %v", got, err)
	}
	if err := Set("net.netfilter.no_such_setting", 1); err == nil {
		t.Error("a setting that does not exist was set")
	}
	if _, err := Get("net.ipv4.tcp_rmem"); err == nil {
		t.Error("three numbers were taken for one")
	}
}
