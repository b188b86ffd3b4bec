//go:build linux

package cut

import (
	"testing"

	"flowcut/internal/lab"
	"flowcut/internal/lab/labtest"
)

// Both ends of 4,000 idle connections to one server are told.
func TestCutCrowd(t *testing.T) {
	net := dmz(t, lab.Config{})
	var ends lab.Ends
	for _, c := range net.Clients {
		ends = append(ends, labtest.Dial(t, c.Host, lab.Streams{Kind: lab.Idle, To: at(net, port, false), Count: 2000})...)
	}
	r := runCut(t, net, quick(Options{Selector: toServer(t, net)}))
	wantProven(t, r)
	wantReset(t, both(ends))
}
