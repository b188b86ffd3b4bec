//go:build linux

// Package differ draws command lines of conntrack(8) at random and holds a
// program to what the reference program does with them.
//
// A [Case] is a command line and the table it meets, all drawn from one
// number. [Run] gives it to both programs, each in a network namespace of its
// own with the same entries, and compares exit code, standard output, the
// binding lines of standard error, and the table that is left. What differs
// by time or chance (timeouts, IDs, use counts) is made equal first.
//
// Where the reference is known to be wrong, the table of known deviations
// says so; a case of that kind is counted apart.
package differ

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"

	"flowcut/conntrack"
)

// Programs are what is compared.
type Programs struct {
	Reference string // path of the conntrack(8) that is held to be right
	Subject   string // path of the program that is held to it
}

// Options say how many cases are run.
type Options struct {
	Programs
	Seed  uint64 // of the first case, the next one's is one more
	Count int

	// Strict counts no deviation as known: for the reference against itself.
	Strict bool

	// Each, unless nil, is called after every case.
	Each func(*Result)
}

// Report is what came of a run.
type Report struct {
	Cases      int
	Valid      int // exit code 0 or 1 of the reference
	Hitting    int // of these: said or changed something about an entry
	Known      map[string]int
	KnownCases int
	Different  int
}

// Result is what came of one case.
type Result struct {
	Case        *Case
	Known       *deviation // nil if the programs are to agree
	Differences []string
	Ref, Sub    outcome
}

// Reason says which known deviation the case is of, "" if none.
func (r *Result) Reason() string {
	if r.Known == nil {
		return ""
	}
	return r.Known.reason
}

// String writes the case, both outcomes, and how they differ.
func (r *Result) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v\n", r.Case)
	for _, d := range r.Differences {
		fmt.Fprintf(&b, "  %s\n", strings.ReplaceAll(d, "\n", "\n    "))
	}
	fmt.Fprintf(&b, "  reference: %v\n  subject:   %v\n", &r.Ref, &r.Sub)
	fmt.Fprintf(&b, "  again: make differ SEED=%d COUNT=1\n", r.Case.Seed)
	return b.String()
}

// Case is one command line and the table it meets.
type Case struct {
	Seed  uint64
	World uint64   // which table
	Words []string // without the program's name; may hold {id:N} and {file}
	Input string   // standard input
	File  string   // what {file} holds

	makes []conntrack.Tuple // of flows that it may make: where to look first
}

// String writes the command line as for a shell.
func (c *Case) String() string {
	words := make([]string, len(c.Words))
	for i, w := range c.Words {
		if w == "" || strings.ContainsAny(w, " !'\"\\*?[]{}()<>|&;#$\t\n") {
			w = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		words[i] = w
	}
	s := fmt.Sprintf("seed %d: conntrack %s", c.Seed, strings.Join(words, " "))
	for _, in := range []struct{ name, text string }{{"stdin", c.Input}, {"file", c.File}} {
		if in.text != "" {
			s += fmt.Sprintf("\n  %s: %s", in.name, strings.ReplaceAll(in.text, "\n", "\n    "))
		}
	}
	return s
}

// casesPerWorld is how many consecutive seeds meet the same table.
const casesPerWorld = 64

// random returns one of the streams of random numbers of a seed.
func random(seed, stream uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, stream)) }

func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

// Run compares the programs over Count cases. Needs root.
func Run(ctx context.Context, o Options) (rep *Report, err error) {
	t, err := newTrial(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() {
		if e := t.close(); err == nil {
			err = e
		}
	}()
	rep = &Report{Known: map[string]int{}}
	for i := range o.Count {
		if err := ctx.Err(); err != nil {
			return rep, err
		}
		r, err := t.one(o.Seed + uint64(i))
		if err != nil {
			return rep, fmt.Errorf("seed %d: %w", o.Seed+uint64(i), err)
		}
		rep.count(r)
		if o.Each != nil {
			o.Each(r)
		}
	}
	return rep, nil
}

// count books one result.
func (rep *Report) count(r *Result) {
	rep.Cases++
	if r.Ref.code < 2 {
		rep.Valid++
		if r.Ref.hit {
			rep.Hitting++
		}
	}
	if r.Known != nil {
		rep.KnownCases++
		rep.Known[r.Known.reason]++
	}
	if len(r.Differences) > 0 {
		rep.Different++
	}
}

// String says what came of it in one line.
func (rep *Report) String() string {
	return fmt.Sprintf("%d cases, %d valid, %d of these hit something, %d known deviations, %d different",
		rep.Cases, rep.Valid, rep.Hitting, rep.KnownCases, rep.Different)
}
