package health

import "flowcut/conntrack"

// Counter is one of the counters of CPUs, in words.
type Counter struct {
	Name  string // as conntrack(8) has it
	Means string // what it counts
	Do    string // what to do when it grows

	// Bad counters count packets or entries that were lost.
	Bad bool

	Of func(*conntrack.CPUStats) uint32
}

// Counters are those that kernels of our time have, the bad ones first.
//
// What they count is from net/netfilter/nf_conntrack_core.c of Linux 5.15 to 6.18.
// A first packet that loses the race for its tuple and cannot be let pass counts as
// drop and as insert_failed; one that meets a full bucket as insert_failed and as
// chain_toolong; one for which there is no room as drop alone.
var Counters = []Counter{
	{
		Name: "drop", Bad: true, Of: func(s *conntrack.CPUStats) uint32 { return s.Drop },
		Means: "packets were dropped as no entry could be made",
		Do:    "where the table is full raise the limit, or bypass what fills it; else see insert_failed",
	},
	{
		Name: "early_drop", Bad: true, Of: func(s *conntrack.CPUStats) uint32 { return s.EarlyDrop },
		Means: "entries were dropped to make room in a full table",
		Do:    "raise the limit, or bypass what fills the table; flows that are ASSURED are spared",
	},
	{
		Name: "insert_failed", Bad: true, Of: func(s *conntrack.CPUStats) uint32 { return s.InsertFailed },
		Means: "entries were not made, as another with the tuple was there first",
		Do: "with NAT let the source port be drawn: masquerade fully-random, or --random-fully in iptables; " +
			"for resolvers that ask twice from one socket, without NAT: flowcut bypass add -p udp --dport 53",
	},
	{
		Name: "chain_toolong", Bad: true, Of: func(s *conntrack.CPUStats) uint32 { return s.ChainTooLong },
		Means: "entries were not made, as their bucket was full",
		Do:    "raise net.netfilter.nf_conntrack_buckets; if there are few entries to a bucket, somebody aims at one",
	},
	{
		Name: "clash_resolve", Of: func(s *conntrack.CPUStats) uint32 { return s.ClashResolve },
		Means: "packets lost the race for their entry, and were let pass",
		Do:    "nothing: no packet is lost",
	},
	{
		Name: "invalid", Of: func(s *conntrack.CPUStats) uint32 { return s.Invalid },
		Means: "packets fit no flow, as segments out of the window or after the end",
		Do:    "see which: sysctl -w net.netfilter.nf_conntrack_log_invalid=255",
	},
	{
		Name: "error", Of: func(s *conntrack.CPUStats) uint32 { return s.Error },
		Means: "packets were refused before their entry was looked for, such as ICMP errors about nothing known",
		Do:    "see which: sysctl -w net.netfilter.nf_conntrack_log_invalid=255",
	},
	{
		Name: "found", Of: func(s *conntrack.CPUStats) uint32 { return s.Found },
		Means: "ports that NAT tried were taken",
		Do:    "if new connections are slow: more addresses for SNAT, or fully-random",
	},
	{
		Name: "search_restart", Of: func(s *conntrack.CPUStats) uint32 { return s.SearchRestart },
		Means: "look-ups began again, as the table changed meanwhile",
		Do:    "if many: raise net.netfilter.nf_conntrack_buckets",
	},
}

// Lost returns how many packets and entries were lost, each once: failed insertions
// are in the drops or in the chains that were too long.
func Lost(s *conntrack.CPUStats) uint64 {
	return uint64(s.Drop) + uint64(s.EarlyDrop) + uint64(s.ChainTooLong)
}
