//go:build linux && amd64

package faults

import (
	"cmp"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Symbols are the functions of a built program, to tell from a stack who made
// a call.
type Symbols struct {
	funcs []symbol // by address

	mu    sync.Mutex
	names map[string]string // of sites, by the addresses of their frames
}

type symbol struct {
	from, to uint64
	name     string // short; "" for what is not flowcut's
}

// ReadSymbols reads the functions of a program that was not stripped.
func ReadSymbols(program string) (*Symbols, error) {
	f, err := elf.Open(program)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	list, err := f.Symbols()
	if err != nil {
		return nil, fmt.Errorf("symbols of %s: %w", program, err)
	}
	s := &Symbols{names: map[string]string{}}
	for _, x := range list {
		if elf.ST_TYPE(x.Info) == elf.STT_FUNC && x.Size > 0 {
			s.funcs = append(s.funcs, symbol{x.Value, x.Value + x.Size, short(x.Name)})
		}
	}
	slices.SortFunc(s.funcs, func(a, b symbol) int { return cmp.Compare(a.from, b.from) })
	return s, nil
}

// clutter is what names of functions have that readers need not see: closures,
// wrappers and types of parameters.
var clutter = regexp.MustCompile(`\[.*\]|[(*)]|(\.func\d+|\.gowrap\d+|\.deferwrap\d+|\.\d+|-fm|-range\d+)+$`)

// short returns the name of a function of flowcut's without its path, "" for
// others.
func short(name string) string {
	path, ours := strings.CutPrefix(name, "flowcut/")
	if !ours {
		return ""
	}
	return clutter.ReplaceAllString(path[strings.LastIndexByte(path, '/')+1:], "")
}

// at returns the function that an address is in.
func (s *Symbols) at(pc uint64) string {
	i, found := slices.BinarySearchFunc(s.funcs, pc, func(f symbol, pc uint64) int { return cmp.Compare(f.from, pc) })
	if !found {
		i--
	}
	if i < 0 || pc >= s.funcs[i].to {
		return ""
	}
	return s.funcs[i].name
}

// maxStack is how much of a stack is looked at.
const maxStack = 8 << 10

// site returns which functions of flowcut's are on the stack of a thread that
// stands in a system call, from the outermost to the innermost, or "".
//
// Go keeps frame pointers, but the assembly that makes the call has no frame:
// its caller is at the top of the stack.
func (s *Symbols) site(tid int, regs *unix.PtraceRegs) string {
	stack := make([]byte, maxStack)
	n := readMemory(tid, regs.Rsp, stack)
	stack = stack[:n&^7]
	word := func(at uint64) uint64 {
		if at < regs.Rsp || at+8 > regs.Rsp+uint64(len(stack)) {
			return 0
		}
		return binary.NativeEndian.Uint64(stack[at-regs.Rsp:])
	}
	pcs := []uint64{word(regs.Rsp)}
	for bp := regs.Rbp; ; {
		pc, next := word(bp+8), word(bp)
		if pc == 0 {
			break
		}
		if pcs = append(pcs, pc); next <= bp {
			break
		}
		bp = next
	}
	return s.name(pcs)
}

// readMemory reads what it can of a process's memory, and returns how much.
func readMemory(pid int, at uint64, b []byte) int {
	local := []unix.Iovec{{Base: &b[0]}}
	local[0].SetLen(len(b))
	for size := len(b); size > 0; size /= 2 { // the top of a stack may be near
		n, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: uintptr(at), Len: size}}, 0)
		if err == nil {
			return n
		}
	}
	return 0
}

// writeMemory writes into a process's memory.
func writeMemory(pid int, at uint64, b []byte) error {
	local := []unix.Iovec{{Base: &b[0]}}
	local[0].SetLen(len(b))
	_, err := unix.ProcessVMWritev(pid, local, []unix.RemoteIovec{{Base: uintptr(at), Len: len(b)}}, 0)
	return err
}

// frameless are functions that every way leads through, or that only pass on.
var frameless = regexp.MustCompile(`^(main\.|cli\.(Run|execute|report|runCut|namespace\.|newCut|cutFlags\.)|cut\.(Run|RunAll|cutting\.(run|runAll)|Cutter\.\w+)$|netns\.(away|DoFd|NS\.Do)$|personality\.Within)`)

// name returns the name of the site that has these return addresses.
func (s *Symbols) name(pcs []uint64) string {
	key := fmt.Sprint(pcs)
	s.mu.Lock()
	defer s.mu.Unlock()
	if name, ok := s.names[key]; ok {
		return name
	}
	var all, frames []string
	for _, pc := range slices.Backward(pcs) {
		f := s.at(pc - 1)
		if f == "" || len(all) > 0 && all[len(all)-1] == f {
			continue
		}
		all = append(all, f)
		if !frameless.MatchString(f) && (len(frames) == 0 || frames[len(frames)-1] != f) {
			frames = append(frames, f)
		}
	}
	if len(frames) == 0 && len(all) > 0 {
		frames = all[len(all)-1:]
	}
	name := strings.Join(frames, "/")
	s.names[key] = name
	return name
}
