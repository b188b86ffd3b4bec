// Package docs_test holds the man page to the program.
package docs_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"flowcut/conntrack"
	"flowcut/cut"
	"flowcut/internal/cli"
	"flowcut/internal/doctor"
	"flowcut/internal/explain"
	"flowcut/internal/returns"
	"flowcut/internal/watch"
)

// page is the man page by sections; a subsection has its own entry.
type page map[string]string

// manPage reads the page. Backslashes of roff are dropped.
func manPage(t *testing.T) page {
	t.Helper()
	b, err := os.ReadFile("flowcut.8")
	if err != nil {
		t.Fatal(err)
	}
	p, name := page{}, ""
	for line := range strings.Lines(strings.ReplaceAll(string(b), `\&`, "")) {
		if title, ok := cutMacro(line); ok {
			name = title
		}
		p[name] += line
	}
	return p
}

// cutMacro returns the title of a line that begins a section.
func cutMacro(line string) (title string, ok bool) {
	for _, macro := range []string{".Sh ", ".Ss "} {
		if title, ok = strings.CutPrefix(line, macro); ok {
			return strings.TrimSpace(title), true
		}
	}
	return "", false
}

// flags are the long flags that sections define in their lists.
func (p page) flags(sections ...string) map[string]bool {
	out := map[string]bool{}
	long := regexp.MustCompile(`-[a-z][a-z-]+`)
	for _, s := range sections {
		for _, item := range items(p[s], "Fl") {
			for _, name := range long.FindAllString(item, -1) {
				out["-"+name] = true
			}
		}
	}
	return out
}

// items are the entries of lists that begin with a macro.
func items(text, macro string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if item, ok := strings.CutPrefix(line, ".It "+macro+" "); ok {
			out = append(out, item)
		}
	}
	return out
}

// names are the fields that sections name, in lists or in running text.
func (p page) names(sections ...string) map[string]bool {
	out := map[string]bool{}
	word := regexp.MustCompile(`[a-z][a-z0-9_.]*`)
	for _, s := range sections {
		for line := range strings.Lines(p[s]) {
			_, after, ok := strings.Cut(line, "Va ")
			if ok {
				for _, name := range word.FindAllString(after, -1) {
					out[name] = true
				}
			}
		}
	}
	return out
}

// help is what a command prints with --help.
func help(t *testing.T, command []string) string {
	t.Helper()
	var out, errs bytes.Buffer
	if code := cli.Run(t.Context(), append(slices.Clone(command), "--help"), strings.NewReader(""), &out, &errs); code != 0 {
		t.Fatalf("%q --help: exit code %d\n%s", command, code, &errs)
	}
	return out.String()
}

// subcommands are the commands that a help text lists.
func subcommands(text string) []string {
	_, list, ok := strings.Cut(text, "Available Commands:\n")
	if !ok {
		return nil
	}
	list, _, _ = strings.Cut(list, "\n\n")
	var out []string
	for line := range strings.Lines(list) {
		out = append(out, strings.Fields(line)[0])
	}
	return out
}

// flagsOf are the long flags that a help text offers, their other names too.
func flagsOf(text string) map[string]bool {
	out := map[string]bool{}
	other := regexp.MustCompile(`\(also (--[a-z-]+(?:, --[a-z-]+)*)\)`)
	first := regexp.MustCompile(`^ +(?:-[a-zA-Z], )?(--[a-z][a-z-]+)`)
	for line := range strings.Lines(text) {
		m := first.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		out[m[1]] = true
		if m := other.FindStringSubmatch(line); m != nil {
			for name := range strings.SplitSeq(m[1], ", ") {
				out[name] = true
			}
		}
	}
	return out
}

// wantSame reports what one set has and the other lacks.
func wantSame(t *testing.T, what string, program, page map[string]bool) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(program)) {
		if !page[name] {
			t.Errorf("%s: the man page lacks %s", what, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(page)) {
		if !program[name] {
			t.Errorf("%s: the man page has %s, the program has not", what, name)
		}
	}
}

// Every command has a section, and there every flag an entry; none is invented.
func TestFlags(t *testing.T) {
	p := manPage(t)
	var walk func(command []string)
	walk = func(command []string) {
		name := strings.Join(append([]string{"flowcut"}, command...), " ")
		text := help(t, command)
		flags := flagsOf(text)
		for _, sub := range subcommands(text) {
			below := append(slices.Clone(command), sub)
			switch {
			case sub == "help": // has no flags of its own
			case sub == "conntrack": // has conntrack(8)'s, and a page of its own
				if p["flowcut conntrack"] == "" {
					t.Error("the man page has no section for conntrack")
				}
			case name == "flowcut completion": // its shells share one section
				maps.Copy(flags, flagsOf(help(t, below)))
			default:
				walk(below)
			}
		}
		sections := []string{name}
		if strings.Contains(text, "\nSelection ") {
			sections = append(sections, "Selection")
		}
		if p[name] == "" {
			t.Errorf("the man page has no section %q", name)
		}
		wantSame(t, name, flags, p.flags(sections...))
	}
	walk(nil)
}

// fields are the JSON names of a type, those of structs inside behind a dot.
func fields(typ reflect.Type, prefix string, out map[string]bool) {
	for i := range typ.NumField() {
		f := typ.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		out[prefix+name] = true
		if f.Type.Kind() == reflect.Struct {
			fields(f.Type, prefix+name+".", out)
		}
	}
}

// keys are the names in a JSON object and in objects inside it.
func keys(t *testing.T, b []byte, out map[string]bool) {
	t.Helper()
	object := map[string]json.RawMessage{}
	if err := json.Unmarshal(b, &object); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	for name, value := range object {
		out[name] = true
		if value[0] == '{' {
			keys(t, value, out)
		}
	}
}

// keysOf are the names in the JSON of values.
func keysOf[T any](t *testing.T, values ...T) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	for _, v := range values {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		keys(t, b, out)
	}
	return out
}

