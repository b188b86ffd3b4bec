// Package doctor tells whether a cut can be proven on a gateway, and what to
// mend.
package doctor

// State is what a check came to.
type State string

// States, from good to bad.
const (
	OK      State = "ok"
	Note    State = "note"    // worth to know
	Warning State = "warning" // some cuts are not proven, or something is about to go wrong
	Fail    State = "fail"    // a cut could not be proven here
)

// Groups of checks, in their order.
const (
	groupKernel    = "kernel"
	groupRights    = "rights"
	groupSettings  = "settings"
	groupTable     = "table"
	groupDetours   = "detours" // what moves packets past the hooks
	groupOthers    = "others"  // programs and rules that have to do with flows, too
	groupLeftovers = "leftovers"
)

// Check is what one check came to.
type Check struct {
	Name  string `json:"name"` // stays the same from version to version
	Group string `json:"group"`
	State State  `json:"state"`
	Found string `json:"found"`
	Means string `json:"means"` // "" where Found says it all
	Do    string `json:"do"`    // a command where there is one; "" where nothing is to be done
}

// Report is what an examination came to.
type Report struct {
	Version  int     `json:"version"` // 1: names and meanings stay while it does
	Provable bool    `json:"provable"`
	Kernel   string  `json:"kernel"` // its release
	NetNS    string  `json:"netns,omitempty"`
	Checks   []Check `json:"checks"`

	// Denied means that nothing was found which speaks against a proof, but that
	// the caller was not permitted to look at all that decides.
	Denied bool `json:"-"`
}

// finding is what a check found: all of a [Check] but its name and group. The
// zero state is OK.
type finding struct {
	state            State
	found, means, do string
}

// fine is a finding of something that is as it should be.
func fine(found string) (finding, error) { return finding{found: found}, nil }
