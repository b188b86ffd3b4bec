//go:build linux

package labtest

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// WithProgram loads a program of BPF that returns a number. What it is attached
// to keeps it.
func WithProgram(typ uint32, name string, result uint32, use func(fd int) error) error {
	code := []struct {
		op, registers uint8
		offset        int16
		value         int32
	}{
		{op: unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_K, value: int32(result)}, // r0 = result
		{op: unix.BPF_JMP | unix.BPF_EXIT},
	}
	license := []byte("GPL\x00")
	var pins runtime.Pinner
	defer pins.Unpin()
	pins.Pin(&code[0])
	pins.Pin(&license[0])
	attr := struct { // of BPF_PROG_LOAD
		typ, count      uint32
		code, license   uint64
		level, size     uint32
		log             uint64
		version, flags  uint32
		name            [unix.BPF_OBJ_NAME_LEN]byte
		device, attachs uint32
	}{
		typ: typ, count: uint32(len(code)),
		code: uint64(uintptr(unsafe.Pointer(&code[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0]))),
	}
	copy(attr.name[:], name)
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return fmt.Errorf("load %q: %w", name, errno)
	}
	return errors.Join(use(int(fd)), unix.Close(int(fd)))
}
