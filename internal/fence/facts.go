package fence

// Backend is what a fence is made of.
type Backend string

// The backends.
const (
	NFTables Backend = "nf_tables"
	IPTables Backend = "iptables"
)

// Facts say what a fence can do.
type Facts struct {
	Backend Backend

	// Exact: rules can say all that the selector says. Where they cannot
	// (--state, --id, --picked-up), or where what they would ask for changes
	// while a flow lives (--status, --mark, --label), flows are fenced by their
	// tuples, from the first Guard on.
	Exact bool

	// Births: flows that begin behind the fence pass it and are noted as Born.
	// Otherwise what the selector means and is new waits until the first
	// Guard, and from then on the fence knows tuples alone.
	Births bool

	// NotesAll: Reset and Unreachable are noted of all ends, and not only of those
	// that Guard was told.
	NotesAll bool

	// Coarse: GuardCoarse can be called.
	Coarse bool

	// Unqueues: Lift drops what waits in any NFQUEUE of the namespace.
	Unqueues bool

	// Most is how many flows Guard takes. 0: there is no limit.
	Most int

	// Limits are sentences on what it cannot promise.
	Limits []string
}

// Facts returns what the fence can do.
func (f *Fence) Facts() Facts {
	return Facts{Backend: NFTables, Exact: f.Exact(), Births: f.Exact(), NotesAll: true, Coarse: f.Coarse(), Unqueues: true}
}
