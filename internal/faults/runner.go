//go:build linux && amd64

package faults

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// Runner tries cases, in several worlds at once.
type Runner struct {
	Program  string
	Parallel int             // worlds; 0: one
	Seed     uint64          // of the order
	Count    int             // most cases; 0: all
	For      time.Duration   // begin no case after so long; 0: no limit
	Only     string          // cases whose names hold this
	Skip     func(Case) bool // unless nil: leave a case out
	Case     *Case           // this one alone
	Variants []Variant       // nil: all
	Records  int             // how often each variant is run to see what calls it makes; 0: twice, since some are made in some runs only

	// Known is what calls each variant makes. What is missing is found out and
	// noted there; nil: nothing is known.
	Known map[string]Made

	Each func(*Result) // called for each result, one at a time

	mu    sync.Mutex
	cases []Case
	began time.Time
}

// tries is how often a case is tried whose call was not reached: how often a
// call is made is a matter of moments.
const tries = 3

// Run records what calls each variant makes and tries the cases, in an order
// that the seed decides. It returns how many there are in all.
func (r *Runner) Run(ctx context.Context) (total int, err error) {
	r.began = time.Now()
	worlds, err := r.worlds(ctx)
	defer func() {
		for _, w := range worlds {
			err = errors.Join(err, w.Close())
		}
	}()
	if err != nil {
		return 0, err
	}
	if r.Case != nil {
		r.cases = []Case{*r.Case}
	} else if r.cases, err = r.plan(ctx, worlds[0]); err != nil {
		return 0, err
	}
	r.cases = slices.DeleteFunc(r.cases, func(c Case) bool {
		return !strings.Contains(c.String(), r.Only) || r.Skip != nil && r.Skip(c)
	})
	total = len(r.cases)
	random := rand.New(rand.NewPCG(r.Seed, 0))
	random.Shuffle(total, func(i, j int) { r.cases[i], r.cases[j] = r.cases[j], r.cases[i] })
	if r.Count > 0 {
		r.cases = r.cases[:min(r.Count, total)]
	}
	errs := make([]error, len(worlds))
	var all sync.WaitGroup
	for i, w := range worlds {
		all.Go(func() { errs[i] = r.work(ctx, w) })
	}
	all.Wait()
	return total, errors.Join(errs...)
}

func (r *Runner) worlds(ctx context.Context) (list []*World, err error) {
	for range max(1, r.Parallel) {
		w, err := NewWorld(ctx, r.Program)
		if err != nil {
			return list, err
		}
		list = append(list, w)
	}
	return list, nil
}

// plan lists the cases of all variants, or of the one that Only names.
func (r *Runner) plan(ctx context.Context, w *World) ([]Case, error) {
	if v, err := variant(strings.Split(r.Only, ":")[0]); err == nil {
		r.Variants = []Variant{v}
	}
	if r.Variants == nil {
		r.Variants = Variants
	}
	if r.Records == 0 {
		r.Records = 2
	}
	all := map[string]Made{}
	for _, v := range r.Variants {
		made, err := r.made(ctx, w, v)
		if err != nil {
			return nil, err
		}
		all[v.Name] = made
	}
	return casesOf(all), nil
}

// casesOf lists the cases of what variants call. What one calls where one before
// it does is not tried again, nor is it where a goroutine of its own does so,
// whose stack does not go as far back.
func casesOf(all map[string]Made) (list []Case) {
	var known []string
	for _, v := range Variants {
		made := maps.Clone(all[v.Name])
		maps.DeleteFunc(made, func(site string, _ int) bool {
			return slices.ContainsFunc(known, func(k string) bool { return k == site || strings.HasSuffix(k, "/"+site) })
		})
		known = slices.AppendSeq(known, maps.Keys(made))
		list = append(list, made.Cases(v.Name)...)
	}
	return list
}

// made returns how often a variant passes each site: as it is known, or as some
// runs show.
func (r *Runner) made(ctx context.Context, w *World, v Variant) (Made, error) {
	if m := r.Known[v.Name]; m != nil {
		return maps.Clone(m), nil
	}
	made := Made{}
	for range r.Records {
		once, err := w.Record(ctx, v)
		if err != nil {
			return nil, err
		}
		for site, n := range once {
			made[site] = max(made[site], n)
		}
	}
	if r.Known != nil {
		r.Known[v.Name] = maps.Clone(made)
	}
	return made, nil
}

// work tries cases in a world until there are no more.
func (r *Runner) work(ctx context.Context, w *World) error {
	for ctx.Err() == nil {
		c, ok := r.next()
		if !ok {
			return nil
		}
		var result *Result
		for range tries {
			var err error
			if result, err = w.Run(ctx, c); ctx.Err() != nil {
				return context.Cause(ctx)
			} else if err != nil {
				return fmt.Errorf("%s: %w", c, err)
			}
			if result.Injected {
				break
			}
		}
		r.mu.Lock()
		r.Each(result)
		r.mu.Unlock()
	}
	return nil
}

func (r *Runner) next() (c Case, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.cases) == 0 || r.For > 0 && time.Since(r.began) > r.For {
		return c, false
	}
	c, r.cases = r.cases[0], r.cases[1:]
	return c, true
}
