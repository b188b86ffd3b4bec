//go:build !linux

// Package privilege gives up the rights that the program has and does not need.
package privilege

// Drop does nothing: there are no capabilities here.
func Drop() error { return nil }

// DropToWatch does nothing, as Drop.
func DropToWatch(bool) error { return nil }
