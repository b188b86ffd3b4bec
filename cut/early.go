package cut

import "context"

// early deletes flows while the table is still being read. That is for a cut
// that asks no end anything and has no guard phase, so that nothing needs to be
// done with the flows in between, and the guard is the coarse one. What has to
// be held it leaves alone.
type early struct {
	c       *cutting
	batches chan []*member
	done    chan error
}

// earlyBatch is how many flows are deleted at a time: enough for one send.
const earlyBatch = 4096

// ahead is how many batches may wait: deletions do while another walk begins.
const ahead = 256

// startEarly starts the deletion. On an error it ends the listing.
func (c *cutting) startEarly(ctx context.Context, end context.CancelCauseFunc) *early {
	e := &early{c: c, batches: make(chan []*member, ahead), done: make(chan error, 1)}
	c.early = e
	go func() {
		var err error
		for batch := range e.batches {
			if err != nil {
				continue
			}
			if err = e.delete(ctx, batch); err != nil {
				end(err)
			}
		}
		e.done <- err
	}()
	return e
}

// offer takes the flows that were found, once there are enough; c.looking is held.
func (e *early) offer(l *listing) {
	if len(l.meant) < earlyBatch {
		return
	}
	batch := l.meant
	l.meant = make([]*member, 0, earlyBatch)
	e.c.looking.Unlock()
	e.batches <- batch
	e.c.looking.Lock()
}

// stop waits until all that was offered is deleted.
func (e *early) stop() error {
	e.c.early = nil
	close(e.batches)
	return <-e.done
}

// delete deletes those of a batch that began before the fence.
func (e *early) delete(ctx context.Context, batch []*member) error {
	c := e.c
	born, err := c.born()
	if err != nil {
		return err
	}
	c.looking.Lock()
	var over []*member
	for _, m := range c.siftMeant(&listing{meant: batch}, born) {
		if m.free = c.frees(m); m.free {
			over = append(over, m)
		}
	}
	c.looking.Unlock()
	return c.delete(ctx, over)
}
