//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"
)

// table is what came of one work at one size.
type table struct {
	Part  string `json:"part"`
	Work  string `json:"work"`
	Title string `json:"title"`
	Size  int    `json:"size"` // flows in the tracking table; 0: does not matter
	Env   env    `json:"env"`
	Rows  []row  `json:"rows"`
	By    string `json:"by,omitempty"` // what is compared: "" is time

	// Columns are the values that are shown, each with its spread, instead of
	// time and memory.
	Columns []string `json:"columns,omitempty"`

	Note string `json:"note,omitempty"`
}

// row is what came of one contender.
type row struct {
	Name   string    `json:"name"`
	Who    string    `json:"who"` // the contender that it is a row of
	Rounds []measure `json:"rounds"`
}

// results are tables of one or several runs.
type results struct {
	Tables []*table `json:"tables"`
}

// load reads results; no file is no results.
func load(path string) (*results, error) {
	r := &results{}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(b, r)
	}
	if err != nil {
		return nil, fmt.Errorf("read earlier results, %s: %w; remove it to begin anew", path, err)
	}
	return r, nil
}

// save writes the results.
func (r *results) save(path string) error {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// add adds a table in the place of an earlier one of the same work and size.
func (r *results) add(t *table) {
	same := func(o *table) bool { return o.Part == t.Part && o.Work == t.Work && o.Size == t.Size }
	if i := slices.IndexFunc(r.Tables, same); i >= 0 {
		r.Tables[i] = t
		return
	}
	r.Tables = append(r.Tables, t)
}

// spread is the median of several values, with the least and the greatest.
type spread struct{ median, least, most float64 }

// spreadOf returns the spread of values, of which there is at least one.
func spreadOf(values []float64) spread {
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return spread{(v[(n-1)/2] + v[n/2]) / 2, v[0], v[n-1]}
}

// spread returns the spread of what get finds in each round.
func (r *row) spread(get func(*measure) float64) spread {
	values := make([]float64, len(r.Rounds))
	for i := range r.Rounds {
		values[i] = get(&r.Rounds[i])
	}
	return spreadOf(values)
}

func wall(m *measure) float64   { return m.Wall.Seconds() }
func cpu(m *measure) float64    { return m.CPU.Seconds() }
func memory(m *measure) float64 { return float64(m.Memory) }

// compared returns what the table compares.
func (t *table) compared() func(*measure) float64 {
	if t.By == "" {
		return wall
	}
	return func(m *measure) float64 { return m.Values[t.By] }
}

// ratio compares the first contender with another, round by round.
func (t *table) ratio(other *row) spread {
	get := t.compared()
	values := make([]float64, len(other.Rounds))
	for i := range other.Rounds {
		values[i] = get(&t.Rows[0].Rounds[i]) / get(&other.Rounds[i])
	}
	return spreadOf(values)
}

// relate gives each round a value that says how many times the first row's
// median it is, by what get finds.
func (t *table) relate(get func(*measure) float64, name string) {
	base := t.Rows[0].spread(get).median
	for i := range t.Rows {
		for j := range t.Rows[i].Rounds {
			m := &t.Rows[i].Rounds[j]
			if m.Values == nil {
				m.Values = make(map[string]float64)
			}
			m.Values[name] = get(m) / base
		}
	}
}

// seconds formats a time to three figures.
func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	switch {
	case d >= 10*time.Second:
		return fmt.Sprintf("%.1f s", s)
	case d >= time.Second:
		return fmt.Sprintf("%.2f s", s)
	case d >= 100*time.Millisecond:
		return fmt.Sprintf("%.0f ms", s*1e3)
	case d >= 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", s*1e3)
	}
	return fmt.Sprintf("%.2f ms", s*1e3)
}
