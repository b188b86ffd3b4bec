//go:build linux && amd64

package faults

import (
	"os/exec"
	"runtime"
	"sync"
)

// forks is the thread that all other children are started by. What traces waits
// for any child of its own thread: it must have none but the traced.
var forks = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

// start starts a command in a network namespace, 0 for the caller's.
func start(cmd *exec.Cmd, ns int) error {
	done := make(chan error)
	forks() <- func() { done <- inside(ns, cmd.Start) }
	return <-done
}
