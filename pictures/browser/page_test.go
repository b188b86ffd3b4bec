//go:build linux

// Package browser holds the page of "flowcut serve" to what it promises, in a browser,
// and takes its pictures. Needs root and Chromium.
package browser

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"golang.org/x/sys/unix"

	"flowcut/conntrack"
	"flowcut/cut"
	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
	"flowcut/internal/receipts"
)

var (
	program = flag.String("flowcut", "", "the program, as make build makes it")
	dir     = flag.String("dir", "", "where the pictures go; empty: none are taken")
)

const port = 5201

// site is a gateway, what serves its table, and a browser that looks at it.
type site struct {
	net        *lab.Topology
	url, token string
	ctx        context.Context // of the browser's tab

	mu       sync.Mutex
	problems []string // that the browser has told of
	asked    []string // URLs
}

// newSite builds the network, fills the table and starts the program and the browser.
func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{net: labtest.Standard(t, lab.Config{Sysctls: map[string]string{"net.netfilter.nf_conntrack_acct": "1"}})}
	labtest.Listen(t, s.net.Servers[0].Host, port)
	if err := s.net.Gateway.Forward(port, s.net.Servers[0]); err != nil {
		t.Fatal(err)
	}
	s.fill(t)
	s.serve(t)
	s.browse(t)
	return s
}

// fill makes flows of many kinds.
func (s *site) fill(t *testing.T) {
	t.Helper()
	c, err := conntrack.Dial(conntrack.Config{NetNS: s.net.Gateway.NS.Fd()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ports := []uint16{443, 443, 443, 80, 22, 853, 8443, 25}
	for i := range 1200 {
		client := netip.AddrFrom4([4]byte{192, 168, byte(1 + i%3), byte(2 + i%17)})
		server := netip.AddrFrom4([4]byte{198, 51, 100, byte(10 + i*i%23)})
		o := conntrack.Tuple{Proto: conntrack.ProtoTCP, Src: client, SrcPort: uint16(20000 + i), Dst: server, DstPort: ports[i%len(ports)]}
		f := conntrack.Flow{
			Has:  conntrack.AttrOrig | conntrack.AttrReply | conntrack.AttrStatus | conntrack.AttrTimeout | conntrack.AttrTCP,
			Orig: o, Reply: o.Invert(), Timeout: time.Hour,
		}
		f.TCP.State = conntrack.TCPEstablished
		if i%5 > 0 {
			f.Status = conntrack.StatusSeenReply | conntrack.StatusAssured
		}
		if err := c.Create(t.Context(), &f); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *site) dial(t *testing.T, count int) lab.Ends {
	t.Helper()
	return labtest.Dial(t, s.net.Clients[0].Host, lab.Streams{Kind: lab.Idle, To: netip.AddrPortFrom(s.net.Gateway.Public4, port), Count: count})
}

// serve starts the program.
func (s *site) serve(t *testing.T) {
	t.Helper()
	path, err := filepath.Abs(*program)
	if err != nil || *program == "" {
		t.Fatal("say with -args -flowcut where the program is")
	}
	cmd := exec.Command(path, "serve", "--netns", s.net.Gateway.Name, "--listen", "127.0.0.1:0", "--allow-cut")
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("serve: %v: %s", err, &said)
		}
	})
	for lines := bufio.NewScanner(out); s.url == ""; {
		if !lines.Scan() {
			t.Fatalf("serve ended: %s", &said)
		}
		if v, ok := strings.CutPrefix(lines.Text(), "token: "); ok {
			s.token = v
		} else if v, ok := strings.CutPrefix(lines.Text(), "listening on "); ok {
			s.url = v
		}
	}
}

