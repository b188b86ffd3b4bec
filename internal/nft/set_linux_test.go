package nft

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// others are sets as other programs keep them.
const others = `
table inet f2b-table {
	set addr-set-sshd { type ipv4_addr; flags interval; elements = { 192.0.2.1, 198.51.100.0/24, 203.0.113.5-203.0.113.9 } }
	set addr6-set-sshd { type ipv6_addr; flags interval; elements = { 2001:db8::/64, ffff::/16 } }
	set touching { type ipv4_addr; flags interval; elements = { 10.0.0.0/24, 10.0.1.0/24, 10.0.3.0 } }
	set ends { type ipv4_addr; flags interval; elements = { 0.0.0.0/8, 255.255.255.0/24 } }
	set catch { type ipv4_addr; flags interval; elements = { 10.0.0.1, * } }
	set empty { type ipv4_addr; flags interval; }
	set typed { typeof ip saddr; elements = { 10.0.0.7 } }
	map verdicts { type ipv4_addr : verdict; flags interval; elements = { 10.0.0.0/30 : drop, 10.0.0.9 : accept } }
	map marks { type ipv4_addr : mark; elements = { 10.0.0.4 : 7 } }
	set pairs { type ipv4_addr . inet_service; elements = { 10.0.0.1 . 22 } }
	set wide { type ipv4_addr . ipv4_addr . inet_proto; flags interval; }
	set macs { type ether_addr; }
	set fwmarks { type mark; }
	set names { type ifname; }
	chain c { ip saddr { 10.0.0.1, 10.0.0.2 } drop; }
}
table ip crowdsec {
	set crowdsec-blacklists { type ipv4_addr; flags timeout; elements = { 10.0.0.1 timeout 1h, 10.0.0.2 timeout 2h } }
	set soon { type ipv4_addr; flags interval,timeout; elements = { 10.0.0.0/24 timeout 1h, 10.0.1.0/24 timeout 1ms, 10.0.2.0-10.0.2.9 timeout 1h } }
}
table ip6 crowdsec6 {
	set s { type ipv6_addr; elements = { ::1 }; }
}
table bridge b {
	set s { type ipv4_addr; }
}
`

// TestRanges reads what nft(8) has made.
func TestRanges(t *testing.T) {
	inScratch(t, func() {
		nft(t, others, "-f", "-")
		c, err := Dial(0)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		for _, tt := range []struct{ set, want string }{
			{"inet/f2b-table/addr-set-sshd", "192.0.2.1-192.0.2.1 198.51.100.0-198.51.100.255 203.0.113.5-203.0.113.9"},
			{"inet/f2b-table/addr6-set-sshd", "2001:db8::-2001:db8::ffff:ffff:ffff:ffff ffff::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
			{"inet/f2b-table/touching", "10.0.0.0-10.0.0.255 10.0.1.0-10.0.1.255 10.0.3.0-10.0.3.0"},
			{"inet/f2b-table/ends", "0.0.0.0-0.255.255.255 255.255.255.0-255.255.255.255"},
			{"inet/f2b-table/catch", "0.0.0.0-255.255.255.255 10.0.0.1-10.0.0.1"},
			{"inet/f2b-table/empty", ""},
			{"inet/f2b-table/typed", "10.0.0.7-10.0.0.7"},
			{"inet/f2b-table/verdicts", "10.0.0.0-10.0.0.3 10.0.0.9-10.0.0.9"},
			{"inet/f2b-table/marks", "10.0.0.4-10.0.0.4"},
			{"ip/crowdsec/crowdsec-blacklists", "10.0.0.1-10.0.0.1 10.0.0.2-10.0.0.2"},
			{"ip/crowdsec/soon", "10.0.0.0-10.0.0.255 10.0.2.0-10.0.2.9"},
			{"ip6/crowdsec6/s", "::1-::1"},
		} {
			h := header(t, c, tt.set)
			if !h.Addrs() || h.String() != tt.set {
				t.Errorf("%s: header %+v of %s", tt.set, h, h.Type())
			}
			got := ranges(t, c, h)
			for began := time.Now(); got != tt.want && time.Since(began) < time.Second; { // what has a timeout of 1ms may live for some
				got = ranges(t, c, h)
			}
			if got != tt.want {
				t.Errorf("%s:\n got %s\nwant %s", tt.set, got, tt.want)
			}
		}
		for set, want := range map[string]string{
			"inet/f2b-table/pairs": "ipv4_addr . inet_service", "inet/f2b-table/wide": "ipv4_addr . ipv4_addr . inet_proto",
			"inet/f2b-table/macs": "ether_addr", "inet/f2b-table/fwmarks": "mark", "inet/f2b-table/names": "ifname",
		} {
			if h := header(t, c, set); h.Addrs() || h.Type() != want {
				t.Errorf("%s: type %q, want %q, addresses %v", set, h.Type(), want, h.Addrs())
			}
		}
		absent(t, c)
	})
}

// absent looks for what is not there, and for what there is instead.
func absent(t *testing.T, c *Conn) {
	for _, s := range [][2]string{{"f2b-table", "nosuch"}, {"nosuch", "addr-set-sshd"}} {
		if _, err := c.Set(Inet, s[0], s[1]); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%v: %v", s, err)
		}
	}
	for name, want := range map[string]bool{"f2b-table": true, "crowdsec": false} {
		if got, err := c.HasTable(Inet, name); got != want || err != nil {
			t.Errorf("table %s: %v, %v", name, got, err)
		}
	}
	sets, err := c.Sets()
	if err != nil {
		t.Error(err)
	}
	var got []string
	for _, s := range sets {
		got = append(got, s.String())
	}
	slices.Sort(got)
	if len(got) != 17 || got[0] != "inet/f2b-table/addr-set-sshd" || got[16] != "ip6/crowdsec6/s" {
		t.Errorf("sets: %q", got)
	}
}

