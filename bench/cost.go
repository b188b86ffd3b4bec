//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// costSize is the table's.
const costSize = 100_000

// costLists are numbers of addresses that are selected.
var costLists = []int{1, 10, 1_000, 10_000, 100_000}

// runCost cuts the flows of ever more addresses.
func runCost(ctx context.Context, b *bench) (_ []*table, err error) {
	t := &table{Work: "cost", Title: "Cut the flows of a list of addresses", Size: costSize, Env: b.env}
	dir, err := os.MkdirTemp("", "flowcut-bench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a few lists of addresses
	if ok, err := b.room(costSize); err != nil || !ok {
		return nil, err
	}
	if err := b.site.fill(ctx, costSize); err != nil {
		return nil, err
	}
	for _, n := range costLists {
		if err := os.WriteFile(list(dir, n), addresses(n), 0o600); err != nil {
			return nil, err
		}
		t.Rows = append(t.Rows, row{Name: fmt.Sprintf("addresses: %s, flows: %s", thousands(n), thousands(matching(n))), Who: us})
	}
	for i := range b.rounds {
		say("cost: round %d of %d", i+1, b.rounds)
		for j, n := range costLists {
			m, err := b.cutList(ctx, list(dir, n), n)
			if err != nil {
				return nil, fmt.Errorf("cut the flows of %d addresses: %w", n, err)
			}
			t.Rows[j].Rounds = append(t.Rows[j].Rounds, m)
		}
	}
	return []*table{t}, b.site.empty()
}

// cutList cuts the flows of a file's n addresses once.
func (b *bench) cutList(ctx context.Context, file string, n int) (measure, error) {
	if err := b.site.choose(ctx, min(n, chosenMost)); err != nil {
		return measure{}, err
	}
	m, _, r, err := b.cut(ctx, b.site.gateway, matching(n), "--host", "@"+file, "--no-kick", "--settle", "0s", "--hold", "0s", "--accept-silent", "--timeout", "10m")
	if err != nil {
		return m, err
	}
	m.Values = map[string]float64{raisedAfter: milliseconds(time.Duration(r.Fence.RaisedAfterMS))}
	return m, b.site.expect(costSize)
}

// matching is how many flows n addresses have.
func matching(n int) int { return min(n, chosenMost) * chosenEach }

// list is the file of n addresses.
func list(dir string, n int) string { return filepath.Join(dir, fmt.Sprintf("%d.txt", n)) }

// addresses are the lines of such a file.
func addresses(n int) []byte {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintln(&b, chosenAddr(i))
	}
	return b.Bytes()
}
