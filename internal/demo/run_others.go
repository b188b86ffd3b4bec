//go:build !linux

package demo

import (
	"context"
	"errors"
)

// Run always fails: the demo is about Linux's connection tracking.
func Run(context.Context, Options) error { return errors.ErrUnsupported }
