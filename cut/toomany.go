package cut

import "fmt"

// TooManyError means that more flows are selected than Options.Max allows.
// Nothing was touched.
type TooManyError struct {
	Found   int // at least: the count ends where it is certain
	Max     int
	Backend Backend // unless empty, it is this kind of fence that takes no more
}

// Error says how many there are.
func (e *TooManyError) Error() string {
	if e.Backend != "" {
		return fmt.Sprintf("cut: at least %d flows are selected, more than the %d that a fence of %s takes: cut them in parts", e.Found, e.Max, e.Backend)
	}
	return fmt.Sprintf("cut: at least %d flows are selected, more than the %d that may be", e.Found, e.Max)
}
