//go:build linux

package kernels

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// archive writes what the kernel unpacks as its first root: cpio, format newc.
// Parents of what is added come by themselves.
// Source: Documentation/driver-api/early-userspace/buffer-format.rst.
type archive struct {
	w    *bufio.Writer
	at   int64 // bytes written
	node uint32
	have map[string]bool
}

func newArchive(w io.Writer) *archive {
	return &archive{w: bufio.NewWriterSize(w, 1<<20), have: map[string]bool{".": true}}
}

// header writes the header of an entry and its name, padded to four bytes.
func (a *archive) header(name string, mode uint32, size int64) error {
	a.node++
	n, err := fmt.Fprintf(a.w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.node, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name)+1, 0, name)
	a.at += int64(n)
	return a.pad(err)
}

func (a *archive) pad(err error) error {
	for ; err == nil && a.at%4 != 0; a.at++ {
		err = a.w.WriteByte(0)
	}
	return err
}

// add writes an entry and, before it, the directories that it is in.
func (a *archive) add(name string, mode uint32, size int64, content io.Reader) error {
	name = path.Clean(strings.TrimPrefix(name, "/"))
	if a.have[name] {
		return nil
	}
	if err := a.dir(path.Dir(name)); err != nil {
		return err
	}
	a.have[name] = true
	if err := a.header(name, mode, size); err != nil {
		return err
	}
	n, err := io.Copy(a.w, content)
	a.at += n
	if err == nil && n != size {
		err = fmt.Errorf("%s has %d bytes, not %d", name, n, size)
	}
	return a.pad(err)
}

func (a *archive) dir(name string) error {
	if a.have[path.Clean(strings.TrimPrefix(name, "/"))] {
		return nil
	}
	return a.add(name, unix.S_IFDIR|0o755, 0, strings.NewReader(""))
}

func (a *archive) link(name, target string) error {
	return a.add(name, unix.S_IFLNK|0o777, int64(len(target)), strings.NewReader(target))
}

func (a *archive) text(name, text string) error {
	return a.add(name, unix.S_IFREG|0o644, int64(len(text)), strings.NewReader(text))
}

// file adds a file of the host.
func (a *archive) file(name, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	return a.add(name, unix.S_IFREG|uint32(st.Mode().Perm()), st.Size(), f)
}

// tree adds the files below a directory of the host for which keep is true of
// the path below it.
func (a *archive) tree(name, from string, keep func(string) bool) error {
	return filepath.WalkDir(from, func(at string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		below, err := filepath.Rel(from, at)
		if err != nil || !keep(below) {
			return err
		}
		return a.file(path.Join(name, below), at)
	})
}

func (a *archive) close() error {
	if err := a.header("TRAILER!!!", 0, 0); err != nil {
		return err
	}
	return a.w.Flush()
}
