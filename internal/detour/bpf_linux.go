package detour

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"flowcut/internal/rtnl"
)

// Where netkit devices run programs on what their peer sends.
const attachNetkitPeer = 55 // BPF_NETKIT_PEER

// lookAtXDP reports programs that see packets before anything else does.
func (s *scan) lookAtXDP() {
	for _, d := range s.working() {
		for _, id := range d.xdp {
			s.report(XDP, d, "%s", programName(id))
		}
		if d.attached && len(d.xdp) == 0 {
			s.report(XDP, d, "")
		}
	}
}

// readPrograms reports programs of tcx and netkit. Those that are filters of
// tc are found with the other filters.
func (s *scan) readPrograms() error {
	for _, d := range s.working() {
		at := []uint32{unix.BPF_TCX_INGRESS}
		switch d.kind {
		case kindIFB:
			at[0] = unix.BPF_TCX_EGRESS // as with filters
		case kindNetkit:
			at = append(at, attachNetkitPeer)
		}
		for _, typ := range at {
			ids, err := attachedPrograms(d.index, typ)
			switch {
			case errors.Is(err, unix.ENODEV), errors.Is(err, unix.EACCES):
				// It is gone; it is the end of a pair whose other end has the
				// programs, and they run before packets come here.
			case errors.Is(err, unix.EPERM):
				// CAP_NET_ADMIN is enough for the kernel, so it is a filter of system calls.
				return fmt.Errorf("ask for the programs of %s: bpf(2) is refused, as in containers; let it in, by --cap-add BPF with Docker: %w", d.name, err)
			case err != nil && !rtnl.Missing(err):
				return fmt.Errorf("ask for the programs of %s: %w", d.name, err)
			}
			for _, id := range ids {
				s.report(TCProgram, d, "%s", programName(id))
			}
		}
	}
	return nil
}

// queryAttr is union bpf_attr for BPF_PROG_QUERY.
type queryAttr struct {
	target          uint32 // ifindex
	attachType      uint32
	queryFlags      uint32
	attachFlags     uint32
	ids             uint64 // address
	count           uint32
	_               uint32
	idFlags         uint64 // address, as the next two
	links           uint64
	linkFlags       uint64
	revisionOfQuery uint64
}

// attachedPrograms returns the IDs of a device's programs.
func attachedPrograms(index int, attachType uint32) ([]uint32, error) {
	const most = 64 // BPF_MPROG_MAX
	ids := make([]uint32, most)
	var pins runtime.Pinner
	defer pins.Unpin()
	pins.Pin(&ids[0])
	q := queryAttr{
		target: uint32(index), attachType: attachType,
		ids: uint64(uintptr(unsafe.Pointer(&ids[0]))), count: most,
	}
	if _, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&q), unsafe.Sizeof(q)); err != nil {
		return nil, err
	}
	return ids[:min(q.count, most)], nil
}

// programName returns the name of a program, or its number where it has none
// or the caller may not know it.
func programName(id uint32) string {
	number := fmt.Sprintf("program %d", id)
	get := struct{ id, next, flags uint32 }{id: id}
	fd, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&get), unsafe.Sizeof(get))
	if err != nil {
		return number
	}
	defer func() { _ = unix.Close(fd) }()

	const nameAt, nameEnd = 64, 64 + unix.BPF_OBJ_NAME_LEN // bpf_prog_info.name
	info := make([]byte, nameEnd)
	var pins runtime.Pinner
	defer pins.Unpin()
	pins.Pin(&info[0])
	ask := struct {
		fd, size uint32
		info     uint64
	}{uint32(fd), nameEnd, uint64(uintptr(unsafe.Pointer(&info[0])))}
	if _, err := bpf(unix.BPF_OBJ_GET_INFO_BY_FD, unsafe.Pointer(&ask), unsafe.Sizeof(ask)); err != nil {
		return number
	}
	name, _, _ := bytes.Cut(info[nameAt:], []byte{0})
	if len(name) == 0 {
		return number
	}
	return string(name)
}

func bpf(command int, attr unsafe.Pointer, size uintptr) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(command), uintptr(attr), size)
	if errno != 0 {
		return -1, os.NewSyscallError("bpf", errno)
	}
	return int(r), nil
}
