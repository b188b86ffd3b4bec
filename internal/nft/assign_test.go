package nft

import (
	"strings"
	"testing"
)

// What sets values is taken by the kernel and read back by nft(8) in the words
// that we print.
func TestAssignAgreesWithNft(t *testing.T) {
	for _, f := range []Family{IPv4, IPv6} {
		table := &Table{Family: f, Name: "assign", Chains: []*Chain{
			{Name: "raw", Hook: &Hook{"filter", Prerouting, -300}, Rules: []Rule{
				NewRule("", SetZone(7)), NewRule("", SetDirZone(Original, 8)), NewRule("", SetDirZone(Reply, 9)),
			}},
			{Name: "mangle", Hook: &Hook{"filter", Prerouting, -150}, Rules: []Rule{NewRule("", SetCTMark(2)), NewRule("", MarkFromFlow)}},
			{Name: "out", Hook: &Hook{"route", Output, -150}, Rules: []Rule{NewRule("", MarkFromFlow)}},
			{Name: "nat", Hook: &Hook{"nat", Prerouting, -100}, Rules: []Rule{NewRule("", Equal(MetaL4Proto, []byte{6}), Redirect(8080))}},
		}}
		inScratch(t, func() {
			c, err := Dial(0)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			var b Batch
			b.AddTable(table)
			if err := c.Commit(&b); err != nil {
				t.Error(err)
				return
			}
			got := nft(t, "", "list", "table", f.String(), "assign")
			for _, want := range []string{
				"ct zone set 7", "ct original zone set 8", "ct reply zone set 9", "ct mark set 0x00000002", "meta mark set ct mark", "redirect to :8080",
			} {
				if !strings.Contains(got, want) {
					t.Errorf("%s: no %q in\n%s", f, want, got)
				}
			}
			file := table.String()
			nft(t, strings.ReplaceAll(file, "assign", "again"), "-f", "-")
			again := nft(t, "", "list", "table", f.String(), "again")
			if want := strings.ReplaceAll(got, "assign", "again"); again != want {
				t.Errorf("from our text:\n%s\nfrom our messages:\n%s", again, want)
			}
		})
	}
}