// browse starts a browser and hears what it complains of.
func (s *site) browse(t *testing.T) {
	t.Helper()
	path, err := exec.LookPath("chromium-headless-shell")
	if err != nil {
		if path, err = exec.LookPath("chromium"); err != nil {
			t.Fatal("no Chromium: .ci/page-deps installs it")
		}
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox)
	ctx, end := chromedp.NewExecAllocator(labtest.Context(t), options...)
	t.Cleanup(end)
	s.ctx, end = chromedp.NewContext(ctx)
	t.Cleanup(end)
	complain := func(format string, args ...any) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.problems = append(s.problems, fmt.Sprintf(format, args...))
	}
	err = chromedp.Listen(s.ctx, func(e any) {
		switch e := e.(type) {
		case *runtime.EventExceptionThrown:
			complain("exception: %v", e.ExceptionDetails)
		case *runtime.EventConsoleAPICalled:
			complain("console: %v", e.Type)
		case *log.EventEntryAdded:
			complain("log: %s: %s", e.Entry.Level, e.Entry.Text)
		case *network.EventRequestWillBeSent:
			s.mu.Lock()
			defer s.mu.Unlock()
			s.asked = append(s.asked, e.Request.URL)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	call(t, s, network.Enable, network.EnableParams{})
	call(t, s, log.Enable, cdp.Empty{})
}

// call sends the browser a command.
func call[P, R any](t *testing.T, s *site, c cdp.Command[P, R], params P) {
	t.Helper()
	if _, err := chromedp.Call(s.ctx, c, params); err != nil {
		t.Fatalf("%s: %v", c.Method, err)
	}
}

// do lets the browser do things.
func (s *site) do(t *testing.T, actions ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err := chromedp.Do(s.ctx, actions...); err != nil {
		t.Fatalf("%v; the browser said %q", err, s.complaints())
	}
}

// complaints returns what the browser has complained of, and forgets it.
func (s *site) complaints() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.problems
	s.problems = nil
	return p
}

// value evaluates an expression in the page.
func value[T any](t *testing.T, s *site, expression string) T {
	t.Helper()
	v, err := chromedp.Run(s.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		t.Fatalf("%s: %v; the browser said %q", expression, err, s.complaints())
	}
	return v
}

// until waits for an expression to be true in the page.
func (s *site) until(t *testing.T, expression string) {
	t.Helper()
	labtest.Until(t, expression, func() bool { return value[bool](t, s, "!!("+expression+")") })
}

// text is an expression for what an element says.
func text(id string) string { return fmt.Sprintf("document.getElementById(%q).textContent", id) }

// look opens the page on a screen and waits until it is live and full.
func (s *site) look(t *testing.T, width, height int64, scheme string, mobile bool) {
	t.Helper()
	call(t, s, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
	call(t, s, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: height, DeviceScaleFactor: 1, Mobile: mobile})
	s.do(t, chromedp.Navigate(s.url))
	s.until(t, text("live")+` === "live"`)
	s.until(t, `document.querySelectorAll("#top li").length > 20`)
	s.until(t, text("table-forecast")+` === "steady"`)
}

// picture takes what the screen shows.
func (s *site) picture(t *testing.T, name string) {
	t.Helper()
	if *dir == "" {
		return
	}
	const most = 150_000
	png, err := chromedp.Run(s.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		t.Fatal(err)
	}
	if len(png) > most {
		t.Errorf("%s has %d bytes", name, len(png))
	}
	if err := os.WriteFile(filepath.Join(*dir, name), png, 0o644); err != nil {
		t.Fatal(err)
	}
}

// Everything that the page promises, in the order in which somebody would see it.
func TestPage(t *testing.T) {
	s := newSite(t)
	s.dial(t, 12)
	s.look(t, 960, 940, "light", false)
	s.updates(t)
	s.cutElsewhere(t)
	s.looks(t)
	if p := s.complaints(); len(p) > 0 {
		t.Errorf("the browser complained: %q", p)
	}
	s.cutHere(t)
	s.inert(t)
	for _, url := range s.asked {
		if !strings.HasPrefix(url, s.url) {
			t.Errorf("a request left the origin: %s", url)
		}
	}
	if len(s.asked) < 5 {
		t.Errorf("the browser has asked for %q alone: the test does not test", s.asked)
	}
}

// updates sees numbers change by themselves.
func (s *site) updates(t *testing.T) {
	t.Helper()
	before := value[float64](t, s, `document.getElementById("table-meter").value`)
	s.dial(t, 7)
	s.until(t, fmt.Sprintf(`document.getElementById("table-meter").value >= %v`, before+7))
	s.until(t, `document.getElementById("top").textContent.includes("tcp/5201")`)
}

// cutElsewhere cuts with the program; the page tells of it.
func (s *site) cutElsewhere(t *testing.T) {
	t.Helper()
	out, err := exec.Command(*program, "cut", "--netns", s.net.Gateway.Name, "-g", "--settle", "0s").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s.until(t, `document.querySelector("#receipts h3.proven")?.textContent.startsWith("proven: 19 flows ended for good")`)
	for _, want := range []string{"--dst-nat", "38 confirmed dead", `by user="root"`} {
		if !strings.Contains(value[string](t, s, text("receipts")), want) {
			t.Errorf("the receipt lacks %s", want)
		}
	}
}

// looks takes the pictures, and compares what schemes and screens must change.
func (s *site) looks(t *testing.T) {
	t.Helper()
	const ground = `getComputedStyle(document.body).backgroundColor`
	const wide = `document.documentElement.scrollWidth > window.innerWidth`
	s.look(t, 960, 940, "light", false)
	light := value[string](t, s, ground)
	s.picture(t, "page-light.png")
	s.look(t, 960, 940, "dark", false)
	if dark := value[string](t, s, ground); dark == light {
		t.Errorf("the ground is %s in light and dark", dark)
	}
	s.picture(t, "page-dark.png")
	for _, width := range []int64{320, 390} {
		s.look(t, width, 844, "light", true)
		if value[bool](t, s, wide) {
			t.Errorf("at a width of %d one has to scroll sideways", width)
		}
	}
	s.picture(t, "page-phone.png")
}

// enter fills in the form and asks for the dry run.
func (s *site) enter(t *testing.T, selection, token string) {
	t.Helper()
	s.do(t, chromedp.SetValue(chromedp.ID("selection"), selection), chromedp.SetValue(chromedp.ID("token"), token), chromedp.Click(chromedp.ID("dry-run")))
}

// cutHere cuts from the page: not with a wrong token, not before the dry run.
func (s *site) cutHere(t *testing.T) {
	t.Helper()
	s.look(t, 960, 940, "light", false)
	ends := s.dial(t, 3)
	s.enter(t, "-p tcp --dport 5201", "not-the-token")
	s.until(t, text("cut-says")+`.includes("token is missing or wrong")`)
	s.enter(t, "<img src=x onerror=window.pwned=1>", s.token)
	s.until(t, text("cut-says")+`.includes("<img")`)
	s.enter(t, "-p tcp --dport 5201", s.token)
	s.until(t, `!document.getElementById("plan").hidden`)
	if got := value[string](t, s, text("plan-flows")); strings.Count(got, ":5201") < 3 || !strings.Contains(got, "192.168.1.100") {
		t.Errorf("the dry run shows\n%s", got)
	}
	if n := ends.Told(unix.ECONNRESET); n != 0 {
		t.Errorf("the dry run has ended %d flows", n)
	}
	if got := value[string](t, s, text("cut-now")); got != "Cut 3 flows" {
		t.Errorf("the button says %q", got)
	}
	s.do(t, chromedp.Click(chromedp.ID("cut-now")))
	s.until(t, text("cut-says")+`.startsWith("proven: 3 flows ended for good")`)
	s.until(t, `document.querySelector("#receipts article").textContent.includes("by the page, from 127.0.0.1")`)
	if err := ends.WaitTold(labtest.Context(t)); err != nil || ends.Told(unix.ECONNRESET) != 3 {
		t.Errorf("%d of 3 ends were reset, %v", ends.Told(unix.ECONNRESET), err)
	}
	s.complaints() // the browser notes answers that are errors
	if got := value[int](t, s, `document.cookie.length + localStorage.length + sessionStorage.length`); got != 0 {
		t.Error("the page stores something")
	}
}

// inert sees what others wrote stay text.
func (s *site) inert(t *testing.T) {
	t.Helper()
	const bad = `<script>window.pwned=1</script><img src=x onerror="window.pwned=1">`
	r := &cut.Receipt{Version: 1, Selector: "--helper " + bad, Reason: bad}
	receipts.Send(s.net.Gateway.NS.Fd(), bad, r, time.Now().Add(time.Second))
	s.until(t, `document.querySelector("#receipts article").textContent.includes("<script>window.pwned=1")`)
	s.look(t, 960, 940, "light", false) // and what the server itself puts into the page
	s.until(t, `document.querySelector("#receipts article").textContent.includes("<script>window.pwned=1")`)
	if value[bool](t, s, `window.pwned !== undefined || document.scripts.length !== 1 || document.images.length !== 0`) {
		t.Error("what others wrote became a part of the page")
	}
	// The policy holds: markup and inline scripts cannot even be made, and nothing is sent elsewhere.
	const tries = `(async () => {
		let refused = 0;
		const e = document.createElement("button");
		try { e.setAttribute("onclick", "window.pwned=1"); } catch { refused++; }
		try { e.innerHTML = "<b>x</b>"; } catch { refused++; }
		try { await fetch("http://192.0.2.1/"); } catch { refused++; }
		window.refused = refused;
	})()`
	value[bool](t, s, tries+`, true`)
	s.until(t, `window.refused !== undefined`)
	if got := value[int](t, s, `window.refused`); got != 3 || value[bool](t, s, `window.pwned !== undefined`) {
		t.Errorf("%d of 3 attempts were refused", got)
	}
	if r, err := http.Get(s.url); err != nil || !strings.Contains(r.Header.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("the policy: %v, %v", r, err)
	}
}
