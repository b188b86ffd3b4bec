package conntrack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Limits says how full the table is.
type Limits struct {
	Count   uint32 // entries of this network namespace
	Max     uint32 // most entries, net.netfilter.nf_conntrack_max
	Buckets uint32 // size of the hash table, which all namespaces share
}

// Members of the answer to IPCTNL_MSG_CT_GET_STATS, enum ctattr_stats_global.
const (
	attrStatsEntries    attrType = 1 // CTA_STATS_GLOBAL_ENTRIES
	attrStatsMaxEntries attrType = 2 // CTA_STATS_GLOBAL_MAX_ENTRIES
)

// bucketsFile holds the size of the hash table. The value is the same in every
// network namespace, so that the caller's can be asked.
const bucketsFile = "/proc/sys/net/netfilter/nf_conntrack_buckets"

// Count returns the number of entries of the namespace. Needs CAP_NET_ADMIN.
func (c *Client) Count(ctx context.Context) (uint32, error) {
	l, err := c.stats(ctx)
	return l.Count, err
}

// Limits returns the number of entries and how many there may be.
// Buckets is 0 where /proc/sys does not tell. Needs CAP_NET_ADMIN.
func (c *Client) Limits(ctx context.Context) (Limits, error) {
	l, err := c.stats(ctx)
	if err != nil {
		return Limits{}, err
	}
	l.Buckets, err = readBuckets()
	return l, err
}

// stats asks the kernel for all but the buckets.
func (c *Client) stats(ctx context.Context) (Limits, error) {
	var l Limits
	err := c.with("count", func(s *conn) error {
		s.request(msgGetStats, flagAck, FamilyBoth, versionPlain)
		s.seal()
		return s.roundTrip(ctx, "count", "", func(_ header, b []byte) (bool, error) {
			attrs, err := attributes(b)
			if err != nil {
				return false, err
			}
			return false, l.parse(attrs)
		})
	})
	return l, err
}

// parse reads the answer to IPCTNL_MSG_CT_GET_STATS.
func (l *Limits) parse(b []byte) error {
	for len(b) > 0 {
		t, v, rest, err := nextAttr(b, "statistics message")
		if err != nil {
			return err
		}
		b = rest
		switch t {
		case attrStatsEntries:
			l.Count, err = parseUint32(v, "CTA_STATS_GLOBAL_ENTRIES")
		case attrStatsMaxEntries:
			l.Max, err = parseUint32(v, "CTA_STATS_GLOBAL_MAX_ENTRIES")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readBuckets reads bucketsFile.
func readBuckets() (uint32, error) {
	b, err := os.ReadFile(bucketsFile)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("conntrack: %w", err)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 32)
	if err != nil {
		return 0, fmt.Errorf("conntrack: %s: %w", bucketsFile, err)
	}
	return uint32(n), nil
}
