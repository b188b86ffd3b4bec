package selector

import (
	"strings"
	"testing"
)

// TestLabelNames holds the reader to what libnetfilter_conntrack makes of a file.
func TestLabelNames(t *testing.T) {
	const file = "# 1 comment\n" +
		" # 2 not a comment, and no number\n" +
		"0\teth0-in\n" +
		"0 second name of a number\n" +
		"3 eth0-in\n" + // second number of a name: 3 stays free
		"3 three words here  \r\n" +
		"0x10 hex\n" +
		"010 octal\n" +
		" +9 plus\n" +
		"-1 minus\n" +
		"11glued\n" +
		"12\n" +
		"13 under_score\n" +
		"14 ümlaut\n" +
		"08 8 is no octal digit\n" + // 0, which has a name
		"15 # comment\n" +
		"0x no-hex\n" + // 0 again
		"127 last\n" +
		"200 beyond\n" +
		"1024 out of range\n" +
		"99999999999999999999 far out of range\n" +
		"name 16\n" +
		"\n17 at-the-end"
	l, err := parseLabelNames(strings.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	want := map[int]string{
		0: "eth0-in", 3: "three words here", 8: "octal", 9: "plus", 11: "glued", 16: "hex", 17: "at-the-end",
		127: "last", 200: "beyond",
	}
	for bit := -1; bit < 1100; bit++ {
		if got := l.Name(bit); got != want[bit] {
			t.Errorf("name of %d: %q, want %q", bit, got, want[bit])
		}
	}
	for bit, name := range want {
		if got, ok := l.Bit(name); !ok || got != bit {
			t.Errorf("number of %q: %d, %v, want %d", name, got, ok, bit)
		}
	}
	if got, ok := l.Bit("under_score"); ok || l.Len() != len(want) {
		t.Errorf("under_score is %d; %d names, want %d", got, l.Len(), len(want))
	}
	if none := new(LabelNames); none.Name(0) != "" || none.Len() != 0 {
		t.Error("the zero value knows names")
	}
}
