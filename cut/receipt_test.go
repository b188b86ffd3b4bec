package cut

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"flowcut/selector"
)

// Scripts depend on the receipt's names and units: they stay as they are while
// the version is 1.
func TestReceiptJSON(t *testing.T) {
	r := Receipt{
		Version: 1, Together: 3, Selector: "--dst-nat", Proven: true, Final: true, Reason: "none",
		Flows:     FlowCounts{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13},
		Endpoints: EndpointCounts{1, 2, 3, 4},
		Fence: FenceReport{
			Backend: "nf_tables", Exact: true,
			RaisedAfterMS: Millis(4567 * time.Microsecond), SilentAfterMS: Millis(5 * time.Millisecond),
			ReleasedAfterMS: Millis(4999 * time.Microsecond),
			LeakedPackets:   1, LiftedAfterMS: Millis(time.Second), Packets: 2, Bytes: 3,
		},
		ElapsedMS: Millis(1234567 * time.Microsecond),
	}
	got, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	const want = `{
 "version": 1,
 "selector": "--dst-nat",
 "together": 3,
 "proven": true,
 "final": true,
 "reason": "none",
 "flows": {
  "matched": 1,
  "deleted": 2,
  "vanished": 3,
  "remaining": 4,
  "spared": 5,
  "related": 6,
  "mirrored": 7,
  "offloaded": 8,
  "suspects": 9,
  "returned": 10,
  "admitted": 11,
  "refused": 12,
  "knocking": 13
 },
 "endpoints": {
  "dead": 1,
  "reset": 2,
  "unreachable": 3,
  "silent": 4
 },
 "fence": {
  "backend": "nf_tables",
  "exact": true,
  "raised_after_ms": 4.567,
  "silent_after_ms": 5,
  "released_after_ms": 4.999,
  "leaked_packets": 1,
  "lifted_after_ms": 1000,
  "packets": 2,
  "bytes": 3
 },
 "elapsed_ms": 1234.567
}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("receipt (-want +got):\n%s", diff)
	}
	var back Receipt
	if err := json.Unmarshal(got, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, back, cmpopts.IgnoreUnexported(Receipt{})); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
}

// A program that forgets to say which flows are meant cuts none.
func TestEverythingMustBeMeant(t *testing.T) {
	for _, args := range [][]string{nil, {"-f", "ipv4"}, {"-p", "tcp"}, {"-s", "0.0.0.0/0"}} {
		s, err := selector.Parse(args)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := Run(t.Context(), Options{Selector: s, NetNS: -1}); !errors.Is(err, ErrEverything) || r != nil {
			t.Errorf("%v: receipt %v, error %v", args, r, err)
		}
	}
}
