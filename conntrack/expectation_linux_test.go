package conntrack

import (
	"context"
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

// TestCreateExpectation: what was asked for is there, with what the kernel adds.
func TestCreateExpectation(t *testing.T) {
	c := dialTest(t)
	ftpMaster(t, c, ftpControl4, 0)
	ftpMaster(t, c, ftpControl6, 0)
	four, six := anyPort(ftpControl4, ftpData4), anyPort(ftpControl6, ftpData6)
	four.Timeout = 7 * time.Second // the helper knows better
	six.Flags, six.Func, six.NATReply = ExpectPermanent|ExpectUserspace, "nat-follow-master", true
	six.NAT.SrcPort = 99
	mustExpect(t, c, four, six)

	wantFour, wantSix := *four, *six
	wantFour.Helper, wantSix.Helper = "ftp", "ftp"
	wantFour.Timeout, wantSix.Timeout = 300*time.Second, 300*time.Second
	wantSix.Flags = ExpectPermanent
	wantSix.NAT = tuple(ProtoTCP, "[::]:99", "[::]:0")
	for f, want := range map[Family][]Expectation{
		FamilyBoth: {wantFour, wantSix}, FamilyIPv4: {wantFour}, FamilyIPv6: {wantSix},
	} {
		got := expectations(t, c, f)
		for i := range got {
			settleExpectation(t, &got[i])
		}
		if diff := cmp.Diff(want, got, cmpAddr); diff != "" {
			t.Errorf("%v (-want +got):\n%s", f, diff)
		}
	}
}

// settleExpectation clears what differs from run to run, after checking it.
func settleExpectation(t testing.TB, e *Expectation) {
	t.Helper()
	if e.ID == 0 || e.Timeout > 300*time.Second || e.Timeout < 290*time.Second {
		t.Fatalf("ID %d, timeout %v", e.ID, e.Timeout)
	}
	e.ID, e.Timeout = 0, 300*time.Second
}

// TestCreateExpectationWithoutMask: then every bit counts, of any protocol.
func TestCreateExpectationWithoutMask(t *testing.T) {
	for _, data := range []Tuple{
		tuple(ProtoTCP, "10.0.0.2:20", "10.0.0.1:4000"),
		tuple(ProtoUDP, "[2001:db8::2]:20", "[2001:db8::1]:4000"),
		tuple(ProtoGRE, "10.0.0.2:20", "10.0.0.1:30"),
		icmp(ProtoICMP, "10.0.0.2", "10.0.0.1", 8, 99),
		icmp(ProtoICMPv6, "2001:db8::2", "2001:db8::1", 128, 99),
		portless(50, "10.0.0.2", "10.0.0.1"),
	} {
		c := dialTest(t)
		ftpMaster(t, c, ftpControl4, 0)
		ftpMaster(t, c, ftpControl6, 0)
		master := ftpControl4
		if data.Family() == FamilyIPv6 {
			master = ftpControl6
		}
		mustExpect(t, c, &Expectation{Master: master, Tuple: data})
		got := expectations(t, c, FamilyBoth)
		if len(got) != 1 || got[0].Tuple != data || got[0].Mask != fullMask(data) {
			t.Fatalf("%v: %+v", data, got)
		}
		keys := []ExpectationKey{got[0].Key()}
		if n, err := c.DeleteExpectations(t.Context(), keys, nil); n != 1 || err != nil {
			t.Errorf("%v: deleted %d, %v", data, n, err)
		}
		mustExpect(t, c, &got[0]) // what was dumped can be made again
	}
}

// TestCreateExpectationErrors: refusals are told apart, and nothing is made.
func TestCreateExpectationErrors(t *testing.T) {
	c := dialTest(t)
	ftpMaster(t, c, ftpControl4, 0)
	ftpMaster(t, c, ftpControl6, 0)
	plain := tuple(ProtoTCP, "10.0.0.1:1001", "10.0.0.2:21")
	mustCreate(t, c, &Flow{Orig: plain, Timeout: 100 * time.Second})
	base := anyPort(ftpControl4, ftpData4)
	mustExpect(t, c, base)
	for name, tt := range map[string]struct {
		edit func(*Expectation)
		want error
	}{
		"again":       {func(*Expectation) {}, os.ErrExist},
		"overlap":     {func(e *Expectation) { e.Mask.Src, e.Tuple.Src = netip.IPv4Unspecified(), netip.IPv4Unspecified() }, syscall.EBUSY},
		"no master":   {func(e *Expectation) { e.Master.SrcPort, e.Tuple.DstPort = 9, 9 }, os.ErrNotExist},
		"zone":        {func(e *Expectation) { e.Zone = 5 }, os.ErrNotExist},
		"no room":     {func(e *Expectation) { e.Master, e.Tuple.DstPort = plain, 9 }, syscall.EOPNOTSUPP},
		"func":        {func(e *Expectation) { e.Func, e.Tuple.DstPort = "nothing", 9 }, syscall.EINVAL},
		"class":       {func(e *Expectation) { e.Helper, e.Class, e.Tuple.DstPort = "ftp", 3, 9 }, syscall.EINVAL},
		"long helper": {func(e *Expectation) { e.Helper, e.Tuple.DstPort = "seventeen letters", 9 }, syscall.EINVAL},
	} {
		e := *base
		tt.edit(&e)
		err := c.CreateExpectation(t.Context(), &e)
		if !errors.Is(err, tt.want) || !isAnswer(err) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	for name, edit := range map[string]func(*Expectation){
		"no tuple":          func(e *Expectation) { e.Tuple = Tuple{} },
		"no master":         func(e *Expectation) { e.Master = Tuple{} },
		"master's family":   func(e *Expectation) { e.Master = ftpControl6 },
		"mask's family":     func(e *Expectation) { e.Mask = fullMask(ftpData6) },
		"mask's protocol":   func(e *Expectation) { e.Mask.Proto = ProtoUDP },
		"translation":       func(e *Expectation) { e.NAT = ftpData6 },
		"mixed translation": func(e *Expectation) { e.NAT.Dst = ftpData6.Dst },
		"timeout":           func(e *Expectation) { e.Timeout = -time.Second },
		"endless name":      func(e *Expectation) { e.Helper = string(make([]byte, 1<<16)) },
		"endless func":      func(e *Expectation) { e.Func = string(make([]byte, maxText+1)) },
		"interface":         func(e *Expectation) { e.Tuple.Src = e.Tuple.Src.WithZone("lo"); e.Tuple.Dst = netip.Addr{} },
	} {
		e := *base
		e.Tuple.DstPort++
		edit(&e)
		if err := c.CreateExpectation(t.Context(), &e); err == nil || isAnswer(err) {
			t.Errorf("%s: %v, want an error of our own", name, err)
		}
	}
	if left := expectations(t, c, FamilyBoth); len(left) != 1 || left[0].Tuple != base.Tuple {
		t.Errorf("left %v, want the first alone", left)
	}
}

// TestGetExpectation: the kernel looks as far as the mask says.
func TestGetExpectation(t *testing.T) {
	c := dialTest(t)
	ftpMaster(t, c, ftpControl4, 5)
	e := anyPort(ftpControl4, ftpData4)
	e.Zone = 5
	mustExpect(t, c, e)
	other := ftpData4
	other.SrcPort = 12345
	for _, tup := range []Tuple{ftpData4, other} {
		got, err := c.GetExpectation(t.Context(), tup, 5)
		if err != nil || got.Tuple != ftpData4 || got.Zone != 5 || got.Master != ftpControl4 {
			t.Errorf("%v: %+v, %v", tup, got, err)
		}
	}
	_, err := c.GetExpectation(t.Context(), ftpData4, 0)
	const want = "conntrack: get expectation tcp 10.0.0.2:0 -> 10.0.0.1:4000: no such file or directory"
	if !errors.Is(err, os.ErrNotExist) || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	other = ftpData4
	other.Src = other.Src.Next()
	for _, tup := range []Tuple{other, ftpControl4, ftpData6} {
		if got, err := c.GetExpectation(t.Context(), tup, 5); !errors.Is(err, os.ErrNotExist) || got != (Expectation{}) {
			t.Errorf("%v: %+v, %v", tup, got, err)
		}
	}
	if _, err := c.GetExpectation(t.Context(), Tuple{}, 5); err == nil || isAnswer(err) {
		t.Errorf("get of the empty tuple: %v", err)
	}
}

// TestDumpExpectationsOf: a master's own are found, with their zone.
func TestDumpExpectationsOf(t *testing.T) {
	c := dialTest(t)
	plain := tuple(ProtoTCP, "10.0.0.1:1001", "10.0.0.2:21")
	mustCreate(t, c, &Flow{Orig: plain, Timeout: 100 * time.Second})
	e := anyPort(ftpControl4, ftpData4)
	for _, z := range []Zone{0, 5} {
		ftpMaster(t, c, ftpControl4, z)
		e.Zone, e.Tuple.DstPort = z, 4000+uint16(z)
		mustExpect(t, c, e)
	}
	for _, tt := range []struct {
		master Tuple
		zone   Zone
		want   []uint16
		err    error
	}{
		{ftpControl4, 0, []uint16{4000}, nil},
		{ftpControl4, 5, []uint16{4005}, nil},
		{plain, 0, nil, nil},
		{plain, 5, nil, os.ErrNotExist},
		{ftpControl6, 0, nil, os.ErrNotExist},
	} {
		var got []uint16
		var err error
		for e, eerr := range c.DumpExpectationsOf(t.Context(), tt.master, tt.zone) {
			if err = eerr; err == nil {
				got = append(got, e.Tuple.DstPort)
				if e.Zone != tt.zone {
					t.Errorf("%v in zone %d: zone %d", tt.master, tt.zone, e.Zone)
				}
			}
		}
		if !slices.Equal(got, tt.want) || !errors.Is(err, tt.err) {
			t.Errorf("%v in zone %d: ports %v, %v; want %v, %v", tt.master, tt.zone, got, err, tt.want, tt.err)
		}
	}
	for _, err := range c.DumpExpectationsOf(t.Context(), Tuple{}, 0) {
		if err == nil || isAnswer(err) {
			t.Errorf("of the empty tuple: %v", err)
		}
	}
}

// fillExpectations makes n flows of both families that expect one each, a
// permanent one in zone 5 last, and returns their keys.
func fillExpectations(t testing.TB, c *Client, n int) []ExpectationKey {
	t.Helper()
	var keys []ExpectationKey
	for i := range n {
		var z Zone
		if i == n-1 {
			z = 5
		}
		master, data := ftpControl4, ftpData4
		if i%2 == 1 {
			master, data = ftpControl6, ftpData6
		}
		master.SrcPort += uint16(i)
		data.DstPort += uint16(i)
		ftpMaster(t, c, master, z)
		e := anyPort(master, data)
		e.Zone = z
		mustExpect(t, c, e)
		got, err := c.GetExpectation(t.Context(), data, z)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, got.Key())
	}
	return keys
}

// wantExpectations holds the table to n expectations, and to all its flows.
func wantExpectations(t testing.TB, c *Client, n, flows int) {
	t.Helper()
	if left := expectations(t, c, FamilyBoth); len(left) != n {
		t.Errorf("%d expectations left, want %d", len(left), n)
	}
	if left := keysOf(t, c); len(left) != flows {
		t.Errorf("%d flows left, want %d", len(left), flows)
	}
}

func TestDeleteExpectations(t *testing.T) {
	c := dialTest(t)
	keys := fillExpectations(t, c, 9)
	for i, k := range keys {
		for name, wrong := range map[string]ExpectationKey{
			"id":   {k.Tuple, k.Zone, k.ID + 1},
			"zone": {k.Tuple, k.Zone + 1, k.ID},
			"port": {keys[(i+2)%9].Tuple, k.Zone, k.ID},
		} {
			gone := 0
			n, err := c.DeleteExpectations(t.Context(), []ExpectationKey{wrong}, func(int) { gone++ })
			if n != 0 || gone != 1 || err != nil {
				t.Errorf("wrong %s of %v: deleted %d, gone %d, %v", name, k, n, gone, err)
			}
		}
	}
	wantExpectations(t, c, 9, 9)
	if n, err := c.DeleteExpectations(t.Context(), keys[:4], nil); n != 4 || err != nil {
		t.Errorf("deleted %d, %v, want 4", n, err)
	}
	wantExpectations(t, c, 5, 9)
	keys[4].ID = 0 // whichever
	var gone []int
	n, err := c.DeleteExpectations(t.Context(), keys[3:6], func(i int) { gone = append(gone, i) })
	if n != 2 || err != nil || !slices.Equal(gone, []int{0}) {
		t.Errorf("deleted %d, gone %v, %v, want 2 and the first gone", n, gone, err)
	}
	wantExpectations(t, c, 3, 9)
	if n, err := c.DeleteExpectations(t.Context(), keys[:6], nil); n != 0 || err != nil {
		t.Errorf("deleted %d again, %v", n, err)
	}
	wantExpectations(t, c, 3, 9)
}

// TestDeleteExpectationsRefusesBadKeys: a key that would flush is no key.
func TestDeleteExpectationsRefusesBadKeys(t *testing.T) {
	c := dialTest(t)
	keys := fillExpectations(t, c, 5)
	for _, bad := range badKeys(Key{Orig: keys[0].Tuple, ID: keys[0].ID}) {
		list := append(slices.Clone(keys), ExpectationKey{bad.Orig, bad.Zone, bad.ID})
		if n, err := c.DeleteExpectations(t.Context(), list, nil); n != 0 || err == nil {
			t.Errorf("%v: deleted %d, %v", bad, n, err)
		}
	}
	wantExpectations(t, c, 5, 5)
}

func TestFlushExpectations(t *testing.T) {
	c := dialTest(t)
	fillExpectations(t, c, 5)
	if err := c.FlushExpectations(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantExpectations(t, c, 0, 5)
}

// TestKernelTakesDeleteForFlush: why a delete must hold a whole tuple. With an
// ID and a zone alone the kernel deletes all, with a helper's name all of that.
func TestKernelTakesDeleteForFlush(t *testing.T) {
	c := dialTest(t)
	for name, attrs := range map[string][]byte{
		"ID and zone": appendUint16(appendUint32(nil, attrExpectID, 1), attrExpectZone, 7),
		"master":      appendTuple(nil, attrExpectMaster, &ftpControl4, 0, false),
		"helper":      appendString(nil, attrExpectHelpName, "ftp"),
	} {
		fillExpectations(t, c, 5)
		err := c.with("delete", func(s *conn) error {
			s.request(msgExpDelete, flagAck, FamilyIPv4, versionPlain)
			s.out = append(s.out, attrs...)
			s.seal()
			return s.roundTrip(t.Context(), "delete", name, noMessage)
		})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		wantExpectations(t, c, 0, 5)
		mustDelete(t, c, keysOf(t, c)...)
	}
}

// TestDumpExpectationsStops: a dump may be left early, and says when its
// context has ended.
func TestDumpExpectationsStops(t *testing.T) {
	c := dialTest(t)
	fillExpectations(t, c, 300) // more than one datagram
	wantExpectations(t, c, 300, 300)
	for range c.DumpExpectations(t.Context(), FamilyBoth) {
		break
	}
	wantExpectations(t, c, 300, 300)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	n := 0
	for e, err := range c.DumpExpectations(ctx, FamilyBoth) {
		if n++; e != nil || !errors.Is(err, context.Canceled) {
			t.Errorf("%v, %v", e, err)
		}
	}
	if n != 1 {
		t.Errorf("%d steps, want one", n)
	}
}

// TestExpectationsGoWithMaster: the end of a flow ends what it expected.
func TestExpectationsGoWithMaster(t *testing.T) {
	c := dialTest(t)
	fillExpectations(t, c, 4)
	mustDelete(t, c, keysOf(t, c)[:3]...)
	wantExpectations(t, c, 1, 1)
}
