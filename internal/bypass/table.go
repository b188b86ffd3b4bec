package bypass

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"flowcut/internal/fence"
	"flowcut/internal/nft"
	"flowcut/selector"
)

// Chains of a table. Each bypass has a chain with its rules, which both hooks call, a
// chain that nobody calls with its selection in comments, and a set that has an
// element while it is in force.
const (
	chainPre    = "prerouting"
	chainOut    = "output"
	chainRules  = "bypass"
	chainWords  = "words"
	setUntil    = "until"
	setSelector = "list"
)

// Comments of the rules whose counters are read.
const (
	countSent     = "sent"
	countReturned = "returned"
)

// prioRaw is behind the defragmentation (-400), so that ports are known wherever
// packets are tracked, and before connection tracking (-200).
const prioRaw = -300

func numbered(name string, n int) string { return name + strconv.Itoa(n) }

var ofNumber = regexp.MustCompile(`^(bypass|words|until|list)([1-9][0-9]{0,8})(?:_[0-9]+)?$`)

// number returns what a chain or a set is for and of which bypass, "" for what no
// flowcut makes.
func number(name string) (what string, n int) {
	m := ofNumber.FindStringSubmatch(name)
	if m == nil {
		return "", 0
	}
	n, _ = strconv.Atoi(m[2])
	return m[1], n
}

// table lays out the table of one family with one bypass in it.
func table(f nft.Family, n int, s selector.Selector, life time.Duration) *nft.Table {
	sent, returned, sets, _ := fence.Header(f, s, numbered(setSelector, n)+"_")
	call := []nft.Rule{nft.NewRule(numbered("", n), nft.Jump(numbered(chainRules, n)))}
	sets = append(sets, &nft.Set{Name: numbered(setUntil, n), Key: []nft.Type{nft.TypeEther}, Timed: true, Elements: until(f, life)})
	return &nft.Table{Family: f, Name: Name, Sets: sets, Chains: []*nft.Chain{
		{Name: numbered(chainRules, n), Rules: rules(n, sent, returned)},
		{Name: numbered(chainWords, n), Rules: words(s)},
		{Name: chainPre, Hook: &nft.Hook{Type: "filter", Num: nft.Prerouting, Priority: prioRaw}, Rules: call},
		{Name: chainOut, Hook: &nft.Hook{Type: "filter", Num: nft.Output, Priority: prioRaw}, Rules: call},
	}}
}

// until is the element that all packets of the family find, for a time; 0: for good.
func until(f nft.Family, life time.Duration) []nft.Element {
	return []nft.Element{{Key: f.EtherType(), Timeout: life}}
}

// rules take packets out of tracking. Where both directions have the same
// condition there is nothing to tell them by.
func rules(n int, sent, returned [][]nft.Statement) []nft.Rule {
	var out []nft.Rule
	seen := map[string]bool{}
	for _, d := range []struct {
		name  string
		terms [][]nft.Statement
	}{{countSent, sent}, {countReturned, returned}} {
		for _, term := range d.terms {
			if text := fmt.Sprint(term); seen[text] {
				continue
			} else {
				seen[text] = true
			}
			inForce := nft.Lookup{Key: nft.Key{nft.MetaProtocol}, Set: numbered(setUntil, n)}
			out = append(out, nft.NewRule(d.name, append(slices.Clone(term), inForce, nft.Counter, nft.Notrack, nft.Accept)...))
		}
	}
	return out
}

// words keep the selection, in comments as long as nft(8) takes them.
func words(s selector.Selector) []nft.Rule {
	const most = 120
	text := s.String()
	var out []nft.Rule
	for len(text) > 0 {
		n := min(most, len(text))
		if cut := strings.LastIndexByte(text[:n], ' '); n < len(text) && cut > 0 {
			n = cut // the blank begins the next comment
		}
		out = append(out, nft.NewRule(text[:n], nft.Accept))
		text = text[n:]
	}
	return out
}

// selection reads what words have written. It reads no file.
func selection(text string) (selector.Selector, error) {
	list := strings.Fields(text)
	for _, w := range list {
		if strings.Contains(w, "@") {
			return selector.Selector{}, fmt.Errorf("a file in %q", text)
		}
	}
	s, err := selector.Parse(list)
	if err == nil {
		err = Check(&s)
	}
	return s, err
}
