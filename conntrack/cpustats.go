package conntrack

import (
	"context"
	"encoding/binary"
)

// CPUStats are the counters of one CPU, since the network namespace began.
// All wrap around at 2^32. One that the running kernel does not have is zero.
//
// Wire: big-endian uint32 each; the CPU is in nfgenmsg.res_id.
// Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h, enum ctattr_stats_cpu.
type CPUStats struct {
	CPU uint16

	Found         uint32 // lookups that found an entry where none was expected, as of tuples taken by NAT
	Invalid       uint32 // packets that no entry could be made of or that did not fit theirs
	Insert        uint32 // entries made by a program; the kernel's own are not counted
	InsertFailed  uint32 // entries not made, as another with the tuple was there first
	Drop          uint32 // packets dropped as no entry could be made or confirmed
	EarlyDrop     uint32 // entries dropped before their time, to make room in a full table
	Error         uint32 // packets refused before an entry was looked for, such as bad ICMP errors
	SearchRestart uint32 // lookups begun again, as the table changed meanwhile
	ClashResolve  uint32 // packets that lost a race for their entry and were let pass; since Linux 5.10
	ChainTooLong  uint32 // entries not made, as their hash bucket was full; since Linux 5.15

	Searched   uint32 // steps of lookups; before Linux 4.9
	New        uint32 // entries begun; before Linux 4.9
	Delete     uint32 // entries ended; before Linux 4.9
	DeleteList uint32 // entries moved to the list of the dying; before Linux 4.9
	Ignore     uint32 // packets that had an entry already or need none; before Linux 5.10
}

// Members of the answer to IPCTNL_MSG_CT_GET_STATS_CPU, enum ctattr_stats_cpu.
const (
	attrStatsSearched      attrType = 1  // CTA_STATS_SEARCHED
	attrStatsFound         attrType = 2  // CTA_STATS_FOUND
	attrStatsNew           attrType = 3  // CTA_STATS_NEW
	attrStatsInvalid       attrType = 4  // CTA_STATS_INVALID
	attrStatsIgnore        attrType = 5  // CTA_STATS_IGNORE
	attrStatsDelete        attrType = 6  // CTA_STATS_DELETE
	attrStatsDeleteList    attrType = 7  // CTA_STATS_DELETE_LIST
	attrStatsInsert        attrType = 8  // CTA_STATS_INSERT
	attrStatsInsertFailed  attrType = 9  // CTA_STATS_INSERT_FAILED
	attrStatsDrop          attrType = 10 // CTA_STATS_DROP
	attrStatsEarlyDrop     attrType = 11 // CTA_STATS_EARLY_DROP
	attrStatsError         attrType = 12 // CTA_STATS_ERROR
	attrStatsSearchRestart attrType = 13 // CTA_STATS_SEARCH_RESTART
	attrStatsClashResolve  attrType = 14 // CTA_STATS_CLASH_RESOLVE
	attrStatsChainTooLong  attrType = 15 // CTA_STATS_CHAIN_TOOLONG
)

// ExpectCPUStats are the counters of expectations of one CPU, since the
// network namespace began. All wrap around at 2^32.
//
// Wire: big-endian uint32 each; the CPU is in nfgenmsg.res_id.
// Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h, enum ctattr_expect_stats.
type ExpectCPUStats struct {
	CPU    uint16
	New    uint32 // flows that had been expected
	Create uint32 // expectations made
	Delete uint32 // expectations ended
}

// Members of the answer to IPCTNL_MSG_EXP_GET_STATS_CPU, enum ctattr_expect_stats.
const (
	attrExpStatsNew    attrType = 1 // CTA_STATS_EXP_NEW
	attrExpStatsCreate attrType = 2 // CTA_STATS_EXP_CREATE
	attrExpStatsDelete attrType = 3 // CTA_STATS_EXP_DELETE
)

// CPUStats returns the counters of each possible CPU, by its number in rising
// order. Needs CAP_NET_ADMIN.
func (c *Client) CPUStats(ctx context.Context) ([]CPUStats, error) {
	return cpuStats(ctx, c, "CPU statistics", msgGetStatsCPU, (*CPUStats).parse)
}

