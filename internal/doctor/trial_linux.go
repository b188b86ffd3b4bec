package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/conntrack"
	"flowcut/internal/fence"
	"flowcut/internal/netns"
	"flowcut/internal/nft"
	"flowcut/internal/rtnl"
	"flowcut/internal/ruleset"
	"flowcut/selector"
)

// A fence of these takes all kinds of conditions that rules can have.
var trialSelections = []string{
	"-s 192.0.2.0/24,198.51.100.1-198.51.100.9 -p tcp --dport 80,8000-8080",
	"-s 2001:db8::/32 ! -d 2001:db8::1 -p udp",
	"--dst-nat 192.0.2.1:80", "--src-nat", "-w 7 --host 192.0.2.9,2001:db8::9",
}

func lookAtNFTables(v *visit) (finding, error) {
	// What is there tells whether there is nf_tables at all, also without a
	// scratch namespace.
	if _, err := v.rules.Tables(); err != nil {
		return judgeNFTables(err, nil)
	}
	fd, err := v.lab.fd()
	if err != nil {
		return v.untried(err)
	}
	err = tryFence(v.ctx, fd)
	if err == nil {
		return judgeNFTables(nil, nil)
	}
	f, err := judgeNFTables(err, missing(fd, features()))
	if tryXTables(v.ctx, fd) == nil {
		return judgeXTables(f), nil
	}
	return f, err
}

// judgeXTables says what comes of it that the fence can be made of iptables alone.
func judgeXTables(f finding) finding {
	f.state = Warning
	f.means = "cuts make their fence of iptables, which cannot promise all: see flowcut(8), IPTABLES"
	return f
}

// tryXTables does as tryFence, with a fence of iptables.
func tryXTables(ctx context.Context, fd int) error {
	cfg, err := trialConfig(fd)
	if err != nil {
		return err
	}
	f, err := fence.NewXTables(cfg)
	if err != nil {
		return err
	}
	return errors.Join(raise(ctx, f), f.Close())
}

// trialConfig is what a fence is tried with.
func trialConfig(fd int) (fence.Config, error) {
	cfg := fence.Config{NetNS: fd}
	for _, words := range trialSelections {
		s, err := new(selector.Flags).Parse(strings.Fields(words), nil)
		if err != nil {
			return cfg, err
		}
		cfg.Selectors = append(cfg.Selectors, s)
	}
	return cfg, nil
}

// judgeNFTables says what is wrong: err is the kernel's, lacks names features.
func judgeNFTables(err error, lacks []string) (finding, error) {
	switch {
	case err == nil:
		return fine("a fence rises, and falls with its owner")
	case errors.Is(err, unix.EPERM):
		return finding{}, err
	}
	f := finding{state: Fail, found: err.Error(), means: "without the fence nothing is stopped and nothing proven"}
	f.do = "modprobe nf_tables"
	if lacks != nil {
		f.found = "the fence does not rise, for want of " + strings.Join(lacks, ", ")
		f.do = "modprobe -a nf_tables nft_ct nft_reject nft_reject_ipv4 nft_reject_ipv6, or boot a kernel that has them"
	}
	return f, err
}

// tryFence raises a whole fence and guard in a scratch namespace and looks
// whether it goes with its owner.
func tryFence(ctx context.Context, fd int) error {
	cfg, err := trialConfig(fd)
	if err != nil {
		return err
	}
	f, err := fence.New(cfg)
	if err != nil {
		return err
	}
	if err := errors.Join(raise(ctx, f), f.Close()); err != nil {
		return err
	}
	return netns.DoFd(fd, func() error {
		left, err := ruleset.Tables()
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("table %s outlives its owner", left[0])
		}
		return err
	})
}

// barrier is a fence of either kind.
type barrier interface {
	Facts() fence.Facts
	Raise(context.Context, conntrack.Family) error
	GuardCoarse(context.Context) error
	Guard(context.Context, []conntrack.Tuple, ...fence.Entry) error
	Lower(context.Context) error
}

func raise(ctx context.Context, f barrier) error {
	for _, family := range []conntrack.Family{conntrack.FamilyIPv4, conntrack.FamilyIPv6} {
		if err := f.Raise(ctx, family); err != nil {
			return err
		}
	}
	if f.Facts().Coarse {
		if err := f.GuardCoarse(ctx); err != nil {
			return err
		}
	}
	tuples := []conntrack.Tuple{trialTuple4, trialTuple4.Invert(), trialTuple6, trialTuple6.Invert()}
	return errors.Join(f.Guard(ctx, tuples), f.Lower(ctx))
}

