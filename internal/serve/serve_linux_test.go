package serve

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"flowcut/conntrack"
	"flowcut/cut"
	"flowcut/internal/example"
	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
	"flowcut/internal/netns"
	"flowcut/internal/receipts"
)

const secret = "a-token-of-the-test-alone"

// serving is a server of a namespace.
type serving struct {
	*Server
	url    string
	client *http.Client
	said   *bytes.Buffer // warnings
	stop   func()
	ended  chan struct{} // closed when Run has returned
}

// start serves the table of a namespace until the test ends.
func start(t *testing.T, ns *netns.NS, change func(*Config)) *serving {
	t.Helper()
	s := &serving{said: new(bytes.Buffer), client: http.DefaultClient}
	cfg := Config{
		Listen: "127.0.0.1:0", NetNS: ns.Fd(), Events: true, Version: "1", Token: secret,
		Cut:  cut.Options{Settle: cut.None, Hold: cut.None},
		Warn: func(line string) { fmt.Fprintln(s.said, line) },
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if s.Server, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	s.url = strings.TrimSuffix(s.URL(), "/")
	ctx, stop := context.WithCancel(context.Background())
	s.stop, s.ended = stop, make(chan struct{})
	go func() {
		defer close(s.ended)
		if err := s.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	t.Cleanup(func() {
		stop()
		<-s.ended
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

// scratch is a namespace with the flows of package example.
func scratch(t *testing.T) *netns.NS {
	t.Helper()
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	c, err := conntrack.Dial(conntrack.Config{NetNS: ns.Fd()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for name, f := range example.Flows() {
		f.Has |= conntrack.AttrStatus | conntrack.AttrTimeout
		f.Timeout = time.Hour
		if err := c.Create(t.Context(), f); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	return ns
}

// get returns what is at a path.
func (s *serving) get(t *testing.T, path string) string {
	t.Helper()
	r, err := s.client.Get(s.url + path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v\n%s", path, r.Status, err, b)
	}
	return string(b)
}

// metric returns the sum of a metric's values.
func (s *serving) metric(t *testing.T, name, label, value string) float64 {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	all, err := parser.TextToMetricFamilies(strings.NewReader(s.get(t, "/metrics")))
	if err != nil {
		t.Fatal(err)
	}
	if all[name] == nil {
		t.Fatalf("no metric %s", name)
	}
	sum := 0.0
	for _, m := range all[name].Metric {
		matches := label == ""
		for _, l := range m.Label {
			matches = matches || l.GetName() == label && l.GetValue() == value
		}
		if matches {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetHistogram().GetSampleSum()
		}
	}
	return sum
}

// ask sends a request with what the page sends, but for what change does.
func (s *serving) ask(t *testing.T, path, body string, change func(*http.Request)) (code int, answer string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+secret)
	r.Header.Set("Origin", s.url)
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	if change != nil {
		change(r)
	}
	got, err := s.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	b, err := io.ReadAll(got.Body)
	if err != nil {
		t.Fatal(err)
	}
	return got.StatusCode, string(b)
}

// stream reads server-sent events until the test ends: what it returns waits for one.
func (s *serving) stream(t *testing.T) func(event string, is func(data string) bool) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.client.Do(r)
	if err != nil || got.StatusCode != http.StatusOK || got.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("events: %v, %v", got, err)
	}
	t.Cleanup(func() { _ = got.Body.Close() })
	lines := bufio.NewScanner(got.Body)
	lines.Buffer(nil, 1<<20)
	return func(event string, is func(string) bool) string {
		t.Helper()
		name := ""
		for lines.Scan() {
			if n, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
				name = n
			} else if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok && name == event && is(data) {
				return data
			}
		}
		t.Fatalf("the stream ended before %s: %v", event, lines.Err())
		return ""
	}
}

func contains(part string) func(string) bool {
	return func(s string) bool { return strings.Contains(s, part) }
}

// What the metrics say of the table is what another asks the kernel for, and
// their names and texts are as Prometheus wants them.
func TestMetrics(t *testing.T) {
	ns := scratch(t)
	s := start(t, ns, nil)
	c, err := conntrack.Dial(conntrack.Config{NetNS: ns.Fd()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	l, err := c.Limits(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cpus, err := c.CPUStats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	inserted := uint32(0)
	for _, cpu := range cpus {
		inserted += cpu.Insert
	}
	for name, want := range map[string]float64{
		"flowcut_table_entries": float64(l.Count), "flowcut_table_max_entries": float64(l.Max),
		"flowcut_table_buckets": float64(l.Buckets), "flowcut_cpu_insert_total": float64(inserted),
	} {
		if got := s.metric(t, name, "", ""); got != want || want == 0 {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	problems, err := testutil.GatherAndLint(s.metrics.registry)
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}
	for line := range strings.Lines(s.get(t, "/metrics")) {
		if !strings.HasPrefix(strings.TrimPrefix(strings.TrimPrefix(line, "# HELP "), "# TYPE "), prefix) {
			t.Errorf("a name does not begin with %s: %s", prefix, line)
		}
	}
	if start(t, scratch(t), func(cfg *Config) { cfg.Events = false }).has(t, "flowcut_returned_flows_total") {
		t.Error("there are returns without events")
	}
}

func (s *serving) has(t *testing.T, name string) bool {
	return strings.Contains(s.get(t, "/metrics"), name)
}

// refusal is a request that is to be refused.
type refusal struct {
	name, path, body string
	change           func(*http.Request)
	want             int
}

// header sets a header of a request.
func header(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

// host calls the server by a name, as a page from there would.
func host(name string) func(*http.Request) {
	return func(r *http.Request) { r.Host = name; r.Header.Set("Origin", "http://"+name) }
}

// refusals are the ways in which a cut, or its dry run, must not come about.
func refusals(cutIt string) []refusal {
	return []refusal{
		{"rebound name", "/cut", cutIt, host("evil.example"), http.StatusMisdirectedRequest},
		{"another address", "/cut", cutIt, host("192.0.2.1"), http.StatusMisdirectedRequest},
		{"name like localhost", "/cut", cutIt, host("localhost.evil.example"), http.StatusMisdirectedRequest},
		{"another origin", "/cut", cutIt, header("Origin", "http://evil.example"), http.StatusForbidden},
		{"another port's origin", "/cut", cutIt, header("Origin", "http://127.0.0.1:1"), http.StatusForbidden},
		{"no origin", "/cut", cutIt, header("Origin", "null"), http.StatusForbidden},
		{"cross-site", "/cut", cutIt, header("Sec-Fetch-Site", "cross-site"), http.StatusForbidden},
		{"same-site", "/cut", cutIt, header("Sec-Fetch-Site", "same-site"), http.StatusForbidden},
		{"wrong token", "/cut", cutIt, header("Authorization", "Bearer "+secret+"x"), http.StatusUnauthorized},
		{"no token", "/cut", cutIt, header("Authorization", ""), http.StatusUnauthorized},
		{"token without its word", "/cut", cutIt, header("Authorization", secret), http.StatusUnauthorized},
		{"token in a cookie", "/cut", cutIt, func(r *http.Request) {
			r.Header.Del("Authorization")
			r.AddCookie(&http.Cookie{Name: "token", Value: secret})
		}, http.StatusUnauthorized},
		{"token in the URL", "/cut?token=" + secret, cutIt, header("Authorization", ""), http.StatusUnauthorized},
		{"a form", "/cut", cutIt, header("Content-Type", "application/x-www-form-urlencoded"), http.StatusUnsupportedMediaType},
		{"text", "/cut", cutIt, header("Content-Type", "text/plain"), http.StatusUnsupportedMediaType},
		{"no type", "/cut", cutIt, func(r *http.Request) { r.Header.Del("Content-Type") }, http.StatusUnsupportedMediaType},
		{"wrong method", "/cut", cutIt, func(r *http.Request) { r.Method = http.MethodPut }, http.StatusMethodNotAllowed},
		{"reading", "/cut", cutIt, func(r *http.Request) { r.Method = http.MethodGet }, http.StatusMethodNotAllowed},
		{"no dry run", "/cut", `{"plan":"x"}`, nil, http.StatusConflict},
		{"unknown field", "/cut", `{"plan":"x","force":true}`, nil, http.StatusBadRequest},
		{"no JSON", "/cut", `plan`, nil, http.StatusBadRequest},
		{"two values", "/cut", cutIt + cutIt, nil, http.StatusBadRequest},
		{"long", "/cut", `{"plan":"` + strings.Repeat("x", mostBody) + `"}`, nil, http.StatusRequestEntityTooLarge},
		{"everything", "/cut/plan", `{"selection":""}`, nil, http.StatusBadRequest},
		{"a file", "/cut/plan", `{"selection":"--host @/etc/shadow"}`, nil, http.StatusBadRequest},
		{"a set", "/cut/plan", `{"selection":"--host @nft:ip/a/b"}`, nil, http.StatusBadRequest},
		{"nonsense", "/cut/plan", `{"selection":"<script>alert(1)</script>"}`, nil, http.StatusBadRequest},
	}
}

// What is to be refused is, and changes nothing.
func TestRefused(t *testing.T) {
	ns := scratch(t)
	s := start(t, ns, func(cfg *Config) { cfg.Hosts = []string{"gateway.example.org"} })
	selection := `{"selection":"-p tcp -s 203.0.113.0/24"}`
	code, answer := s.ask(t, "/cut/plan", selection, nil)
	var plan planView
	if err := json.Unmarshal([]byte(answer), &plan); code != http.StatusOK || err != nil || plan.Matched == 0 {
		t.Fatalf("a dry run: %d %s", code, answer)
	}
	cutIt := fmt.Sprintf(`{"plan":%q}`, plan.Plan)
	before := s.metric(t, "flowcut_table_entries", "", "")
	for _, tt := range refusals(cutIt) {
		t.Run(tt.name, func(t *testing.T) {
			code, answer := s.ask(t, tt.path, tt.body, tt.change)
			if code != tt.want || strings.Contains(tt.body, "@") && !strings.Contains(answer, "@ is not possible here") {
				t.Errorf("%d, want %d: %s", code, tt.want, answer)
			}
		})
	}
	for _, path := range []string{"/", "/metrics", "/events", "/page.js"} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = "evil.example:9190"
		if got, err := s.client.Do(r); err != nil || got.StatusCode != http.StatusMisdirectedRequest {
			t.Errorf("%s by a rebound name: %v, %v", path, got, err)
		}
	}
	if after := s.metric(t, "flowcut_table_entries", "", ""); after != before || s.metric(t, "flowcut_cuts_total", "", "") != 0 {
		t.Errorf("%v entries, were %v; cuts %v", after, before, s.metric(t, "flowcut_cuts_total", "", ""))
	}
	// The same request is all right by the names that it may have; the last one cuts.
	for i, name := range []string{"localhost:8080", "GATEWAY.example.org", strings.TrimPrefix(s.url, "http://")} {
		body, path := selection, "/cut/plan"
		if i == 2 {
			body, path = cutIt, "/cut"
		}
		if code, answer := s.ask(t, path, body, host(name)); code != http.StatusOK {
			t.Errorf("as %s: %d %s", name, code, answer)
		}
	}
	if left := s.metric(t, "flowcut_table_entries", "", ""); left != before-float64(plan.Matched) {
		t.Errorf("%v entries are left of %v, %d were cut", left, before, plan.Matched)
	}
	if code, answer := s.ask(t, "/cut", cutIt, nil); code != http.StatusConflict {
		t.Errorf("the same dry run twice: %d %s", code, answer)
	}
}

// What has more flows by now than the dry run had, but for some, is not cut.
func TestManyMore(t *testing.T) {
	s := start(t, scratch(t), nil)
	create := maker(t, s.Server)
	create(100)
	for _, more := range []int{25, 26} {
		_, answer := s.ask(t, "/cut/plan", `{"selection":"-p udp -s 203.0.113.9 --dport 53"}`, nil)
		var plan planView
		if err := json.Unmarshal([]byte(answer), &plan); err != nil || plan.Matched != 100 {
			t.Fatalf("a dry run: %s", answer)
		}
		create(more)
		code, answer := s.ask(t, "/cut", fmt.Sprintf(`{"plan":%q}`, plan.Plan), nil)
		if want := map[int]int{25: http.StatusOK, 26: http.StatusConflict}[more]; code != want {
			t.Errorf("%d more: %d, want %d: %s", more, code, want, answer)
		}
		create(100) // the first ones are cut
	}
}

// Without --allow-cut nothing cuts, whoever asks.
func TestReadOnly(t *testing.T) {
	s := start(t, scratch(t), func(cfg *Config) { cfg.Token = "" })
	for _, path := range []string{"/cut/plan", "/cut"} {
		for _, token := range []string{secret, ""} {
			code, answer := s.ask(t, path, `{"selection":"-p tcp -s 203.0.113.0/24"}`, func(r *http.Request) {
				r.Header.Set("Authorization", "Bearer "+token)
			})
			if code != http.StatusForbidden {
				t.Errorf("%s: %d %s", path, code, answer)
			}
		}
	}
	if strings.Contains(s.get(t, "/"), `id="cut"`) {
		t.Error("the page offers a cut")
	}
}

// The first state is in the page itself, with nothing of others' as markup.
func TestPageWithoutScript(t *testing.T) {
	s := start(t, scratch(t), nil)
	const bad = "<script>alert(1)</script>"
	s.note(receipts.NewNote(bad, &cut.Receipt{Version: 1, Selector: bad, Reason: bad + "\x1b[31m\u202e"}))
	var page string
	labtest.Until(t, "the table is counted", func() bool {
		page = s.get(t, "/")
		return strings.Contains(page, " entries, 0.0 %")
	})
	for _, want := range []string{"&lt;script&gt;alert(1)", `\x1b[31m\u202e`, "<h3>by server</h3>", "203.0.113.1"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
	if n := strings.Count(page, "<script"); n != 1 || strings.Contains(page, "\x1b") {
		t.Errorf("%d scripts in the page:\n%s", n, page)
	}
	for _, path := range []string{"/page.css", "/page.js", "/icon.svg"} {
		if file := s.get(t, path); strings.Contains(file, "http://") && path != "/icon.svg" || strings.Contains(file, "https://") {
			t.Errorf("%s names another origin", path)
		}
	}
}

// Pages are told what changes; too many of them are refused, slow ones dropped.
func TestStream(t *testing.T) {
	ns := scratch(t)
	s := start(t, ns, nil)
	next := s.stream(t)
	first := next("table", contains("entries"))
	next("top", contains(`"by":"server","rows":[{`))
	s.note(receipts.NewNote("somebody", &cut.Receipt{Version: 1, Proven: true, Selector: "-s 192.0.2.1"}))
	next("receipts", contains("-s 192.0.2.1"))
	c, err := conntrack.Dial(conntrack.Config{NetNS: ns.Fd()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Flush(t.Context(), conntrack.FamilyBoth); err != nil {
		t.Fatal(err)
	}
	next("table", contains(`"count":0,`))
	if strings.Contains(first, `"count":0,`) {
		t.Errorf("it was %s before", first)
	}
	// One that does not read.
	conn, err := net.Dial("tcp", s.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
	labtest.Until(t, "it is there", func() bool { return s.hub.len() == 2 })
	big := strings.Repeat("x", 1<<20)
	for range 16 {
		s.hub.tell("test", big)
	}
	labtest.Until(t, "it is dropped", func() bool { s.hub.tell("test", big); return s.hub.len() < 2 })
	for s.hub.len() < mostStreams {
		defer s.hub.leave(s.hub.join())
	}
	if r, err := s.client.Get(s.url + "/events"); err != nil || r.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("one too many: %v, %v", r, err)
	}
}

// A flow that comes back is counted as one, as are the events.
func TestReturned(t *testing.T) {
	net := labtest.Standard(t, lab.Config{})
	labtest.Listen(t, net.Servers[0].Host, 5201)
	if err := net.Gateway.Forward(5201, net.Servers[0]); err != nil {
		t.Fatal(err)
	}
	s := start(t, net.Gateway.NS, nil)
	ends := labtest.Dial(t, net.Clients[0].Host, lab.Streams{Kind: lab.Download, To: netip.AddrPortFrom(net.Gateway.Public4, 5201)})
	labtest.Until(t, "the flow is seen", func() bool { return s.metric(t, "flowcut_events_total", "kind", "new") > 0 })
	if n := s.metric(t, "flowcut_returned_flows_total", "", ""); n != 0 {
		t.Errorf("%v returns before anything ended", n)
	}
	c, err := conntrack.Dial(conntrack.Config{NetNS: net.Gateway.NS.Fd()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Flush(t.Context(), conntrack.FamilyBoth); err != nil { // what people do
		t.Fatal(err)
	}
	labtest.Until(t, "it comes back", func() bool { return s.metric(t, "flowcut_returned_flows_total", "", "") == 1 })
	if n := s.metric(t, "flowcut_events_total", "kind", "destroy"); n == 0 {
		t.Error("no end was counted")
	}
	ends.Close()
}
