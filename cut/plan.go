package cut

import (
	"context"
	"slices"

	"flowcut/conntrack"
	"flowcut/internal/fence"
)

// Plan says what a cut would do now.
type Plan struct {
	Version  int    `json:"version"` // 1
	DryRun   bool   `json:"dry_run"` // true
	Selector string `json:"selector"`
	Flows    struct {
		Matched int `json:"matched"`
	} `json:"flows"`
	Exact bool              `json:"exact"` // see FenceReport
	Rules string            `json:"rules"` // the fence, as nft(8) writes it
	Flow  []*conntrack.Flow `json:"flow,omitempty"`
}

// NewPlan lists the flows that a cut with these options would end, and its
// rules. It changes nothing. Needs CAP_NET_ADMIN.
func NewPlan(ctx context.Context, o Options) (*Plan, error) {
	c, err := conntrack.Dial(conntrack.Config{NetNS: o.NetNS})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	p := &Plan{Version: 1, DryRun: true, Selector: o.Selector.String()}
	families := map[conntrack.Family]bool{}
	for f, err := range c.Dump(ctx, o.Selector.Narrow()) {
		if err != nil {
			return nil, err
		}
		if o.Selector.Match(f) && !slices.Contains(o.Spare, f.Orig) {
			p.Flow = append(p.Flow, f.Clone())
			families[f.Orig.Family()] = true
		}
	}
	p.Flows.Matched = len(p.Flow)
	var fenced []conntrack.Family
	for _, family := range o.Selector.Families() {
		if families[family] {
			fenced = append(fenced, family)
		}
	}
	p.Rules, p.Exact = fence.Plan(fence.Config{Silent: o.Silent, Selector: &o.Selector, Spare: o.Spare}, fenced...)
	return p, nil
}
