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
