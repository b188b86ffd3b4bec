//go:build linux

package cut

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

const ftpPort = 21

// ftpNet is the standard network with an FTP server outside and one inside
// that is forwarded, and the kernel's helper on the gateway.
func ftpNet(t testing.TB) *lab.Topology {
	t.Helper()
	net := labtest.Standard(t, lab.Config{})
	must(t, net.Clients[0].ListenFTP(ftpPort))
	must(t, net.Servers[0].ListenFTP(ftpPort))
	must(t, net.Gateway.Forward(ftpPort, net.Servers[0]))
	for _, family := range []string{"ip", "ip6"} {
		rules(t, net.Gateway.Host, `table `+family+` helper {
			ct helper ftp { type "ftp" protocol tcp; l3proto `+family+`; }
			chain pre { type filter hook prerouting priority -150; tcp dport 21 ct helper set "ftp"; }
		}`)
	}
	return net
}

// ftpCase is a session whose data connection is under load: control and data.
type ftpCase struct {
	session *lab.FTP
	data    *lab.End
}

func (c ftpCase) ends() lab.Ends { return both(lab.Ends{c.session.Control, c.data}) }

// activeFTP is from inside to the server outside, behind masquerade: the helper
// rewrites PORT. passiveFTP is from outside to the forwarded server.
func activeFTP(t testing.TB, net *lab.Topology, v6 bool) ftpCase {
	t.Helper()
	f, err := net.Servers[0].FTP(labtest.Context(t), address(net.Clients[0], v6, ftpPort))
	must(t, err)
	data, err := f.Active(labtest.Context(t))
	must(t, err)
	return ftpCase{f, data}.loaded(t)
}

func passiveFTP(t testing.TB, net *lab.Topology, v6 bool) ftpCase {
	t.Helper()
	f, err := net.Clients[1].FTP(labtest.Context(t), at(net, ftpPort, v6))
	must(t, err)
	data, err := f.Passive(labtest.Context(t))
	must(t, err)
	return ftpCase{f, data}.loaded(t)
}

func (c ftpCase) loaded(t testing.TB) ftpCase {
	t.Helper()
	must(t, lab.Ends{c.data}.WaitReceived(labtest.Context(t), 1<<20))
	return c
}

// expected counts the gateway's pending expectations.
func expected(t testing.TB, net *lab.Topology) int {
	t.Helper()
	return strings.Count(proc(t, net.Gateway.Host, "nf_conntrack_expect"), "\n")
}

// A data connection goes with its control connection, and all four ends are
// told, also where the helper has changed the length of what the control
// connection says.
func TestCutFTP(t *testing.T) {
	net := ftpNet(t)
	for _, c := range []struct {
		name string
		open func(testing.TB, *lab.Topology, bool) ftpCase
		v6   bool
	}{
		{"active", activeFTP, false},
		{"passive", passiveFTP, false},
		{"active 6", activeFTP, true},
		{"passive 6", passiveFTP, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			ftp := c.open(t, net, c.v6)
			if c.name == "active" {
				f := find(t, net, ftp.session.Control)
				if f.Has&(conntrack.AttrOrigSeqAdj|conntrack.AttrReplySeqAdj) == 0 {
					t.Fatalf("no sequence adjustment on %v", f.Orig)
				}
			}
			r := runCut(t, net, quick(Options{Selector: parse(t, "-p", "tcp", "--dport", "21")}))
			exit := time.Now()
			wantProven(t, r)
			if r.Flows.Matched != 2 || r.Flows.Related != 1 {
				t.Errorf("matched %d, related %d, want 2 and 1 of them", r.Flows.Matched, r.Flows.Related)
			}
			wantReset(t, ftp.ends())
			wantSilence(t, ftp.ends(), exit, 200*time.Millisecond)
			if left := flows(t, net, parse(t, "-p", "tcp")); len(left) != 0 {
				t.Errorf("%d entries are left, the first is %v", len(left), left[0].Orig)
			}
		})
	}
}

// What was expected lives on when that is asked for.
func TestCutFTPNoRelated(t *testing.T) {
	net := ftpNet(t)
	ftp := activeFTP(t, net, false)
	r := runCut(t, net, quick(Options{Selector: parse(t, "-p", "tcp", "--dport", "21"), NoRelated: true}))
	wantProven(t, r)
	if r.Flows.Matched != 1 || r.Flows.Related != 0 {
		t.Errorf("matched %d, related %d, want the control connection alone", r.Flows.Matched, r.Flows.Related)
	}
	wantReset(t, both(lab.Ends{ftp.session.Control}))
	before := ftp.data.Received.Bytes()
	must(t, lab.Ends{ftp.data}.WaitReceived(labtest.Context(t), before+16<<20))
	if told := both(lab.Ends{ftp.data}).Told(nil); told != 2 {
		t.Errorf("%d of 2 ends of the data connection live", told)
	}
}

// The data connection alone can be cut, and its control connection lives.
func TestCutFTPDataAlone(t *testing.T) {
	net := ftpNet(t)
	ftp := passiveFTP(t, net, false)
	to := strconv.Itoa(int(ftp.data.Remote.Port()))
	r := runCut(t, net, quick(Options{Selector: parse(t, "-p", "tcp", "--orig-port-dst", to)}))
	wantProven(t, r)
	wantReset(t, both(lab.Ends{ftp.data}))
	if r.Flows.Matched != 1 || r.Flows.Related != 0 {
		t.Errorf("matched %d, related %d, want the data connection alone", r.Flows.Matched, r.Flows.Related)
	}
	if _, err := ftp.session.Passive(labtest.Context(t)); err != nil {
		t.Errorf("the control connection does not live: %v", err)
	}
}

// A connection that was expected and not made yet cannot be made afterwards,
// and one that is made during the cut does not outlive it.
func TestCutFTPExpectation(t *testing.T) {
	net := ftpNet(t)
	for _, step := range []string{"", stepTell} {
		t.Run(map[string]string{"": "afterwards", stepTell: "meanwhile"}[step], func(t *testing.T) {
			f, err := net.Clients[1].FTP(labtest.Context(t), at(net, ftpPort, false))
			must(t, err)
			to, err := f.Pasv(labtest.Context(t))
			must(t, err)
			if n := expected(t, net); n != 1 {
				t.Fatalf("%d expectations, want one", n)
			}
			var meanwhile *lab.End
			o := during(step, quick(Options{Selector: parse(t, "-p", "tcp", "--dport", "21")}), func() {
				meanwhile, _ = f.Connect(short(t), to)
			})
			r := runCut(t, net, o)
			wantProven(t, r)
			wantReset(t, both(lab.Ends{f.Control}))
			if n := expected(t, net); n != 0 {
				t.Errorf("%d expectations are left", n)
			}
			if meanwhile != nil {
				wantReset(t, lab.Ends{meanwhile})
			}
			if _, err = f.Connect(short(t), to); err == nil {
				t.Error("the expected connection was made after the cut")
			}
		})
	}
}

// short is done soon: for what must not happen.
func short(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(labtest.Context(t), 300*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}
