// Package plan is what host and guest of package kernels have to agree on.
package plan

// Plan is what a guest is to do, as JSON in /plan.json.
type Plan struct {
	Modules []string `json:"modules"` // to load first
	Env     []string `json:"env"`
	Runs    []Run    `json:"runs"`
}

// Run is a program to run.
type Run struct {
	Name string   `json:"name"` // without blanks
	Dir  string   `json:"dir"`
	Args []string `json:"args"`
}

// Begin and End come before the name of a run, each at the start of a line; End
// is followed by the name, exit code and seconds. Done is the last line.
const (
	Begin = "@@begin "
	End   = "@@end "
	Done  = "@@done"
)
