package personality

import (
	"context"
	"errors"

	"flowcut/conntrack"
	"flowcut/internal/conntrack8"
)

const (
	// deleteBatch is how many entries are deleted at a time.
	deleteBatch = 4096

	// maxPasses bounds the passes of a delete: where connections come as fast
	// as they go, or are picked up again, no pass would be the last.
	maxPasses = 8
)

// delete is -D. Entries are deleted with their zone and ID, so that no other
// flow is, and in passes until one finds nothing, since a listing of a table
// that changes misses some.
func (s *session) delete(l *line) error {
	sel := l.selection()
	if l.has("status") && l.status.set|l.status.clear == 0 && !l.status.unset {
		return failure("Operation failed: invalid parameters") // -u SRC_NAT says nothing
	}
	c, err := s.dial()
	if err != nil {
		return err
	}
	s.mute = s.begin(&l.out, documentConntrack)
	d := deletion{s: s, client: c, line: l}
	return operation('D', d.run(sel))
}

// deletion is one run of -D.
type deletion struct {
	s      *session
	client *conntrack.Client
	line   *line

	flows []conntrack.Flow
	keys  []conntrack.Key
	quiet bool // says nothing of what it deletes
}

// run deletes what is meant, in passes.
func (d *deletion) run(sel *selection) error {
	for range maxPasses {
		found, err := d.pass(sel)
		if err != nil || found == 0 {
			return err
		}
	}
	return nil
}

// pass lists the table once, deletes what is meant, and tells how much it found.
func (d *deletion) pass(sel *selection) (found int, err error) {
	for f, err := range d.client.Dump(d.s.ctx, sel.filter) {
		if err != nil {
			return found, errors.Join(err, d.deleteAll())
		}
		if !sel.match(f) {
			continue
		}
		found++
		d.flows = append(d.flows, *f)
		d.flows[len(d.flows)-1].HelpInfo = nil // the dump's own, and not shown
		if len(d.flows) == deleteBatch {
			if err := d.deleteAll(); err != nil {
				return found, err
			}
		}
	}
	return found, d.deleteAll()
}

// deleteAll deletes the flows that were gathered, and prints those that were
// still there. Others had ended, or somebody else deleted them.
func (d *deletion) deleteAll() error {
	d.keys = d.keys[:0]
	for i := range d.flows {
		d.keys = append(d.keys, d.flows[i].Key())
	}
	gone := make([]bool, len(d.flows))
	// All of a batch, also when a signal comes: what is deleted is to be shown.
	ctx := context.WithoutCancel(d.s.ctx)
	deleted, err := d.client.Delete(ctx, d.keys, func(i int) { gone[i] = true })
	d.s.shown += deleted
	for i := range d.flows {
		if err == nil && !gone[i] && !d.quiet {
			d.s.tell(d.line.out.AppendFlow(d.s.buf[:0], &d.flows[i], conntrack8.Deleted))
		}
	}
	d.flows = d.flows[:0]
	return err
}

// flush is -F. The word that it is done comes first, done or not: scripts see
// it so from conntrack(8).
func (s *session) flush(l *line) error {
	defer s.message("connection tracking table has been emptied.")
	c, err := s.dial()
	if err != nil {
		return err
	}
	err = c.Flush(s.ctx, l.family)
	if l.family != conntrack.FamilyBoth && err != nil {
		err = s.flushFamily(c, l)
	}
	return operation('F', err)
}

// flushFamily deletes the entries of a family one by one: where the kernel is
// not known to leave the other family alone, or may not be tried.
func (s *session) flushFamily(c *conntrack.Client, l *line) error {
	d := deletion{s: s, client: c, line: l, quiet: true}
	return d.run(l.selection())
}
