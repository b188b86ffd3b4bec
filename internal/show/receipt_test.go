package show

import (
	"strings"
	"testing"

	"flowcut/cut"
)

// TestFlowWords names each count, and none that is zero.
func TestFlowWords(t *testing.T) {
	for _, tt := range []struct {
		n    cut.FlowCounts
		want string
	}{
		{cut.FlowCounts{}, ""},
		{cut.FlowCounts{Matched: 3, Deleted: 3}, "3 matched, 3 deleted"},
		{cut.FlowCounts{Matched: 9, Deleted: 5, Vanished: 1, Remaining: 1, Spared: 2, Related: 2, Mirrored: 1, Suspects: 4, Returned: 1, Admitted: 7, Refused: 8, Knocking: 6},
			"9 matched, 5 deleted, 1 already gone, 1 still there, 2 spared, 2 expected by them, 1 mirror of an earlier deletion, 4 look like mirrors, left alone, " +
				"1 came back and were deleted again, 7 new ones admitted, 8 first packets of new ones refused, 6 still knocking"},
		{cut.FlowCounts{Matched: 2, Deleted: 2, Mirrored: 2}, "2 matched, 2 deleted, 2 mirrors of an earlier deletion"},
		{cut.FlowCounts{Suspects: 1}, "0 matched, 1 looks like a mirror, left alone"},
	} {
		if got := strings.Join(flowWords(&tt.n), ", "); got != tt.want {
			t.Errorf("%+v:\n got %s\nwant %s", tt.n, got, tt.want)
		}
	}
}

// TestReason: what stands in the way may be called anything, such as a device,
// and cannot reach into a terminal by that.
func TestReason(t *testing.T) {
	r := &cut.Receipt{Reason: "XDP program on a\x1b[31mb; another\nflowcut: proven"}
	got := string(AppendReceipt(nil, r, false))
	if want := "  because  XDP program on a\\x1b[31mb\n           another\\nflowcut: proven\n"; !strings.Contains(got, want) {
		t.Errorf("got %q, want %q in it", got, want)
	}
}

// TestFenceWords: a fence that failed to rise is not called unneeded, and one that
// stands is not called lifted.
func TestFenceWords(t *testing.T) {
	for _, tt := range []struct {
		r    cut.Receipt
		want string
	}{
		{cut.Receipt{Proven: true}, "none needed: the table has no such entries"},
		{cut.Receipt{Reason: "--timeout ran out"}, "none raised"},
		{cut.Receipt{Fence: cut.FenceReport{Backend: "nf_tables", Exact: true, LiftedAfterMS: 7e6}}, "up after 0s, silent after 0s, lifted after 7ms"},
		{cut.Receipt{Fence: cut.FenceReport{Backend: "nf_tables", Exact: true}}, "up after 0s, silent after 0s, could not be lifted"},
	} {
		if got := strings.Join(fenceWords(&tt.r), ", "); got != tt.want {
			t.Errorf("%+v: got %q, want %q", tt.r, got, tt.want)
		}
	}
}
