package conntrack

// For tests that need packages that stand on this one.
var (
	ParseFlow        = parseFlow
	ParseExpectation = parseExpectation
	Fixtures         = fixtures
	ExpectFixtures   = expectFixtures
)
