package nft

import (
	"errors"
	"net/netip"
	"regexp"
	"slices"
	"testing"
	"time"
)

var expires = regexp.MustCompile(` expires \w+`)

// nft(8) makes of a table's file what the kernel has of the table, elements
// included.
func TestFile(t *testing.T) {
	for _, addr := range []string{"192.0.2.1", "2001:db8::1"} {
		a := netip.MustParseAddr(addr)
		f := IPv4
		if a.Is6() {
			f = IPv6
		}
		table := everything(f, a)
		var ours, theirs string
		inScratch(t, func() {
			change(t, func(b *Batch) { b.AddTable(table) })
			ours = nft(t, "", "list", "ruleset")
		})
		inScratch(t, func() {
			nft(t, table.File(), "-f", "-")
			theirs = nft(t, "", "list", "ruleset")
		})
		ours, theirs = expires.ReplaceAllString(ours, ""), expires.ReplaceAllString(theirs, "")
		if ours != theirs {
			t.Errorf("ours:\n%s\nnft made of our file:\n%s\nour file:\n%s", ours, theirs, table.File())
		}
	}
}

// change commits a batch over a connection of its own.
func change(t *testing.T, fill func(b *Batch)) {
	t.Helper()
	c, err := Dial(0)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	b := new(Batch)
	fill(b)
	if err := c.Commit(b); err != nil {
		t.Error(err)
	}
}

// A batch that is meant for a ruleset which others have changed does nothing.
func TestGeneration(t *testing.T) {
	inScratch(t, func() {
		c, err := Dial(0)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		change(t, func(b *Batch) { b.AddTable(&Table{Family: IPv4, Name: "first"}) })
		gen, err := c.Generation()
		if err != nil {
			t.Error(err)
		}
		change(t, func(b *Batch) { b.AddTable(&Table{Family: IPv4, Name: "others"}) })
		b := &Batch{Generation: gen}
		b.AddTable(&Table{Family: IPv4, Name: "late"})
		if err := c.Commit(b); !errors.Is(err, ErrChanged) {
			t.Errorf("committed for generation %d: %v", gen, err)
		}
		if has, err := c.HasTable(IPv4, "late"); has || err != nil {
			t.Errorf("there is the table all the same, or %v", err)
		}
		again, err := Dial(0)
		if err != nil {
			t.Error(err)
			return
		}
		defer again.Close()
		if b.Generation, err = again.Generation(); err != nil || b.Generation == gen {
			t.Errorf("generation %d, was %d, error %v", b.Generation, gen, err)
		}
		if err := again.Commit(b); err != nil {
			t.Error(err)
		}
	})
}

// What was added can be taken out again, part by part.
func TestDelete(t *testing.T) {
	table := &Table{Family: IPv4, Name: "t", Sets: []*Set{
		{Name: "until", Key: []Type{TypeEther}, Timed: true, Elements: []Element{{Key: IPv4.EtherType()}}},
	}, Chains: []*Chain{
		{Name: "one", Rules: []Rule{NewRule("counts", Lookup{Key: Key{MetaProtocol}, Set: "until"}, Counter)}},
		{Name: "pre", Hook: &Hook{"filter", Prerouting, -300}, Rules: []Rule{NewRule("a", Jump("one")), NewRule("b", Accept)}},
	}}
	inScratch(t, func() {
		c, err := Dial(0)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		change(t, func(b *Batch) { b.AddTable(table) })
		if m := member(t, c, table); m == nil || m.Timed {
			t.Errorf("an element without a time: %+v", m)
		}
		change(t, func(b *Batch) {
			b.FlushSet(table, "until")
			b.AddElements(table, "until", []Element{{Key: IPv4.EtherType(), Timeout: time.Hour}})
		})
		if m := member(t, c, table); m == nil || !m.Timed || m.Expires < 59*time.Minute {
			t.Errorf("an element for an hour: %+v", m)
		}
		rules, err := c.Rules(table)
		if i := slices.IndexFunc(rules, func(r RuleHeader) bool { return r.Chain == "pre" && r.Comment == "a" }); i < 0 || len(rules) != 3 || err != nil {
			t.Errorf("rules %+v, error %v", rules, err)
		} else {
			change(t, func(b *Batch) {
				b.DeleteRule(table, "pre", rules[i].Handle)
				b.DeleteChain(table, "one")
				b.DeleteSet(table, "until")
			})
		}
		rules, err = c.Rules(table)
		chains, err2 := c.Chains(table)
		sets, err3 := c.Sets()
		if len(rules) != 1 || rules[0].Comment != "b" || !slices.Equal(chains, []string{"pre"}) || len(sets) != 0 || errors.Join(err, err2, err3) != nil {
			t.Errorf("left: rules %+v, chains %q, sets %v, errors %v", rules, chains, sets, errors.Join(err, err2, err3))
		}
	})
}

func member(t *testing.T, c *Conn, table *Table) *Member {
	t.Helper()
	for m, err := range c.Members(table, "until") {
		if err != nil {
			t.Error(err)
			return nil
		}
		return &m
	}
	return nil
}
