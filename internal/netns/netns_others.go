//go:build !linux

package netns

import "errors"

// NS is an open network namespace; on this system there are none but nil.
type NS struct{}

// Open always fails: network namespaces are Linux's own.
func Open(which string) (*NS, error) {
	if _, err := path(which); err != nil {
		return nil, err
	}
	return nil, errors.ErrUnsupported
}

// New always fails, as Open does.
func New() (*NS, error) { return nil, errors.ErrUnsupported }

// String returns "".
func (ns *NS) String() string { return "" }

// Fd returns -1.
func (ns *NS) Fd() int { return -1 }

// Close does nothing.
func (ns *NS) Close() error { return nil }

// Do calls f.
func (ns *NS) Do(f func() error) error { return f() }
