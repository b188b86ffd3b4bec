package health

import (
	"fmt"
	"strings"

	"flowcut/conntrack"
)

// Cause is what fills a table, in words, and what to do.
type Cause struct {
	Found []string // what was added, a fact each
	Means string   // "" if nothing stands out
	Do    []string // commands, the one that helps most first
}

const (
	mostOf  = 50 // % of what was added: it stands out
	nearAll = 80 // % of what was added: it is of one sort
)

// timeouts are the settings that say how long flows of a kind stay, and what they may
// be set to. RFC 5382 asks for two hours and four minutes at least of
// established connections, RFC 4787 for two minutes of UDP behind NAT.
var timeouts = map[Kind]struct {
	key     string // behind net.netfilter.nf_conntrack_
	seconds int
}{
	{conntrack.ProtoTCP, "SYN_SENT"}:    {"tcp_timeout_syn_sent", 20},
	{conntrack.ProtoTCP, "SYN_RECV"}:    {"tcp_timeout_syn_recv", 20},
	{conntrack.ProtoTCP, "ESTABLISHED"}: {"tcp_timeout_established", 7440},
	{conntrack.ProtoTCP, "FIN_WAIT"}:    {"tcp_timeout_fin_wait", 30},
	{conntrack.ProtoTCP, "CLOSE_WAIT"}:  {"tcp_timeout_close_wait", 30},
	{conntrack.ProtoTCP, "TIME_WAIT"}:   {"tcp_timeout_time_wait", 10},
	{conntrack.ProtoUDP, "UNREPLIED"}:   {"udp_timeout", 10},
	{conntrack.ProtoUDP, "REPLIED"}:     {"udp_timeout", 10},
	{conntrack.ProtoUDP, "ASSURED"}:     {"udp_timeout_stream", 120},
	{conntrack.ProtoICMP, "UNREPLIED"}:  {"icmp_timeout", 10},
}

// Explain tells what fills a table that grew, of which l was last known. here tells
// whether [MaxKey] can be set in the namespace, setting reads a setting, -1 if there is none.
func Explain(g Growth, l conntrack.Limits, here bool, setting func(key string) int) Cause {
	var c Cause
	if g.Flows <= 0 {
		return c
	}
	percent := func(n int) int { return min(100, n*100/g.Flows) }
	var bypass []string
	for _, s := range [][]Share{g.Ports, g.Servers, g.Clients} {
		if len(s) == 0 {
			continue
		}
		k := s[0].Key
		if percent(s[0].Flows) < mostOf {
			c.Found = append(c.Found, fmt.Sprintf("no %s stands out: %s has the most, %d %%", k.By, k, percent(s[0].Flows)))
			continue
		}
		c.Found = append(c.Found, fmt.Sprintf("%d %% %s %s", percent(s[0].Flows), k.By, k))
		bypass = append(bypass, k.Args(false)...)
	}
	c.Found = append(c.Found, fmt.Sprintf("%d %% unreplied", max(0, percent(g.Unreplied))))
	// Bypasses are refused where flows are translated.
	if translated := percent(g.Translated); translated > 0 {
		c.Found, bypass = append(c.Found, fmt.Sprintf("%d %% translated by NAT, which no bypass may take", translated)), nil
	}
	if len(g.Kinds) > 0 {
		k := g.Kinds[0]
		c.Found = append(c.Found, fmt.Sprintf("%d %% %s", percent(k.Flows), k.Kind))
		c.Means = meaning(k.Kind, percent(k.Flows), percent(g.Unreplied))
	}
	if len(bypass) > 0 {
		c.Do = append(c.Do, "flowcut bypass add "+strings.Join(bypass, " ")+" --for 10m")
	}
	if len(g.Kinds) > 0 {
		if t, ok := timeouts[g.Kinds[0].Kind]; ok {
			key := "net.netfilter.nf_conntrack_" + t.key
			if now := setting(key); now > t.seconds {
				c.Do = append(c.Do, fmt.Sprintf("sysctl -w %s=%d, which is %d now", key, t.seconds, now))
			}
		}
	}
	if l.Max > 0 {
		c.Do = append(c.Do, set(MaxKey, 2*uint64(l.Max), here)+", and as many nf_conntrack_buckets")
	}
	return c
}

// meaning says what it is that most of the new flows are of a kind.
func meaning(k Kind, kind, unreplied int) string {
	switch {
	case kind < mostOf:
		return ""
	case unreplied >= nearAll && k.Proto == conntrack.ProtoTCP:
		return "a SYN flood, a scan, or a server that does not answer"
	case unreplied >= nearAll:
		return "a flood, a scan, or a server that does not answer"
	case k.Proto == conntrack.ProtoTCP && k.State == conntrack.TCPEstablished.String():
		return "connections that stay open, or whose ends are gone without a word: their entries stay for long"
	case k.Proto == conntrack.ProtoTCP:
		return "many short connections: their entries outlive them"
	}
	return ""
}

const (
	freshFor = 5  // s of the last arrivals that a plateau is taken from
	lingers  = 60 // s that the kernel takes at most to remove what has expired, GC_SCAN_INTERVAL_MAX
)

// Plateau is the number of entries that a table will not exceed as it grows, since what
// fills it ends by itself: at About as many flows end as begin, and what the kernel is slow
// to remove makes it AtMost. Both are zero where that cannot be told, as of flows that
// are answered, whose time begins anew with each packet.
type Plateau struct{ About, AtMost float64 }

// PlateauOf returns the plateau of a table that grew by g to what p is, with count entries,
// and that grows by rate entries a second.
func PlateauOf(g Growth, p *Profile, count uint32, rate float64, setting func(key string) int) Plateau {
	if g.Flows <= 0 || len(g.Kinds) == 0 || g.Kinds[0].Flows*100 < nearAll*g.Flows {
		return Plateau{}
	}
	k := g.Kinds[0].Kind
	t, ok := timeouts[k]
	if !ok || p.Remaining[k] == nil {
		return Plateau{}
	}
	stays := setting("net.netfilter.nf_conntrack_" + t.key)
	fresh := 0 // in the busiest of the last seconds
	for s := stays - freshFor; s < stays; s++ {
		fresh = max(fresh, p.Remaining[k][s])
	}
	if fresh == 0 {
		return Plateau{}
	}
	arrive := max(float64(fresh), rate) // a flood may have begun within a second
	rest := max(0, float64(count)-float64(p.Kinds[k]))
	return Plateau{rest + arrive*float64(stays), rest + arrive*float64(stays+lingers)}
}
