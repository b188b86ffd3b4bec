// Package demo shows on a live kernel how three usual ways to end a forwarded
// connection fail, and how flowcut does it.
package demo

import (
	"io"
	"time"
)

// Options say where the demo writes and how long it watches. The zero value
// works and shows nothing.
type Options struct {
	Out      io.Writer // the table; nil: nowhere
	Progress io.Writer // a line for each method as it begins; nil: nowhere
	SVG      string    // file of the picture, "" for none

	Before time.Duration // of load until the forwarding rule is removed, 0: 3 s
	After  time.Duration // of watching from then on, 0: 7 s
}

// What every method is tried on.
const (
	streams     = 4  // downloads, as fast as they go
	idles       = 20 // connections on which nobody speaks
	sampleEvery = 10 * time.Millisecond
)

func (o Options) normal() Options {
	if o.Out == nil {
		o.Out = io.Discard
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	if o.Before == 0 {
		o.Before = 3 * time.Second
	}
	if o.After == 0 {
		o.After = 7 * time.Second
	}
	return o
}

// result is what was measured of one method. Times count from the removal of
// the forwarding rule; what was received is the clients' own count.
type result struct {
	name, does string
	deleted    string // entries, as the method counted them
	entries    int    // of the cut connections, in the table at the end

	before time.Duration // from the first point to the removal
	points []point       // of the downloads together

	bytes       uint64        // that the downloads received afterwards
	last        time.Duration // when they received the last byte
	silent      bool          // for the last part of the watch they received nothing
	rate        float64       // bits a second in that part
	clientsTold int           // with ECONNRESET
	serversTold int
	idleOpen    int // idle servers whose byte reached the client at the end

	broken, bystanders int    // connections of others
	lost, datagrams    uint64 // of others
}

// point is a rate at a moment.
type point struct {
	at   time.Duration // since the first point
	rate float64       // bits a second since the point before
}
