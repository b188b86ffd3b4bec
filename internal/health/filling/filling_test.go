//go:build linux

package filling

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

// wantCause holds what is said of a SYN flood.
func wantCause(t *testing.T, found, do string) {
	t.Helper()
	for _, want := range []string{"port tcp/80", "server 203.0.113.1", "unreplied", "100 % translated by NAT", "tcp SYN_SENT", "a SYN flood"} {
		if !strings.Contains(found, want) {
			t.Errorf("%q is not in %q", want, found)
		}
	}
	if strings.Contains(do, "bypass") {
		t.Errorf("%q: it would be refused, as the flows are translated", do)
	}
	for _, want := range []string{"nf_conntrack_tcp_timeout_syn_sent=20", "nf_conntrack_max="} {
		if !strings.Contains(do, want) {
			t.Errorf("%q is not in %q", want, do)
		}
	}
}

// A flood that has only just begun is warned of, the rate is right, and so is what it
// is. SYNs stay for two minutes, so that they do not level off below the limit.
func TestWarns(t *testing.T) {
	const rate = 4000
	s, r, code := looked(t, lab.Config{}, false, rate, "--warn", "10m")
	defer func() { must(t, s.close()) }()
	if code != 1 || !r[len(r)-1].Warning {
		t.Errorf("exit code %d, %+v", code, r[len(r)-1])
	}
	foretold := 0
	for _, line := range r[10 : len(r)-1] {
		want := int64(line.Max-line.Count) * 1000 / rate
		if in := line.Outlook.FullInMS; in > want*2/3 && in < want*3/2 {
			foretold++
		}
	}
	if foretold < (len(r)-11)/2 { // a busy machine floods by fits and starts
		t.Errorf("only %d of %d forecasts are right", foretold, len(r)-11)
	}
	last := r[len(r)-1]
	if last.Fills == nil {
		t.Fatal("what fills the table is not said")
	}
	wantCause(t, strings.Join(append(last.Fills.Found, last.Fills.Means), "; "), strings.Join(last.Fills.Do, "; "))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// looked lets "flowcut stats" look at a gateway for three seconds of a flood, and returns
// what it said, the report last.
func looked(t *testing.T, cfg lab.Config, udp bool, rate int, args ...string) (*site, []said, int) {
	t.Helper()
	ctx := labtest.Context(t)
	s, err := build(ctx, cfg)
	must(t, err)
	flood, err := s.flood(udp, rate)
	must(t, err)
	var out, errs bytes.Buffer
	code, err := s.look(ctx, &out, &errs, append(args, "--for", "3s", "-o", "json")...)
	must(t, errors.Join(err, flood.Stop()))
	var all []said
	for d := json.NewDecoder(&out); ; {
		var line said
		if err := d.Decode(&line); err != nil {
			break
		}
		all = append(all, line)
	}
	if len(all) < 15 || all[len(all)-1].Type != "report" || errs.Len() > 0 {
		t.Fatalf("%d lines, exit code %d: %s", len(all), code, errs.String())
	}
	return s, all, code
}

// A flood whose entries end as fast as new ones begin is seen for what it is: the
// table does not fill, so nothing is to be warned of.
func TestLevelsOff(t *testing.T) {
	const rate, stays = 1000, 3
	cfg := lab.Config{Sysctls: map[string]string{"net.netfilter.nf_conntrack_udp_timeout": strconv.Itoa(stays)}}
	s, r, code := looked(t, cfg, true, rate, "--warn", "24h")
	defer func() { must(t, s.close()) }()
	foretold := 0
	for _, line := range r {
		o := line.Outlook
		if line.Warning {
			t.Errorf("a warning: %+v", line)
		}
		if o.LevelsOffAbout == 0 {
			continue
		}
		foretold++
		// A busy machine floods by fits and starts.
		if o.LevelsOffAbout < rate*stays/3 || o.LevelsOffAbout > rate*stays*3 || o.LevelsOffAtMost < 10*o.LevelsOffAbout {
			t.Errorf("%d a second that stay %d s level off at %.0f to %.0f", rate, stays, o.LevelsOffAbout, o.LevelsOffAtMost)
		}
	}
	if code != 0 || foretold == 0 {
		t.Errorf("exit code %d, foretold %d times", code, foretold)
	}
}
