package selector

import (
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func TestNormalize(t *testing.T) {
	var f Flags
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	f.Register(fs)
	fs.StringP("output", "o", "", "")
	fs.BoolP("verbose", "V", false, "")
	fs.String("netns", "", "")
	tests := []struct{ in, want string }{
		{"-o json -g 10.0.0.1", "-o json --dst-nat=10.0.0.1"},
		{"-o -g -Vo ! -g", "-o -g -V -o ! --dst-nat=any"},
		{"-ojson -g 10.0.0.1 x", "-ojson --dst-nat=10.0.0.1 x"},
		{"--netns ! -g", "--netns ! --dst-nat=any"},
		{"--netns=x ! -g", "--netns=x --dst-nat=!any"},
		{"--netns -g -s 10.0.0.1", "--netns -g --orig-src=10.0.0.1"},
		{"-Vg 10.0.0.1", "-V --dst-nat=10.0.0.1"},
		{"-gVo json", "--dst-nat=any -V -o json"},
		{"-gojson", "--dst-nat=any -ojson"},
		{"! -o json", "! -o json"},
		{"! -jp tcp", "--any-nat=!any --proto=tcp"},
		{"-- ! -g 10.0.0.1", "-- ! -g 10.0.0.1"},
		{"-g=10.0.0.1", "--dst-nat=10.0.0.1"},
		{"-g json", "--dst-nat=any json"},
		{"-V=true -g", "-V=true --dst-nat=any"},
		{"-", "-"},
		{"-é", "-é"},
		{"--picked-up 10.0.0.1", "--picked-up=yes 10.0.0.1"},
	}
	for _, tt := range tests {
		if got := strings.Join(Normalize(fs, strings.Fields(tt.in)), " "); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.in, got, tt.want)
		}
	}
}