func header(t *testing.T, c *Conn, name string) SetHeader {
	t.Helper()
	w := strings.SplitN(name, "/", 3)
	f, ok := ParseFamily(w[0])
	h, err := c.Set(f, w[1], w[2])
	if err != nil || !ok {
		t.Errorf("%s: %v", name, err)
	}
	return h
}

func ranges(t *testing.T, c *Conn, h SetHeader) string {
	t.Helper()
	list, err := c.Ranges(h)
	if err != nil {
		t.Error(err)
	}
	var out []string
	for _, r := range list {
		out = append(out, fmt.Sprintf("%s-%s", r.From, r.To))
	}
	return strings.Join(out, " ")
}

// TestRangesWhileChanged reads a set whose elements others replace all the time,
// in transactions: each reading is one of the states there were.
func TestRangesWhileChanged(t *testing.T) {
	const elems = 3000
	inScratch(t, func() {
		nft(t, "table ip t {\nset s { type ipv4_addr; flags interval; }\n}", "-f", "-")
		c, err := Dial(0)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		stop, stopped := make(chan struct{}), make(chan struct{})
		writer, err := Dial(0)
		if err != nil {
			t.Error(err)
			return
		}
		defer writer.Close()
		go func() {
			defer close(stopped)
			replaceElements(t, writer, elems, stop)
		}()
		h := header(t, c, "ip/t/s")
		counts := map[int]int{}
		for counts[elems] < 5 {
			list, err := c.Ranges(h)
			if errors.Is(err, errInterrupted) {
				continue // said, and not a reading
			}
			if err != nil {
				t.Error(err)
				break
			}
			counts[len(list)]++
			if len(list) != 0 && len(list) != elems || len(list) > 0 && list[0].From.As4()[1] != list[elems-1].From.As4()[1] {
				t.Errorf("%d elements, %v to %v", len(list), list[0], list[len(list)-1])
				break
			}
		}
		close(stop)
		<-stopped
		t.Logf("readings by the number of elements: %v", counts)
	})
}

// replaceElements empties and fills the set in one transaction, again and again.
func replaceElements(t *testing.T, c *Conn, n int, stop <-chan struct{}) {
	table := &Table{Family: IPv4, Name: "t"}
	for round := byte(0); ; round++ {
		select {
		case <-stop:
			return
		default:
		}
		b := new(Batch)
		b.put(unix.NFT_MSG_DELSETELEM, IPv4, remove, func(e *encoder) {
			e.str(unix.NFTA_SET_ELEM_LIST_TABLE, "t")
			e.str(unix.NFTA_SET_ELEM_LIST_SET, "s")
		})
		var elems []Element
		for i := range n {
			key := []byte{10, round, byte(i >> 7), byte(i << 1)}
			elems = append(elems, Element{Key: key}, Element{Key: append(slices.Clone(key[:3]), key[3]+1), End: true})
		}
		b.AddElements(table, "s", elems)
		if err := c.Commit(b); err != nil {
			t.Error(err)
			return
		}
	}
}

// TestBadRange: an element whose end is before its beginning, or no address of
// the family, is an error. A list of it would mean other addresses.
func TestBadRange(t *testing.T) {
	element := func(from, to []byte) []byte {
		e := &encoder{}
		e.nest(unix.NFTA_SET_ELEM_KEY, func() { e.bytes(unix.NFTA_DATA_VALUE, from) })
		e.nest(elemKeyEnd, func() { e.bytes(unix.NFTA_DATA_VALUE, to) })
		return e.b
	}
	h := SetHeader{Family: IPv4, KeyType: TypeIPv4.ID, KeyLen: 4, Interval: true}
	for _, tt := range []struct {
		to []byte
		ok bool
	}{{[]byte{10, 0, 0, 9}, true}, {[]byte{10, 0, 0, 1}, true}, {[]byte{10, 0, 0, 0}, false}, {make([]byte, 16), false}, {[]byte{10, 0}, false}} {
		r := ranger{set: h}
		if err := r.add(element([]byte{10, 0, 0, 1}, tt.to)); (err == nil) != tt.ok {
			t.Errorf("from 10.0.0.1 to %v: %v", tt.to, err)
		}
	}
}
