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
	want := Support{TupleIPv4: true, PortsIPv6: true, Mark: true, Status: true, Zone: true}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("ProbeFilter (-want +got):\n%s", diff)
	}
}
