//go:build linux

package soak

import (
	"net/netip"
	"strings"
)

func (p picker) srcAddr() *Condition {
	return p.addr("orig-src", p.of.orig.Src, func(v *view) []netip.Addr { return []netip.Addr{v.orig.Src} })
}

func (p picker) dstAddr() *Condition {
	return p.addr("orig-dst", p.of.orig.Dst, func(v *view) []netip.Addr { return []netip.Addr{v.orig.Dst} })
}

func (p picker) replySrc() *Condition {
	return p.addr("reply-src", p.of.reply.Src, func(v *view) []netip.Addr { return []netip.Addr{v.reply.Src} })
}

func (p picker) replyDst() *Condition {
	return p.addr("reply-dst", p.of.reply.Dst, func(v *view) []netip.Addr { return []netip.Addr{v.reply.Dst} })
}

func (p picker) host() *Condition {
	all := func(v *view) []netip.Addr {
		return []netip.Addr{v.orig.Src, v.orig.Dst, v.reply.Src, v.reply.Dst}
	}
	return p.addr("host", all(&p.of)[p.IntN(4)], all)
}

// addr draws a list of addresses that a is in, or a negated one that none of
// the flow's is in.
func (p picker) addr(flag string, a netip.Addr, of func(*view) []netip.Addr) *Condition {
	not := p.IntN(4) == 0
	var list addrList
	if not {
		for _, other := range p.x.everybody() {
			if !has(of(&p.of), other) && p.IntN(4) == 0 {
				list = append(list, single(other))
			}
		}
		list = append(list, single(netip.MustParseAddr("192.0.2.77")))
	} else {
		list = append(list, p.around(a))
		for p.IntN(3) == 0 {
			list = append(list, p.around(p.x.everybody()[p.IntN(len(p.x.everybody()))]))
		}
	}
	return some(condition(not, flag, list.String(), func(v *view) bool {
		for _, x := range of(v) {
			if list.has(x) {
				return true
			}
		}
		return false
	}))
}

func has(list []netip.Addr, a netip.Addr) bool {
	for _, x := range list {
		if x == a {
			return true
		}
	}
	return false
}

// addrs is an address, a prefix or a range, as it is written.
type addrs struct {
	first, last netip.Addr
	text        string
}

func single(a netip.Addr) addrs { return addrs{a, a, a.String()} }

// around draws a way to write a.
func (p picker) around(a netip.Addr) addrs {
	switch p.IntN(4) {
	case 0:
		bits := a.BitLen() - 1 - p.IntN(8)
		x := netip.PrefixFrom(a, bits).Masked()
		last := x.Addr()
		for x.Contains(last.Next()) {
			last = last.Next()
		}
		return addrs{x.Addr(), last, x.String()}
	case 1:
		last := a
		for range p.IntN(4) {
			last = last.Next()
		}
		return addrs{a, last, a.String() + "-" + last.String()}
	}
	return single(a)
}

type addrList []addrs

func (l addrList) has(a netip.Addr) bool {
	for _, x := range l {
		if x.first.Is6() == a.Is6() && x.first.Compare(a) <= 0 && a.Compare(x.last) <= 0 {
			return true
		}
	}
	return false
}

func (l addrList) String() string {
	var texts []string
	for _, x := range l {
		texts = append(texts, x.text)
	}
	return strings.Join(texts, ",")
}
