package cut

import "context"

// early deletes flows while the table is still being read. That is for a cut
// that asks no end anything and has no guard phase, so that nothing needs to be
// done with the flows in between, and the guard is the coarse one.
type early struct {
	c       *cutting
	batches chan []*member
	done    chan error
}

// earlyBatch is how many flows are deleted at a time: enough for one send.
const earlyBatch = 4096

// startEarly starts the deletion.
func (c *cutting) startEarly(ctx context.Context) *early {
	e := &early{c: c, batches: make(chan []*member, 2), done: make(chan error, 1)}
	c.early = e
	go func() { e.done <- e.run(ctx) }()
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

func (e *early) run(ctx context.Context) (err error) {
	for batch := range e.batches {
		if err == nil { // else: let the listing go on until it notices
			err = e.delete(ctx, batch)
		}
	}
	return err
}

func (e *early) delete(ctx context.Context, batch []*member) error {
	c := e.c
	born, err := c.born()
	if err != nil {
		return err
	}
	c.looking.Lock()
	found := c.siftMeant(&listing{meant: batch}, born)
	c.looking.Unlock()
	if err := c.take(found); err != nil {
		return err
	}
	return c.delete(ctx, found)
}
