package differ

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"flowcut/conntrack"

	"golang.org/x/sync/errgroup"
)

// trial is a run under way: two places with the same table.
type trial struct {
	ctx     context.Context
	o       Options
	dir     string // of files, removed at the end
	version version
	sides   [2]*side
	world   *world
}

// side is one program in its place.
type side struct {
	*place
	program string
	file    string                   // what {file} becomes
	number  uint64                   // of the world
	base    *snapshot                // the world's table
	after   *snapshot                // the table after the last case, nil if that is not known
	ids     map[conntrack.Key]uint32 // of the world's flows, by key without ID
	dirty   bool                     // the table is not the world's any more
}

// version is the reference's.
type version [3]int

// before tells whether v is older than 1.minor.patch.
func (v version) before(minor, patch int) bool {
	return v[0] == 1 && (v[1] < minor || v[1] == minor && v[2] < patch)
}

// askVersion runs the reference with -V.
func askVersion(ctx context.Context, path string) (v version, err error) {
	out, err := exec.CommandContext(ctx, path, "-V").Output()
	if err != nil {
		return v, fmt.Errorf("differ: ask %s for its version: %w", path, err)
	}
	if _, err := fmt.Sscanf(string(out), "conntrack v%d.%d.%d", &v[0], &v[1], &v[2]); err != nil {
		return v, fmt.Errorf("differ: version of %s: %q: %w", path, out, err)
	}
	return v, nil
}

// newTrial makes the places.
func newTrial(ctx context.Context, o Options) (_ *trial, err error) {
	t := &trial{ctx: ctx, o: o}
	if t.version, err = askVersion(ctx, o.Reference); err != nil {
		return nil, err
	}
	if t.dir, err = os.MkdirTemp("", "differ"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.close())
		}
	}()
	etc, err := makeEtc(t.dir)
	if err != nil {
		return nil, err
	}
	for i, program := range []string{o.Reference, o.Subject} {
		if program, err = filepath.Abs(program); err != nil {
			return nil, err
		}
		p, err := newPlace(etc)
		if err != nil {
			return nil, err
		}
		t.sides[i] = &side{place: p, program: program, file: filepath.Join(t.dir, "file"+strconv.Itoa(i))}
	}
	return t, nil
}

