package cut

import (
	"context"

	"flowcut/conntrack"
	"flowcut/internal/fence"
	"flowcut/selector"
)

// Plan says what a cut would do now.
type Plan struct {
	Version  int    `json:"version"` // 1
	DryRun   bool   `json:"dry_run"` // true
	Selector string `json:"selector"`
	Flows    struct {
		Matched  int `json:"matched"`  // would be cut
		Related  int `json:"related"`  // of these, expected by another
		Mirrored int `json:"mirrored"` // of these, picked up earlier in the other direction
		Suspects int `json:"suspects"` // look like mirrors, would be left alone
		Spared   int `json:"spared"`   // selected, would be left alone
	} `json:"flows"`
	Backend Backend           `json:"backend"` // what the fence would be made of
	Exact   bool              `json:"exact"`   // see FenceReport
	Rules   string            `json:"rules"`   // the fence, as nft(8) or iptables-restore(8) reads it
	Flow    []*conntrack.Flow `json:"flow,omitempty"`
}

// NewPlan lists the flows that a cut with these options would end, and its
// rules. It changes nothing. Needs CAP_NET_ADMIN.
func NewPlan(ctx context.Context, o Options) (*Plan, error) {
	return NewPlanAll(ctx, o, []selector.Selector{o.Selector})
}

// NewPlanAll is NewPlan for what [RunAll] would do with several selectors.
// Options.Selector counts for nothing.
func NewPlanAll(ctx context.Context, o Options, list []selector.Selector) (*Plan, error) {
	ct, err := conntrack.Dial(conntrack.Config{NetNS: o.NetNS})
	if err != nil {
		return nil, err
	}
	defer ct.Close()
	o.Flows = true
	c := newCutting(o, list...)
	c.ct, c.dry = ct, true
	c.prepare(ctx)
	found, err := c.sweep(ctx, true)
	if err != nil {
		return nil, err
	}
	p := &Plan{Version: 1, DryRun: true, Selector: c.set.String()}
	p.Flows.Matched, p.Flows.Spared, p.Flows.Suspects = len(found), len(c.spared), len(c.suspects)
	families := map[conntrack.Family]bool{}
	for _, m := range found {
		p.Flow = append(p.Flow, m.flow)
		families[m.key.Orig.Family()] = true
		switch m.why {
		case mirrored:
			p.Flows.Mirrored++
		case related:
			p.Flows.Related++
		}
	}
	var fenced []conntrack.Family
	for _, family := range c.set.Families() {
		if families[family] {
			fenced = append(fenced, family)
		}
	}
	p.Backend = c.planBackend()
	plan := fence.Plan
	if p.Backend == IPTables {
		plan = fence.PlanXTables
	}
	p.Rules, p.Exact = plan(c.fenceConfig(), fenced...)
	return p, nil
}
