package conntrack

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// counters makes an answer with one counter for each attribute, each with ten
// times its number as the value.
func counters(cpu byte, types ...attrType) []byte {
	b := []byte{0, 0, 1, cpu} // struct nfgenmsg: family, version, res_id
	for _, t := range types {
		b = appendUint32(b, t, 10*uint32(t))
	}
	return b
}

func TestParseCPUStats(t *testing.T) {
	var got CPUStats
	if err := got.parse(counters(2, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)); err != nil {
		t.Fatal(err)
	}
	want := CPUStats{
		CPU: 258, Searched: 10, Found: 20, New: 30, Invalid: 40, Ignore: 50, Delete: 60, DeleteList: 70,
		Insert: 80, InsertFailed: 90, Drop: 100, EarlyDrop: 110, Error: 120, SearchRestart: 130,
		ClashResolve: 140, ChainTooLong: 150,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var exp ExpectCPUStats
	if err := exp.parse(counters(3, 1, 2, 3, 4)); err != nil || exp != (ExpectCPUStats{259, 10, 20, 30}) {
		t.Errorf("%+v, %v", exp, err)
	}
}

func TestParseCPUStatsErrors(t *testing.T) {
	for want, b := range map[string][]byte{
		"struct nfgenmsg: 3 bytes, want 4":                     {0, 0, 0},
		"CTA_STATS_FOUND: 2 bytes, want 4":                     appendUint16(counters(0), attrStatsFound, 1),
		"CTA_STATS_CHAIN_TOOLONG: 8 bytes, want 4":             appendUint64(counters(0), attrStatsChainTooLong, 1),
		"statistics message attribute header: 1 bytes, want 4": append(counters(0), 1),
	} {
		if err := new(CPUStats).parse(b); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	const want = "CTA_STATS_EXP_DELETE: 8 bytes, want 4"
	if err := new(ExpectCPUStats).parse(appendUint64(counters(0), attrExpStatsDelete, 1)); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}