// feature is a part of what the fence needs, as a table that has it.
type feature struct {
	name  string
	table *nft.Table
}

// features are tried one by one to find out which of them a kernel lacks.
func features() []feature {
	chain := func(hook uint32, s ...nft.Statement) *nft.Chain {
		return &nft.Chain{Name: "c", Hook: &nft.Hook{Type: "filter", Num: hook, Priority: -199}, Rules: []nft.Rule{nft.NewRule("", s...)}}
	}
	tuple := nft.Key{nft.CTProto, nft.CTSrc(nft.IPv4, nft.Original), nft.CTProtoSrc(nft.Original)}
	dynamic := &nft.Set{Name: "s", Key: tuple.Types(), Dynamic: true, Size: 16, Timeout: time.Minute}
	ranges := &nft.Set{Name: "s", Key: []nft.Type{nft.TypeIPv4}, Interval: true}
	tcp := nft.Equal(nft.MetaL4Proto, []byte{unix.IPPROTO_TCP})
	one := func(c *nft.Chain, sets ...*nft.Set) *nft.Table {
		return &nft.Table{Family: nft.IPv4, Name: "flowcut-trial", Sets: sets, Chains: []*nft.Chain{c}}
	}
	return []feature{
		{"tables with an owner (Linux 5.12)", &nft.Table{Family: nft.IPv4, Name: "flowcut-trial", Owned: true}},
		{"ct (nft_ct)", one(chain(nft.Prerouting, nft.AnyBit(nft.CTStatus, 8), nft.Equal(nft.CTID, make([]byte, 4)), nft.Drop))},
		{"reject at prerouting (nft_reject, Linux 5.9)", one(chain(nft.Prerouting, tcp, nft.Reset))},
		{"dynamic sets with timeouts", one(chain(nft.Prerouting, nft.AddTo{Key: tuple, Set: "s", Timeout: time.Minute}), dynamic)},
		{"sets of ranges", one(chain(nft.Prerouting, nft.Lookup{Key: nft.Key{nft.Src(nft.IPv4)}, Set: "s"}, nft.Drop), ranges)},
		{"notrack", one(chain(nft.Output, nft.Notrack))},
	}
}

// missing returns the features that the kernel refuses.
func missing(fd int, all []feature) []string {
	out := []string{}
	for _, f := range all {
		c, err := nft.Dial(fd)
		if err != nil {
			return append(out, f.name)
		}
		made, gone := new(nft.Batch), new(nft.Batch)
		made.AddTable(f.table)
		gone.DeleteTable(f.table)
		if c.Commit(made) != nil || c.Commit(gone) != nil {
			out = append(out, f.name)
		}
		_ = c.Close()
	}
	return out
}

// The flows that trials are made on.
var (
	trialTuple4 = conntrack.Tuple{
		Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr("192.0.2.2"),
		Proto: conntrack.ProtoTCP, SrcPort: 1001, DstPort: 2001,
	}
	trialTuple6 = conntrack.Tuple{
		Src: netip.MustParseAddr("2001:db8::1"), Dst: netip.MustParseAddr("2001:db8::2"),
		Proto: conntrack.ProtoTCP, SrcPort: 1001, DstPort: 2001,
	}
)

func trialFlow(t conntrack.Tuple) *conntrack.Flow {
	return &conntrack.Flow{
		Has: conntrack.AttrReply | conntrack.AttrStatus, Orig: t, Reply: t.Invert(), Timeout: time.Minute,
		Status: conntrack.StatusConfirmed | conntrack.StatusSeenReply,
	}
}

// tryDeleteID deletes an entry by its tuple and a wrong ID.
func (v *visit) tryDeleteID(fd int) (honoured bool, err error) {
	err = v.withConntrack(fd, func(c *conntrack.Client) error {
		if err := c.Create(v.ctx, trialFlow(trialTuple4)); err != nil {
			return err
		}
		f, err := c.Get(v.ctx, trialTuple4, 0)
		if err != nil {
			return err
		}
		wrong := f.Key()
		wrong.ID++
		deleted, err := c.Delete(v.ctx, []conntrack.Key{wrong}, nil)
		if err != nil {
			return err
		}
		honoured = deleted == 0
		_, err = c.Delete(v.ctx, []conntrack.Key{f.Key()}, nil)
		return err
	})
	return honoured, err
}