// wholeFlows have, together, every attribute there is.
func wholeFlows() []conntrack.Flow {
	var out []conntrack.Flow
	for _, p := range []conntrack.Proto{conntrack.ProtoTCP, conntrack.ProtoGRE, conntrack.ProtoICMP} {
		tuple := conntrack.Tuple{Proto: p}
		f := conntrack.Flow{Has: ^conntrack.Attr(0), Orig: tuple, Reply: tuple, Master: tuple}
		f.HelpInfo = []byte{1}
		out = append(out, f)
	}
	return out
}

// Every field of a receipt, a dry run and a flow is explained, none is invented.
func TestFields(t *testing.T) {
	p := manPage(t)
	want := map[string]bool{}
	fields(reflect.TypeFor[cut.Receipt](), "", want)
	fields(reflect.TypeFor[cut.Plan](), "", want)
	flow := keysOf(t, wholeFlows()...)
	for _, f := range wholeFlows() {
		report := cut.FlowReport{Flow: &f, Outcome: cut.Deleted, Originator: cut.EndDead, Responder: cut.EndDead}
		for name := range keysOf(t, report) {
			if !flow[name] {
				want["flow."+name] = true
			}
		}
	}
	listed := map[string]bool{}
	for _, name := range items(p["RECEIPT"], "Va") {
		listed[strings.TrimSpace(name)] = true
	}
	wantSame(t, "receipt", want, listed)
	wantSame(t, "flow", flow, p.names("FLOW OBJECT"))
}

// Every field of an event of flowcut watch is explained.
func TestWatch(t *testing.T) {
	f := &wholeFlows()[0]
	at := time.Now()
	life := &returns.Life{Flow: *f, Began: at, Ended: at, Program: 1}
	life.Flow.Zone = 1
	e := &conntrack.Event{Kind: conntrack.EventDestroy, Flow: f, PortID: 1}
	object := map[string]json.RawMessage{}
	b := watch.AppendJSON(nil, e, &returns.Verdict{Returned: true, At: at, Began: at, Earlier: life})
	if err := json.Unmarshal(b, &object); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	earlier := map[string]json.RawMessage{}
	if err := json.Unmarshal(object["earlier"], &earlier); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	want, listed := map[string]bool{}, map[string]bool{}
	for name := range object {
		want[name] = true
	}
	for name := range earlier {
		want["earlier."+name] = true
	}
	for _, name := range items(manPage(t)["flowcut watch"], "Va") {
		listed[strings.TrimSpace(name)] = true
	}
	wantSame(t, "watch", want, listed)
}

// Every field and topic of an explanation, and every place, is explained.
func TestExplain(t *testing.T) {
	text := manPage(t)["flowcut explain"]
	words := map[string]bool{"flow": true, "place": true, "statements": true}
	fields(reflect.TypeFor[explain.Statement](), "", words)
	for _, topic := range explain.Topics {
		words[topic] = true
	}
	for p := explain.Listed; p <= explain.Mirrored; p++ {
		words[p.String()] = true
	}
	for word := range words {
		if !regexp.MustCompile(`(?m)^\.(Va|Li) (.* )?` + word + `\b`).MatchString(text) {
			t.Errorf("the man page does not explain %s", word)
		}
	}
}

// Every field of doctor's report, and every check, is explained.
func TestDoctor(t *testing.T) {
	p := manPage(t)
	set := func(sections ...string) map[string]bool {
		out := map[string]bool{}
		for _, s := range sections {
			for _, name := range items(p[s], "Va") {
				out[strings.TrimSpace(name)] = true
			}
		}
		return out
	}
	want := map[string]bool{}
	fields(reflect.TypeFor[doctor.Report](), "", want)
	fields(reflect.TypeFor[doctor.Check](), "checks.", want)
	wantSame(t, "doctor", want, set("flowcut doctor"))
	names := map[string]bool{}
	groups := []string{}
	for _, c := range doctor.Names() {
		names[c.Name] = true
		groups = append(groups, c.Group)
		if !set(c.Group)[c.Name] {
			t.Errorf("the man page has %s not in group %s", c.Name, c.Group)
		}
	}
	wantSame(t, "checks", names, set(groups...))
}
