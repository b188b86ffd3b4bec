//go:build linux

package differ

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"flowcut/internal/lab/labtest"
)

// steadySeed keeps "make test" steady: what it draws is known to agree. "make
// differ" draws new cases every time, and now and then a shape nobody has seen.
const steadySeed = 1795651643000

var (
	seedFlag      = flag.Uint64("seed", steadySeed, "seed of the first case; 0: from the clock")
	countFlag     = flag.Int("count", 1500, "how many cases")
	referenceFlag = flag.String("reference", "/usr/sbin/conntrack", "the program that is held to be right")
)

// compare runs cases and reports.
func compare(t *testing.T, o Options) *Report {
	t.Helper()
	if o.Seed == 0 {
		o.Seed = uint64(time.Now().Unix()) * 1000
	}
	t.Logf("seed %d", o.Seed)
	began := time.Now()
	rep, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%v: %v", time.Since(began).Round(time.Millisecond), rep)
	for reason, n := range rep.Known {
		t.Logf("%5d %s", n, reason)
	}
	return rep
}

// Our conntrack does what conntrack(8) does, but for the known deviations, of
// which few are drawn.
func TestPersonality(t *testing.T) {
	rep := compare(t, Options{
		Programs: Programs{Reference: *referenceFlag, Subject: labtest.Build(t)},
		Seed:     *seedFlag, Count: *countFlag,
		Each: func(r *Result) {
			if r.Known != nil {
				t.Logf("known: %s: %v", r.Known.reason, r.Case)
			}
			if len(r.Differences) > 0 {
				t.Errorf("%v", r)
			}
		},
	})
	const most = 3 // in a hundred
	if rep.KnownCases*100 > most*rep.Cases && rep.Cases > casesPerWorld {
		t.Errorf("%d of %d cases are of known deviations, more than %d in a hundred", rep.KnownCases, rep.Cases, most)
	}
}

// The reference does what the reference does: nothing that is compared varies
// by itself.
func TestReferenceAgainstItself(t *testing.T) {
	rep := compare(t, Options{
		Programs: Programs{Reference: *referenceFlag, Subject: *referenceFlag},
		Seed:     *seedFlag, Count: min(*countFlag, 256), Strict: true,
		Each: func(r *Result) {
			if len(r.Differences) > 0 {
				t.Errorf("%v", r)
			}
		},
	})
	const valid, hitting = 50, 40 // in a hundred
	if rep.Cases > casesPerWorld && (rep.Valid*100 < valid*rep.Cases || rep.Hitting*100 < hitting*rep.Valid) {
		t.Errorf("the cases are of little use: %v", rep)
	}
}

// errSeen ends a run that has shown what it should.
var errSeen = errors.New("seen")

// A program that is wrong in a small way is found out.
func TestMisbehaviour(t *testing.T) {
	for _, m := range []struct{ name, script string }{
		{"exit code of nothing found", `"$ref" "$@"; c=$?; [ $c = 1 ] && exit 0; exit $c`},
		{"exit code of usage errors", `"$ref" "$@"; c=$?; [ $c = 2 ] && exit 1; exit $c`},
		{"a line less", `out=$("$ref" "$@"); c=$?; [ -n "$out" ] && printf '%s\n' "$out" | sed '$d'; exit $c`},
		{"a mark printed wrongly", `out=$("$ref" "$@"); c=$?; [ -n "$out" ] && printf '%s\n' "$out" | sed 's/mark=5 /mark=6 /'; exit $c`},
		{"a blank too many", `out=$("$ref" "$@"); c=$?; [ -n "$out" ] && printf '%s\n' "$out" | sed 's/ src=/  src=/'; exit $c`},
		{"a wrong timeout", `out=$("$ref" "$@"); c=$?; [ -n "$out" ] && printf '%s\n' "$out" | sed 's/^\(udp  *17 \)/\19/'; exit $c`},
		{"a wrong count", `err=$("$ref" "$@" 2>&1 >&3); c=$?; printf '%s\n' "$err" | sed 's/: 1 flow/: 2 flow/' >&2; exit $c`},
		{"deletes one more", `"$ref" "$@"; c=$?; case " $* " in *" -D "*) "$ref" -D -p udp -f ipv4 -o save >/dev/null 2>&1;; esac; exit $c`},
		{"marks too many", `"$ref" "$@"; c=$?; case " $* " in *" -U "*) "$ref" -U -f ipv4 -p udp -m 77 >/dev/null 2>&1;; esac; exit $c`},
		{"does nothing with files", `case "$1" in -R|--load-file) exit 0;; esac; exec "$ref" "$@"`},
		{"keeps expectations", `case "$*" in "-F e"*|"--flush e"*) echo 'conntrack v1.4.9 (x): expectation table has been emptied.' >&2; exit 0;; esac; exec "$ref" "$@"`},
		{"reads another table", `case "$*" in "-D"*|"--delete"*) exit 1;; esac; exec "$ref" "$@"`},
	} {
		t.Run(m.name, func(t *testing.T) {
			script := fmt.Sprintf("#!/bin/sh\nref=%s\ncase \"$*\" in *E*|*event*) exec \"$ref\" \"$@\";; esac\nexec 3>&1\n%s\n", *referenceFlag, m.script)
			path := filepath.Join(t.TempDir(), "conntrack")
			if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancelCause(t.Context())
			defer stop(nil)
			_, err := Run(ctx, Options{
				Programs: Programs{Reference: *referenceFlag, Subject: path},
				Seed:     casesPerWorld, Count: 1000,
				Each: func(r *Result) {
					if len(r.Differences) > 0 && r.Known == nil {
						t.Logf("seen, as it should be: %v: %s", r.Case, strings.Join(r.Differences, "; "))
						stop(errSeen)
					}
				},
			})
			if !errors.Is(context.Cause(ctx), errSeen) {
				t.Errorf("it is not found out: %v", err)
			}
		})
	}
}

// A seed is a case, and among few there is one with each command and option.
func TestDraw(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(6000) {
		w := drawWorld(seed / casesPerWorld)
		c := draw(seed, w, version{1, 4, 9}, false)
		if again := draw(seed, w, version{1, 4, 9}, false); again.String() != c.String() {
			t.Fatalf("%v, and then %v", c, again)
		}
		for _, l := range c.lines() {
			for _, letter := range l.commands {
				seen["-"+string(letter)]++
			}
			for _, o := range l.options {
				seen["--"+o.name]++
			}
		}
		if c.loads() {
			seen["-R"]++
		}
	}
	var want []string
	for _, l := range append(longs[:len(longs):len(longs)], protoLongs...) {
		switch {
		case l.arg == command:
			want = append(want, "-"+string(l.short))
		case l.means == "":
			want = append(want, "--"+l.name)
		}
	}
	for _, w := range append(want, "-R") {
		if seen[w] == 0 {
			t.Errorf("%s is not drawn", w)
		}
	}
}
