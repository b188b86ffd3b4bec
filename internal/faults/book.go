//go:build linux && amd64

package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// String says what came of a case, in one line.
func (r *Result) String() string {
	s := string(r.Ending)
	if !r.Injected {
		s = "not reached"
	}
	if r.Ending == Killed {
		s += fmt.Sprintf(", rules gone after %v", r.Lifted.Round(time.Millisecond))
	}
	for _, b := range r.Bad {
		s += "\n\tBROKEN: " + b
	}
	return s
}

// Book keeps results from run to run, by case.
type Book struct {
	Made    map[string]Made  `json:"made"` // by variant
	Results map[string]Entry `json:"results"`
}

// Entry is what is kept of a result.
type Entry struct {
	Ending Ending        `json:"ending"` // "" if the call was not reached
	Lifted time.Duration `json:"lifted_ns,omitempty"`
	Bad    []string      `json:"bad,omitempty"`
	When   time.Time     `json:"when"`
}

// ReadBook reads a book; without a name, or where there is none yet, it is empty.
func ReadBook(name string) (*Book, error) {
	b := &Book{Made: map[string]Made{}, Results: map[string]Entry{}}
	if name == "" {
		return b, nil
	}
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	if err != nil {
		return nil, err
	}
	return b, json.Unmarshal(text, b)
}

// Write keeps the book in a file, unless the name is empty. What another run
// has written there meanwhile stays.
func (b *Book) Write(name string) error {
	if name == "" {
		return nil
	}
	now, err := ReadBook(name)
	if err != nil {
		return err
	}
	for c, e := range now.Results {
		if mine, ok := b.Results[c]; !ok || e.When.After(mine.When) {
			b.Results[c] = e
		}
	}
	text, err := json.MarshalIndent(b, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(name, text, 0o644)
}

// Has tells whether there is a result of a case.
func (b *Book) Has(c Case) bool {
	_, ok := b.Results[c.String()]
	return ok
}

// Add takes a result in, in place of an earlier one of the same case.
func (b *Book) Add(r *Result) {
	e := Entry{Ending: r.Ending, Bad: r.Bad, When: time.Now().UTC().Truncate(time.Second)}
	if !r.Injected {
		e.Ending = ""
	}
	if r.Case.Fault.kills() {
		e.Lifted = r.Lifted
	}
	b.Results[r.Case.String()] = e
}