// ExpectCPUStats returns the counters of expectations of each possible CPU, by
// its number in rising order. Needs CAP_NET_ADMIN.
func (c *Client) ExpectCPUStats(ctx context.Context) ([]ExpectCPUStats, error) {
	return cpuStats(ctx, c, "CPU statistics of expectations", msgExpGetStatsCPU, (*ExpectCPUStats).parse)
}

// cpuStats asks for typ and returns what parse makes of the answers, one for
// each CPU, which come with struct nfgenmsg.
func cpuStats[T any](ctx context.Context, c *Client, op string, typ msgType, parse func(*T, []byte) error) (all []T, err error) {
	err = c.with(op, func(s *conn) error {
		s.request(typ, flagDump, FamilyBoth, versionPlain)
		s.seal()
		return s.roundTrip(ctx, op, "", func(_ header, b []byte) (bool, error) {
			var v T
			err := parse(&v, b)
			all = append(all, v)
			return false, err
		})
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// parse reads the answer to IPCTNL_MSG_CT_GET_STATS_CPU.
func (s *CPUStats) parse(b []byte) (err error) {
	s.CPU, err = parseCPU(b, s.counter)
	return err
}

// counter returns where attribute t belongs, nil if it is not known.
func (s *CPUStats) counter(t attrType) (n *uint32, name string) {
	switch t {
	case attrStatsSearched:
		return &s.Searched, "CTA_STATS_SEARCHED"
	case attrStatsFound:
		return &s.Found, "CTA_STATS_FOUND"
	case attrStatsNew:
		return &s.New, "CTA_STATS_NEW"
	case attrStatsInvalid:
		return &s.Invalid, "CTA_STATS_INVALID"
	case attrStatsIgnore:
		return &s.Ignore, "CTA_STATS_IGNORE"
	case attrStatsDelete:
		return &s.Delete, "CTA_STATS_DELETE"
	case attrStatsDeleteList:
		return &s.DeleteList, "CTA_STATS_DELETE_LIST"
	case attrStatsInsert:
		return &s.Insert, "CTA_STATS_INSERT"
	case attrStatsInsertFailed:
		return &s.InsertFailed, "CTA_STATS_INSERT_FAILED"
	case attrStatsDrop:
		return &s.Drop, "CTA_STATS_DROP"
	case attrStatsEarlyDrop:
		return &s.EarlyDrop, "CTA_STATS_EARLY_DROP"
	case attrStatsError:
		return &s.Error, "CTA_STATS_ERROR"
	case attrStatsSearchRestart:
		return &s.SearchRestart, "CTA_STATS_SEARCH_RESTART"
	case attrStatsClashResolve:
		return &s.ClashResolve, "CTA_STATS_CLASH_RESOLVE"
	case attrStatsChainTooLong:
		return &s.ChainTooLong, "CTA_STATS_CHAIN_TOOLONG"
	}
	return nil, ""
}

// parse reads the answer to IPCTNL_MSG_EXP_GET_STATS_CPU.
func (s *ExpectCPUStats) parse(b []byte) (err error) {
	s.CPU, err = parseCPU(b, s.counter)
	return err
}

// counter returns where attribute t belongs, nil if it is not known.
func (s *ExpectCPUStats) counter(t attrType) (n *uint32, name string) {
	switch t {
	case attrExpStatsNew:
		return &s.New, "CTA_STATS_EXP_NEW"
	case attrExpStatsCreate:
		return &s.Create, "CTA_STATS_EXP_CREATE"
	case attrExpStatsDelete:
		return &s.Delete, "CTA_STATS_EXP_DELETE"
	}
	return nil, ""
}

// parseCPU reads the counters of one message, struct nfgenmsg included, and
// returns the number of its CPU.
func parseCPU(b []byte, counter func(attrType) (*uint32, string)) (cpu uint16, err error) {
	attrs, err := attributes(b)
	if err != nil {
		return 0, err
	}
	for len(attrs) > 0 {
		t, v, rest, err := nextAttr(attrs, "statistics message")
		if err != nil {
			return 0, err
		}
		attrs = rest
		n, name := counter(t)
		if n == nil {
			continue
		}
		if *n, err = parseUint32(v, name); err != nil {
			return 0, err
		}
	}
	return binary.BigEndian.Uint16(b[2:]), nil
}
