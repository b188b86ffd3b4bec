package conntrack

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestProbeFilter(t *testing.T) {
	got, err := ProbeFilter()
	if err != nil {
		t.Fatal(err)
	}
	v := kernelVersion()
	want := Support{
		TupleIPv4: true, PortsIPv6: true, Mark: true, Status: true,
		Zone:     v.compare(version{6, 8}) >= 0,
		AddrIPv6: v.compare(version{7, 3}) >= 0, // see TestIPv6FilterIsUnsound
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("ProbeFilter (-want +got):\n%s", diff)
	}
}

// What is known of a kernel from its source is what probes show.
func TestKnownIsShown(t *testing.T) {
	got, err := ProbeFilter()
	if err != nil {
		t.Fatal(err)
	}
	known := 0
	for _, p := range filterProbes {
		if p.known(&Filter{}) {
			known++
			if got.or(p.shows) != got {
				t.Errorf("known: %+v; shown: %+v", p.shows, got)
			}
		}
	}
	if v := kernelVersion(); v.compare(version{6, 18}) <= 0 && known != 2 {
		t.Errorf("%d of 2 probes are known of %v", known, v)
	}
}
