// Command runfuzz runs all fuzz targets of the module, one after the other, and
// writes what came of it into a page. It exits with 1 when one has crashed; the
// input is then in testdata/fuzz of its package, and the output says what it did.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"flowcut/internal/fuzz"
)

func main() {
	r := runner{began: time.Now()}
	flag.DurationVar(&r.each, "each", 0, "CPU time of each target; 0: its part of -total")
	total := flag.Duration("total", time.Hour, "CPU time of all targets together")
	flag.DurationVar(&r.slice, "slice", 3*time.Minute, "the most that one target runs at a stretch")
	flag.DurationVar(&r.limit, "for", 0, "begin no slice after so long by the clock; 0: no limit")
	only := flag.String("only", "", "run the targets that match this regular expression, such as conntrack.Fuzz")
	flag.StringVar(&r.page, "page", "docs/fuzz.md", "the page that has the table")
	resume := flag.Bool("resume", false, "go on where the table ends, instead of beginning anew")
	flag.StringVar(&r.bin, "bin", "", "directory of tests that go test -c -fuzz has built, internal_cli.test and the like; empty: build them")
	with := flag.String("with", "", "words in front of each run, such as nice -n 15")
	flag.Parse()
	r.prefix = strings.Fields(*with)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := r.run(ctx, *total, *only, *resume); err != nil {
		fmt.Fprintln(os.Stderr, "runfuzz:", err)
		os.Exit(1)
	}
}

// runner runs targets.
type runner struct {
	each, slice time.Duration
	limit       time.Duration
	began       time.Time
	page        string
	prefix      []string
	bin         string // directory of the built tests
	cache       string
	targets     []target
	rows        []fuzz.Row
}

// target is a function of a package's tests.
type target struct {
	dir, name string
	left      time.Duration // CPU time that it has left
}

func (t *target) String() string { return filepath.Base(t.dir) + "." + t.name }

func (r *runner) run(ctx context.Context, total time.Duration, only string, resume bool) (err error) {
	if r.targets, err = findTargets(only); err != nil {
		return err
	}
	if r.each == 0 {
		r.each = total / time.Duration(len(r.targets))
	}
	rows, _, err := fuzz.ReadPage(r.page)
	if err != nil {
		return err
	}
	for i := range r.targets {
		r.targets[i].left = r.each
	}
	for _, row := range rows {
		at := slices.IndexFunc(r.targets, func(t target) bool { return t.String() == row.Target })
		switch {
		case at < 0:
		case resume:
			r.targets[at].left -= row.CPU
		default:
			continue // it is measured anew
		}
		r.rows = append(r.rows, row)
	}
	// First those that have most left; the others keep their order.
	slices.SortStableFunc(r.targets, func(a, b target) int { return cmp.Compare(b.left, a.left) })
	if r.bin == "" {
		if r.bin, err = os.MkdirTemp("", "runfuzz"); err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(r.bin) }()
	}
	out, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		return fmt.Errorf("go env GOCACHE: %w", err)
	}
	r.cache = filepath.Join(strings.TrimSpace(string(out)), "fuzz", "flowcut")
	return r.all(ctx)
}

// all runs slices of the targets by turns until none has time left.
func (r *runner) all(ctx context.Context) error {
	crashed := 0
	for left := true; left; {
		left = false
		for i := range r.targets {
			t := &r.targets[i]
			if t.left <= 0 {
				continue
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if r.limit > 0 && time.Since(r.began) > r.limit {
				return r.sum(crashed)
			}
			ok, err := r.one(t)
			if err != nil {
				return err
			}
			if !ok {
				crashed++
				t.left = 0
			}
			left = left || t.left > 0
		}
	}
	return r.sum(crashed)
}

// sum prints the table; crashes are an error.
func (r *runner) sum(crashed int) error {
	fmt.Print(fuzz.Table(r.rows))
	if crashed > 0 {
		return fmt.Errorf("%d targets crashed", crashed)
	}
	return nil
}

// one runs a slice of a target and writes down what came of it.
func (r *runner) one(t *target) (ok bool, err error) {
	binary, err := r.build(t.dir)
	if err != nil {
		return false, err
	}
	result, err := fuzz.Run(fuzz.Slice{
		Binary: binary, Dir: t.dir, Target: t.name, Prefix: r.prefix,
		Time: min(r.slice, max(t.left, time.Second)), Cache: filepath.Join(r.cache, t.dir),
	})
	if err != nil {
		return false, err
	}
	if result.Seeds == 0 && !result.Crashed {
		return false, fmt.Errorf("%s has no seeds:\n%s", t, result.Output)
	}
	t.left -= result.CPU
	at := slices.IndexFunc(r.rows, func(row fuzz.Row) bool { return row.Target == t.String() })
	if at < 0 {
		at = len(r.rows)
		r.rows = append(r.rows, fuzz.Row{Target: t.String()})
	}
	row := &r.rows[at]
	row.CPU += result.CPU
	row.Executions += result.Executions
	row.Interesting += result.Interesting
	fmt.Printf("%s %s: %d executions, %d new inputs, %.0f CPU seconds\n", time.Now().Format(time.TimeOnly),
		t, result.Executions, result.Interesting, result.CPU.Seconds())
	if result.Crashed {
		row.Crashes++
		fmt.Print(result.Output)
	}
	_, page, err := fuzz.ReadPage(r.page) // it may have been edited meanwhile
	if err != nil {
		return false, err
	}
	return !result.Crashed, fuzz.WritePage(r.page, page, slices.Clone(r.rows))
}

// build builds the tests of a package, once, so that coverage guides the fuzzing.
func (r *runner) build(dir string) (string, error) {
	binary := filepath.Join(r.bin, strings.ReplaceAll(dir, "/", "_")+".test")
	if _, err := os.Stat(binary); err == nil {
		return binary, nil
	}
	args := append(slices.Clone(r.prefix), "go", "test", "-c", "-fuzz", ".", "-o", binary, "./"+dir)
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the tests of %s: %w\n%s", dir, err, out)
	}
	return binary, nil
}

var declaration = regexp.MustCompile(`(?m)^func (Fuzz\w+)\(\w+ \*testing\.F\)`)

// findTargets returns the targets of the module, those first that read what
// everybody's traffic has a part in: what the kernel sends, and what people select.
func findTargets(only string) ([]target, error) {
	match, err := regexp.Compile(only)
	if err != nil {
		return nil, err
	}
	first := []string{"conntrack", "selector", "internal/cli", "internal/personality", "internal/nft"}
	var found []target
	err = filepath.WalkDir(".", func(path string, _ os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range declaration.FindAllSubmatch(text, -1) {
			t := target{dir: filepath.Dir(path), name: string(m[1])}
			if match.MatchString(t.String()) {
				found = append(found, t)
			}
		}
		return err
	})
	rank := func(t target) int {
		if i := slices.Index(first, t.dir); i >= 0 {
			return i
		}
		return len(first)
	}
	slices.SortStableFunc(found, func(a, b target) int { return rank(a) - rank(b) })
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("no target matches %q", only)
	}
	return found, err
}
