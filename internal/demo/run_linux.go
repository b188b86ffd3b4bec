package demo

import (
	"context"
	"fmt"
	"os"
)

// Run tries the methods one after the other, each on a fresh network, prints
// the table of what came of them, and draws the picture. It takes about
// Before + After for each of the four.
//
// Needs root. An error also when flowcut's cut was not proven.
func Run(ctx context.Context, o Options) error {
	o = o.normal()
	results, err := measure(ctx, o)
	if err != nil {
		return err
	}
	if err := table(o.Out, results); err != nil {
		return err
	}
	if o.SVG == "" {
		return nil
	}
	return os.WriteFile(o.SVG, picture(results), 0o644)
}

// measure tries every method.
func measure(ctx context.Context, o Options) ([]result, error) {
	var results []result
	for i, m := range methods() {
		if _, err := fmt.Fprintf(o.Progress, "%d of %d: %s (%s)\n", i+1, len(methods()), m.name, m.does); err != nil {
			return nil, err
		}
		r, err := try(ctx, m, o)
		if err != nil {
			return nil, err
		}
		results = append(results, r)
	}
	return results, nil
}
