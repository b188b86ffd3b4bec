package conntrack

// parseExpectation stands in until branch expect is merged.
func parseExpectation([]byte, *Expectation) error { return nil }
