//go:build linux

package differ

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// outcome is what a program did.
type outcome struct {
	code           int
	stdout, stderr string
	after          *snapshot
	change         []string // of the table
	hit            bool     // something was said or changed
	made           bool     // things happened while it watched
}

// String writes exit code and both outputs, shortened.
func (o *outcome) String() string {
	s := fmt.Sprintf("exit %d", o.code)
	for _, out := range []struct{ name, text string }{{"stdout", o.stdout}, {"stderr", o.stderr}} {
		const most = 12
		lines := strings.Split(strings.TrimRight(out.text, "\n"), "\n")
		if n := len(lines) - most; n > 0 {
			lines = append(lines[:most], fmt.Sprintf("... and %d more lines", n))
		}
		if out.text != "" {
			s += "\n      " + out.name + ": " + strings.Join(lines, "\n      "+out.name+": ")
		}
	}
	return s
}

// differ lists how two outcomes of a case differ.
func (o *outcome) differ(p *outcome, c *Case) (out []string) {
	if o.code != p.code {
		out = append(out, fmt.Sprintf("exit code %d, not %d", p.code, o.code))
	}
	if !c.ownWords(o.code) {
		l := parse(c.Words)
		out = append(out, differRows(rows(o.stdout, &l), rows(p.stdout, &l))...)
		a, b := binding(o.stderr), binding(p.stderr)
		if !slices.Equal(a, b) {
			out = append(out, fmt.Sprintf("standard error: %q, not %q", b, a))
		}
	}
	// Of a program that ends at once it is a matter of moments whether things
	// were made to happen for it: then the tables differ by that.
	if d := o.after.differ(p.after); len(d) > 0 && o.made == p.made {
		out = append(out, shorten("table left behind: ", d)...)
	}
	return out
}

// ownWords tells whether what is printed is text for people, and ours to word.
func (c *Case) ownWords(code int) bool {
	l := parse(c.Words)
	return code == 2 || !c.loads() && (l.commands == "" || strings.ContainsAny(l.commands, "hV"))
}

// shorten prefixes the first few of a list.
func shorten(prefix string, list []string) (out []string) {
	const most = 6
	for i, s := range list {
		if i == most {
			return append(out, fmt.Sprintf("%sand %d more", prefix, len(list)-most))
		}
		out = append(out, prefix+s)
	}
	return out
}

// bindingLine is what scripts may read on standard error.
var bindingLine = regexp.MustCompile(`^(\d+ (flow entries|expectations|flow events|expectation events) have been \w+\.` +
	`|Operation failed: .*|(connection tracking|expectation) table has been emptied\.)$`)

// binding returns the lines of standard error that are binding, without the
// program's name.
func binding(stderr string) (list []string) {
	for s := range strings.Lines(stderr) {
		s = strings.TrimRight(s, "\n")
		if strings.HasPrefix(s, "conntrack v") {
			if _, rest, ok := strings.Cut(s, "): "); ok {
				s = rest
			}
		}
		if bindingLine.MatchString(s) {
			list = append(list, s)
		}
	}
	return list
}

// row is one line of standard output: what does not vary, and the timeout.
type row struct {
	text    string
	timeout time.Duration
}

// rows makes the lines of an output comparable. Their order depends on the
// kernel's hash, which is another in each namespace: they are sorted, but for
// events.
func rows(stdout string, l *line) []row {
	var list []row
	for s := range strings.Lines(stdout) {
		list = append(list, normalise(s))
	}
	if !strings.Contains(l.commands, "E") {
		slices.SortStableFunc(list, func(a, b row) int { return strings.Compare(a.text, b.text) })
	}
	return list
}

