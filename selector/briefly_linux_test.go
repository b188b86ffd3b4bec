package selector

import (
	"testing"
	"time"

	"flowcut/internal/fuzz"
)

// TestBriefly fuzzes a target for a moment, each day another; "make fuzz" does
// so for long.
func TestBriefly(t *testing.T) { fuzz.Briefly(t, time.Second) }
