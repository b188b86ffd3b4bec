//go:build linux

// Command launch runs a program, waits for it, and writes to descriptor 3 what
// it took: wall, user and system time in nanoseconds, peak memory in KiB, exit
// code, 128 + n if signal n ended it, and when it began, in nanoseconds since 1970.
//
// The kernel counts the memory of whoever starts a program as the program's
// own until it is started. So this one is small, and imports nearly nothing.
package main

import (
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// report is the descriptor that is written to.
const report = 3

func main() {
	signal.Notify(make(chan os.Signal, 1), os.Interrupt) // meant for the program, which has it from the same terminal or group
	if len(os.Args) < 2 {
		fail("usage: launch PATH [ARGUMENT...] 3>REPORT")
	}
	syscall.CloseOnExec(report)
	begin := time.Now()
	pid, err := syscall.ForkExec(os.Args[1], os.Args[1:], &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, 1, 2},
	})
	if err != nil {
		fail("launch: start " + os.Args[1] + ": " + err.Error())
	}
	status, usage := wait(pid)
	wall := time.Since(begin)
	code := status.ExitStatus()
	if status.Signaled() {
		code = 128 + int(status.Signal())
	}
	var line []byte
	for _, n := range []int64{wall.Nanoseconds(), usage.Utime.Nano(), usage.Stime.Nano(), usage.Maxrss, int64(code), begin.UnixNano()} {
		line = append(strconv.AppendInt(line, n, 10), ' ')
	}
	if _, err := syscall.Write(report, line); err != nil {
		fail("launch: write the report to descriptor 3: " + err.Error())
	}
}

// wait waits for the program to end.
func wait(pid int) (status syscall.WaitStatus, usage syscall.Rusage) {
	for {
		_, err := syscall.Wait4(pid, &status, 0, &usage)
		if err == nil {
			return status, usage
		}
		if err != syscall.EINTR {
			fail("launch: wait for the program: " + err.Error())
		}
	}
}

func fail(text string) {
	_, _ = syscall.Write(2, []byte(text+"\n"))
	os.Exit(1)
}
