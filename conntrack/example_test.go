package conntrack_test

import (
	"context"
	"fmt"
	"log"

	"flowcut/conntrack"
)

// Delete every UDP flow that never saw an answer.
func ExampleClient_Delete() {
	ctx := context.Background()
	c, err := conntrack.Dial(conntrack.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	filter := conntrack.Filter{
		Orig: conntrack.Tuple{Proto: conntrack.ProtoUDP}, OrigFields: conntrack.FieldProto,
		StatusMask: conntrack.StatusSeenReply,
	}
	var keys []conntrack.Key
	for f, err := range c.Dump(ctx, filter) {
		if err != nil {
			log.Fatal(err)
		}
		keys = append(keys, f.Key())
	}
	n, err := c.Delete(ctx, keys, func(i int) { fmt.Println("gone already:", keys[i]) })
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(n, "deleted")
}

// Keep a picture of the marks of all flows, and say what becomes of them.
func ExampleClient_Listen() {
	ctx := context.Background()
	c, err := conntrack.Dial(conntrack.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	l, err := c.Listen(conntrack.EventConfig{SyncAtStart: true, SyncAfterOverrun: true})
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()

	marks := conntrack.NewPicture(func(m *conntrack.Mark, f *conntrack.Flow) {
		if f.Has&conntrack.AttrMark != 0 {
			*m = f.Mark
		}
	})
	for e, err := range l.Events(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		marks.Apply(e)
		switch {
		case e.Kind == conntrack.EventOverrun:
			fmt.Println("events were lost")
		case e.Kind == conntrack.EventSynced:
			fmt.Println("flows:", marks.Len())
		case e.Kind&conntrack.EventAll != 0:
			fmt.Println(e.Kind, e.Flow.Orig, "by port", e.PortID)
		}
	}
}