// tryLabels tells whether the kernel knows labels.
func (v *visit) tryLabels(fd int) (has bool, err error) {
	f := trialFlow(trialTuple4)
	f.Has |= conntrack.AttrLabels
	f.Labels[0] = 1
	err = v.withConntrack(fd, func(c *conntrack.Client) error {
		err := c.Create(v.ctx, f)
		if err == nil {
			var made conntrack.Flow
			if made, err = c.Get(v.ctx, trialTuple4, 0); err == nil {
				_, err = c.Delete(v.ctx, []conntrack.Key{made.Key()}, nil)
			}
		}
		return err
	})
	return knowsLabels(err)
}

// knowsLabels reads the answer to the creation of a flow with a label. Where no
// rule uses them older kernels have no room for any (ENOSPC).
func knowsLabels(answer error) (bool, error) {
	switch {
	case answer == nil, errors.Is(answer, unix.ENOSPC):
		return true, nil
	case errors.Is(answer, unix.EOPNOTSUPP):
		return false, nil
	}
	return false, answer
}

// tryFilterIPv6 asks the kernel for the flow from one IPv6 address, where there
// is another.
func (v *visit) tryFilterIPv6(fd int) (got filterIPv6, err error) {
	other := trialTuple6
	other.Src = other.Src.Next().Next()
	err = v.withConntrack(fd, func(c *conntrack.Client) error {
		var keys []conntrack.Key
		for _, t := range []conntrack.Tuple{trialTuple6, other} {
			if err := c.Create(v.ctx, trialFlow(t)); err != nil {
				return err
			}
			f, err := c.Get(v.ctx, t, 0)
			if err != nil {
				return err
			}
			keys = append(keys, f.Key())
		}
		err := netns.DoFd(fd, func() (err error) {
			got.wanted, got.other, err = askIPv6(trialTuple6.Src, other.Src)
			return err
		})
		_, gone := c.Delete(context.WithoutCancel(v.ctx), keys, nil)
		return errors.Join(err, gone)
	})
	return got, err
}

// askIPv6 lists the flows from an address by the kernel's filter, and tells
// whether those from it and from another one come.
func askIPv6(want, other netip.Addr) (wanted, others bool, err error) {
	const (
		tupleOrig, tupleIP, ipv6Src = 1, 1, 3 // CTA_TUPLE_ORIG, CTA_TUPLE_IP, CTA_IP_V6_SRC
		ctaFilter, origFlags        = 25, 1   // CTA_FILTER, CTA_FILTER_ORIG_FLAGS
		replyFlags, bySource        = 2, 1    // CTA_FILTER_REPLY_FLAGS, CTA_FILTER_F_CTA_IP_SRC
		nested                      = unix.NLA_F_NESTED
		get                         = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1 // IPCTNL_MSG_CT_GET
	)
	nf, err := rtnl.Dial(unix.NETLINK_NETFILTER)
	if err != nil {
		return false, false, err
	}
	defer func() { _ = nf.Close() }()
	tuple := rtnl.Append(nil, tupleIP|nested, rtnl.Append(nil, ipv6Src, want.AsSlice()))
	flags := rtnl.AppendUint32(rtnl.AppendUint32(nil, origFlags, bySource), replyFlags, 0)
	body := []byte{unix.AF_INET6, 0, 0, 0} // struct nfgenmsg
	body = rtnl.Append(body, tupleOrig|nested, tuple)
	body = rtnl.Append(body, ctaFilter|nested, flags)
	list, err := nf.Dump(get, body)
	if err != nil && !rtnl.Missing(err) {
		return false, false, err
	}
	for _, m := range list {
		src, err := sourceOf(m)
		if err != nil {
			return false, false, err
		}
		wanted, others = wanted || src == want, others || src == other
	}
	return wanted, others, nil
}

// sourceOf reads the original source of a flow of IPv6.
func sourceOf(message []byte) (src netip.Addr, err error) {
	const tupleOrig, tupleIP, ipv6Src = 1, 1, 3
	const sizeofNfGenMsg = 4
	_, err = rtnl.Parse(message, sizeofNfGenMsg, func(ad *rtnl.Attr) {
		if ad.Type() != tupleOrig {
			return
		}
		rtnl.Inside(ad, func(ad *rtnl.Attr) {
			if ad.Type() != tupleIP {
				return
			}
			rtnl.Inside(ad, func(ad *rtnl.Attr) {
				if ad.Type() == ipv6Src {
					src, _ = netip.AddrFromSlice(ad.Bytes())
				}
			})
		})
	})
	return src, err
}
