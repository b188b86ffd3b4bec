// Package failover holds tests of cuts on a pair of gateways between which
// conntrackd replicates flows. `make failover` runs all of them, `make test`
// those that matter most.
package failover
