package doctor

import (
	"errors"
	"fmt"

	"flowcut/internal/bypass"
	"flowcut/internal/fence"
	"flowcut/internal/nft"
	"flowcut/internal/rtnl"
	"flowcut/internal/ruleset"
)

// leftover is something that a flowcut has left behind.
type leftover struct {
	name   string
	remove func() error
}

// finders look for leftovers of each kind in the namespace; a line more is a
// kind more.
var finders = []func(*visit) ([]leftover, error){
	leftTables,
	leftChains,
	leftBypasses,
}

func lookAtLeftovers(v *visit) (finding, error) {
	var list []leftover
	var errs []error
	for _, find := range finders {
		found, err := find(v)
		list = append(list, found...)
		errs = append(errs, err)
	}
	err := errors.Join(errs...)
	if len(list) == 0 {
		return finding{found: "none"}, err
	}
	if !v.options.RemoveLeftovers {
		return judgeLeftovers(list, v.options.NetNS), nil
	}
	var removed []string
	var kept []leftover
	for _, l := range list {
		if err := l.remove(); err != nil {
			v.removal = errors.Join(v.removal, fmt.Errorf("remove %s: %w", l.name, err))
			kept = append(kept, l)
			continue
		}
		removed = append(removed, l.name)
	}
	if kept != nil {
		return judgeLeftovers(kept, v.options.NetNS), nil
	}
	return finding{found: "removed " + some(removed)}, nil
}

func judgeLeftovers(list []leftover, where string) finding {
	do := "flowcut doctor --remove-leftovers"
	if where != "" {
		do += " --netns " + where
	}
	var names []string
	for _, l := range list {
		names = append(names, l.name)
	}
	return finding{
		state: Warning, found: some(names),
		means: "rules of a cut that is over still stop packets, those of a bypass that is over do nothing",
		do:    do,
	}
}

// leftTables finds tables of fences that belong to no socket: the kernel
// removes those that do. What is left is a copy that somebody loaded, or
// was made to outlive its owner.
func leftTables(v *visit) (out []leftover, err error) {
	tables, err := v.rules.Tables()
	if rtnl.Missing(err) {
		return nil, nil
	}
	for _, t := range tables {
		if t.Fence() && t.Owner == 0 {
			out = append(out, leftover{"table " + t.String(), func() error { return removeTable(t) }})
		}
	}
	return out, err
}

// leftChains finds fences of iptables whose process is gone.
func leftChains(v *visit) (out []leftover, err error) {
	list, err := fence.Leftovers(v.ctx, 0)
	for _, l := range list {
		out = append(out, leftover{l.String(), func() error { return l.Remove(v.ctx) }})
	}
	return out, err
}

// leftBypasses finds what is left of bypasses whose time is over. Their rules do
// nothing any more.
func leftBypasses(v *visit) (out []leftover, err error) {
	over, empty, err := bypass.Over(0)
	if _, foreign := errors.AsType[*bypass.ForeignError](err); foreign || rtnl.Missing(err) {
		return nil, nil
	}
	sweep := func() error { _, err := bypass.List(v.ctx, 0); return err }
	for _, b := range over {
		out = append(out, leftover{fmt.Sprintf("bypass %d, whose time is over", b.Number), sweep})
	}
	for _, t := range empty {
		out = append(out, leftover{"table " + t + ", with nothing in it", sweep})
	}
	return out, err
}

func removeTable(t ruleset.Table) error {
	c, err := nft.Dial(0)
	if err != nil {
		return err
	}
	b := new(nft.Batch)
	b.DeleteTable(&nft.Table{Family: nft.Family(t.Family), Name: t.Name})
	return errors.Join(c.Commit(b), c.Close())
}
