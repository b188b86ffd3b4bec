package conntrack

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// ftpMaster makes a flow that the kernel's FTP helper may expect others for.
func ftpMaster(t testing.TB, c *Client, orig Tuple, z Zone) {
	t.Helper()
	mustCreate(t, c, &Flow{
		Has: AttrHelper | AttrZone, Orig: orig, Timeout: 100 * time.Second,
		Helper: "ftp", Zone: z,
	})
}

// The flows that tests make masters of, and what those expect.
var (
	ftpControl4 = tuple(ProtoTCP, "10.0.0.1:1000", "10.0.0.2:21")
	ftpControl6 = tuple(ProtoTCP, "[2001:db8::1]:1000", "[2001:db8::2]:21")
	ftpData4    = tuple(ProtoTCP, "10.0.0.2:0", "10.0.0.1:4000")
	ftpData6    = tuple(ProtoTCP, "[2001:db8::2]:0", "[2001:db8::1]:4000")
)

// anyPort is an expectation of data from any port.
func anyPort(master, data Tuple) *Expectation {
	e := &Expectation{Master: master, Tuple: data, Mask: fullMask(data)}
	e.Mask.SrcPort = 0
	return e
}

// mustExpect makes expectations.
func mustExpect(t testing.TB, c *Client, all ...*Expectation) {
	t.Helper()
	for _, e := range all {
		if err := c.CreateExpectation(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
}

// expectations dumps those of family f.
func expectations(t testing.TB, c *Client, f Family) []Expectation {
	t.Helper()
	var all []Expectation
	for e, err := range c.DumpExpectations(t.Context(), f) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, *e)
	}
	slices.SortFunc(all, func(a, b Expectation) int {
		return a.Tuple.Dst.Compare(b.Tuple.Dst)*2 + int(a.Tuple.DstPort) - int(b.Tuple.DstPort)
	})
	return all
}

func TestX(t *testing.T) {
	c := dialTest(t)
	ftpMaster(t, c, ftpControl4, 0)
	ftpMaster(t, c, ftpControl6, 0)
	ftpMaster(t, c, ftpControl4, 5)
	e := anyPort(ftpControl4, ftpData4)
	e.Helper, e.Timeout = "ftp", 100*time.Second
	t.Log(c.CreateExpectation(t.Context(), e))
	t.Log(c.CreateExpectation(t.Context(), e))
	e.Tuple.DstPort++
	t.Log(c.CreateExpectation(t.Context(), e))
	e = anyPort(ftpControl6, ftpData6)
	e.Func = "nat-follow-master"
	e.Flags = ExpectPermanent
	e.NAT.SrcPort = 99
	e.NATReply = true
	t.Log(c.CreateExpectation(t.Context(), e))
	e.Tuple.DstPort++
	e.Func = "x"
	t.Log(c.CreateExpectation(t.Context(), e))
	e.Func = ""
	e.Class = 3
	t.Log(c.CreateExpectation(t.Context(), e))
	e.Helper = "ftp"
	t.Log(c.CreateExpectation(t.Context(), e))
	e = anyPort(ftpControl4, ftpData4)
	e.Zone = 5
	t.Log(c.CreateExpectation(t.Context(), e))
	for _, e := range expectations(t, c, 0) {
		t.Logf("%+v", e)
		k := e.Key()
		k.ID++
		t.Log(c.DeleteExpectations(t.Context(), []ExpectationKey{k}, func(i int) { t.Log("gone") }))
		k.ID--
		t.Log(c.DeleteExpectations(t.Context(), []ExpectationKey{k}, func(i int) { t.Log("gone") }))
	}
	t.Log(c.GetExpectation(t.Context(), ftpData4, 5))
	t.Log(c.CPUStats(t.Context()))
	t.Log(c.ExpectCPUStats(t.Context()))
	_, _, _, _, _ = errors.New, os.ErrExist, syscall.EBUSY, cmp.Diff, netip.Addr{}
}