// makeEtc makes the directory that the programs see as /etc: what the C
// library reads, and the test's own names of labels.
func makeEtc(dir string) (string, error) {
	etc := filepath.Join(dir, "etc")
	if err := os.MkdirAll(filepath.Join(etc, "xtables"), 0o755); err != nil {
		return "", err
	}
	for _, name := range []string{"protocols", "nsswitch.conf", "ld.so.cache"} {
		b, err := os.ReadFile(filepath.Join("/etc", name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(etc, name), b, 0o644); err != nil {
			return "", err
		}
	}
	return etc, os.WriteFile(filepath.Join(etc, "xtables", "connlabel.conf"), []byte(labelFile()), 0o644)
}

// close ends the places.
func (t *trial) close() error {
	errs := []error{os.RemoveAll(t.dir)}
	for _, s := range t.sides {
		if s != nil {
			errs = append(errs, s.close())
		}
	}
	return errors.Join(errs...)
}

// both runs f for both sides at once.
func (t *trial) both(f func(*side) error) error {
	var g errgroup.Group
	for _, s := range t.sides {
		g.Go(func() error { return f(s) })
	}
	return g.Wait()
}

// prepare gives both sides the table of a world.
func (t *trial) prepare(number uint64) error {
	fresh := t.world == nil || t.world.number != number
	if fresh {
		t.world = drawWorld(number)
	}
	err := t.both(func(s *side) error {
		if !fresh && !s.dirty {
			return nil
		}
		return s.restore(t.ctx, t.world)
	})
	if err != nil {
		return fmt.Errorf("build world %d: %w", number, err)
	}
	if d := t.sides[0].base.differ(t.sides[1].base); len(d) > 0 {
		return fmt.Errorf("world %d is not the same on both sides:\n%s", number, strings.Join(d, "\n"))
	}
	return nil
}

// restore makes the table anew.
func (s *side) restore(ctx context.Context, w *world) error {
	fresh := s.number != w.number || s.base == nil
	if fresh {
		s.base = nil
	}
	if err := s.build(ctx, w, s.after); err != nil {
		return err
	}
	base, err := s.snapshot(ctx, s.base, nil)
	if err != nil {
		return err
	}
	if !fresh {
		if d := s.base.differ(base); len(d) > 0 && !s.drifted(d) {
			return fmt.Errorf("restored wrongly:\n%s", strings.Join(d, "\n"))
		}
	}
	s.base, s.after, s.number, s.dirty = base, base, w.number, false
	s.ids = map[conntrack.Key]uint32{}
	for _, e := range base.flows {
		k := e.key
		k.ID = 0
		s.ids[k] = e.key.ID
	}
	return nil
}

// drifted tells whether nothing but timeouts is different: time has passed.
func (s *side) drifted(differences []string) bool {
	return !slices.ContainsFunc(differences, func(d string) bool { return d[0] != '~' })
}

// fill puts what only this side knows into a text: the IDs of flows, the file.
func (s *side) fill(w *world, text string) string {
	text = strings.ReplaceAll(text, "{file}", s.file)
	for {
		before, rest, ok := strings.Cut(text, "{id:")
		if !ok {
			return text
		}
		n, after, _ := strings.Cut(rest, "}")
		i, _ := strconv.Atoi(n) // as it was drawn
		text = before + strconv.FormatUint(uint64(s.ids[w.flows[i%len(w.flows)].Key()]), 10) + after
	}
}

// one draws and runs the case of a seed.
func (t *trial) one(seed uint64) (*Result, error) {
	if err := t.prepare(seed / casesPerWorld); err != nil {
		return nil, err
	}
	c := draw(seed, t.world, t.version, t.o.Strict)
	if watches(c) {
		for _, f := range t.world.extra {
			c.makes = append(c.makes, f.Orig)
		}
	}
	r := &Result{Case: c}
	r.Known = known(c, t.world, t.version, t.o.Strict)
	if err := t.both(func(s *side) error { return s.try(t, c, r) }); err != nil {
		return nil, fmt.Errorf("%v: %w", c, err)
	}
	if d := knownAfter(c, t.world, t.version, &r.Ref, &r.Sub); d != nil {
		r.Known = d
	}
	if r.Known == nil {
		r.Differences = r.Ref.differ(&r.Sub, c)
		return r, nil
	}
	if !t.o.Strict { // else the subject is the reference, which may crash
		r.Differences = r.Sub.broken()
	}
	if r.Known.check == nil || len(r.Differences) > 0 {
		return r, nil
	}
	var err error
	r.Differences, err = r.Known.check(t, r)
	return r, err
}

// broken tells what no program may do, whatever the reference does.
func (o *outcome) broken() []string {
	switch {
	case o.code < 0 || o.code > 2:
		return []string{fmt.Sprintf("exit code %d", o.code)}
	case o.code == 2 && len(o.change) > 0 && !o.made:
		return append([]string{"exit code 2, but the table has changed:"}, o.change...)
	case o.code == 2 && o.stderr == "":
		return []string{"exit code 2 without a word"}
	}
	return nil
}

// try runs the case on one side.
func (s *side) try(t *trial, c *Case, r *Result) (err error) {
	out := &r.Sub
	if s == t.sides[0] {
		out = &r.Ref
	}
	words := make([]string, len(c.Words))
	for i, w := range c.Words {
		words[i] = s.fill(t.world, w)
	}
	if c.File != "" {
		if err := os.WriteFile(s.file, []byte(s.fill(t.world, c.File)), 0o600); err != nil {
			return err
		}
	}
	if watches(c) {
		*out, err = s.watch(t.ctx, t.world, words)
	} else {
		*out, err = s.run(t.ctx, s.program, words, s.fill(t.world, c.Input))
	}
	if err != nil {
		return err
	}
	if out.after, err = s.snapshot(t.ctx, s.base, c.makes); err != nil {
		return err
	}
	s.after = out.after
	out.change = s.base.differ(out.after)
	out.hit = len(out.change) > 0 || strings.Contains(out.stdout, "src=") || strings.Contains(out.stdout, "<src>") || strings.Contains(out.stdout, "-s ")
	s.dirty = s.dirty || len(out.change) > 0 || changes(c)
	return nil
}

// changes tells whether a case might change the table.
func changes(c *Case) bool {
	l := parse(c.Words)
	return c.loads() || strings.ContainsAny(l.commands, "DIAUFE")
}

// watches tells whether a case waits for events.
func watches(c *Case) bool {
	l := parse(c.Words)
	return strings.Contains(l.commands, "E") && !c.loads()
}