// differRows compares two lists of rows.
func differRows(a, b []row) []string {
	var in, out []string
	for _, r := range a {
		in = append(in, r.text)
	}
	for _, r := range b {
		out = append(out, r.text)
	}
	if slices.Equal(in, out) {
		for i := range a {
			if d := a[i].timeout - b[i].timeout; d > slack || d < -slack {
				return []string{fmt.Sprintf("timeout %v, not %v: %s", b[i].timeout, a[i].timeout, a[i].text)}
			}
		}
		return nil
	}
	var list []string
	for i, j := 0, 0; i < len(in) || j < len(out); {
		switch {
		case i < len(in) && j < len(out) && in[i] == out[j]:
			i, j = i+1, j+1
		case j == len(out) || i < len(in) && !slices.Contains(out[j:], in[i]):
			list = append(list, "- "+strconv.Quote(in[i]))
			i++
		default:
			list = append(list, "+ "+strconv.Quote(out[j]))
			j++
		}
	}
	return shorten("stdout ", list)
}

var (
	xmlVaries  = regexp.MustCompile(`<(id|use|deltatime|start|stop)>\d+</`)
	xmlTimeout = regexp.MustCompile(`<timeout>(\d+)</timeout>`)
	xmlWhen    = regexp.MustCompile(`<when>.*?</when>`)
	ctime      = regexp.MustCompile(`\[(start|stop)=[^\]]*\]`)
	stats      = regexp.MustCompile(`=\d+`)
)

// normalise makes one line comparable.
func normalise(s string) row {
	s = strings.TrimSuffix(s, "\n")
	if strings.HasPrefix(s, "[") {
		if _, rest, ok := strings.Cut(s, "]\t"); ok {
			s = "[TIME]\t" + rest
		}
	}
	switch {
	case strings.HasPrefix(s, "<"):
		return normaliseXML(s)
	case strings.HasPrefix(s, "cpu="):
		return row{text: stats.ReplaceAllString(s, "=N")}
	case strings.Contains(s, "[start="), strings.Contains(s, "[stop="):
		s = ctime.ReplaceAllString(s, "[$1=T]")
	}
	return normaliseText(s)
}

func normaliseXML(s string) (r row) {
	if m := xmlTimeout.FindStringSubmatch(s); m != nil {
		r.timeout = seconds(m[1])
		s = strings.Replace(s, m[0], "<timeout>T</timeout>", 1)
	}
	s = xmlVaries.ReplaceAllString(s, "<$1>N</")
	if strings.Contains(s, "<when>") {
		s = xmlWhen.ReplaceAllString(s, "<when/>")
	}
	r.text = s
	return r
}

// normaliseText does the line formats, word by word.
func normaliseText(s string) (r row) {
	words := strings.Split(s, " ")
	if i := timeoutWord(words); i >= 0 {
		r.timeout = seconds(words[i])
		words[i] = "T"
	}
	for i, w := range words {
		name, _, ok := strings.Cut(w, "=")
		if !ok {
			continue
		}
		switch name {
		case "use", "delta-time", "portid", "progname":
			words[i] = name + "=N"
		case "id":
			if !strings.HasPrefix(words[i-1], "code=") { // that is ICMP's
				words[i] = "id=N"
			}
		}
	}
	r.text = strings.Join(words, " ")
	return r
}

// timeoutWord is the index of the timeout, -1 if there is none.
func timeoutWord(words []string) int {
	if len(words) > 2 && strings.HasPrefix(words[0], "-") && words[1] == "-t" {
		return 2
	}
	src := slices.IndexFunc(words, func(w string) bool { return strings.HasPrefix(w, "src=") })
	for i := src - 1; i > 0; i-- {
		if number(words[i]) {
			if number(words[i-1]) {
				return i
			}
			break
		}
	}
	// An expectation's is before the protocol.
	if i := slices.IndexFunc(words, func(w string) bool { return strings.HasPrefix(w, "proto=") }); i > 0 {
		at := strings.TrimPrefix(words[i-1], "[TIME]\t")
		if number(at) {
			words[i-1] = at
			return i - 1
		}
	}
	return -1
}

func number(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

func seconds(s string) time.Duration {
	n, _ := strconv.ParseUint(s, 10, 32) // digits; too many of them are no timeout
	return time.Duration(n) * time.Second
}
