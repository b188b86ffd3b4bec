package conntrack

import "time"

// EventKind says what an [Event] tells.
type EventKind uint8

// Kinds of events.
const (
	EventNew     EventKind = iota + 1 // a flow was made
	EventUpdate                       // a flow changed
	EventDestroy                      // a flow ended, Flow is as it was then
)

// Event is one thing that happened to a flow or an expectation.
type Event struct {
	Kind   EventKind
	Flow   *Flow        // nil in events of expectations
	Expect *Expectation // nil in events of flows

	// Time is when it happened by the kernel's clock; zero unless the kernel
	// says, which needs Linux 6.14 and the sysctl nf_conntrack_timestamp.
	Time time.Time

	// PortID is the netlink port of the program that did it, such as by a
	// delete; 0 for what packets and timeouts do.
	PortID uint32
}
