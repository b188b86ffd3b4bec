// Package receipts carries receipts of cuts from the processes that make them to the
// "flowcut serve" that shows them: datagrams of JSON to a Unix socket in Dir, one
// socket for each network namespace.
package receipts

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"

	"flowcut/cut"
	"flowcut/internal/show"
)

// Dir is the directory of the sockets. Who may enter it may be shown receipts of
// cuts, so it is made for root, or by systemd for the service.
const Dir = "/run/flowcut"

// Note is a receipt on its way.
type Note struct {
	Version int          `json:"version"` // 1
	By      string       `json:"by"`      // who cut
	Words   string       `json:"words"`   // the receipt for a person, lines; JSON does not have all that they say
	Receipt *cut.Receipt `json:"receipt"` // without its list of flows
}

// version is that of the notes that we write and read.
const version = 1

// most bytes of a note; what a receipt says beyond it is cut short.
const most = 32 << 10

// path returns the socket for the network namespace with an inode.
func path(dir string, inode uint64) string {
	return filepath.Join(dir, "receipts-"+strconv.FormatUint(inode, 10))
}

// NewNote returns the note of a receipt, which is not changed.
func NewNote(by string, r *cut.Receipt) *Note {
	short := *r
	short.Flow = nil
	return &Note{version, by, string(show.AppendReceipt(nil, &short, false)), &short}
}

// encode returns what is sent of a note.
func encode(n *Note) ([]byte, error) {
	b, err := json.Marshal(n)
	if err != nil || len(b) <= most {
		return b, err
	}
	const words = 1500 // of each text, some of which may be escaped to six times as much
	short := *n.Receipt
	short.Fence.Limits, short.Fence.Detours = nil, nil
	short.Reason, short.Selector = head(short.Reason, words), head(short.Selector, words)
	return json.Marshal(Note{n.Version, head(n.By, words/10), head(n.Words, words), &short})
}

func head(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "..."
}

// decode reads a note; nothing in it is believed to be well-behaved text.
func decode(b []byte) (*Note, error) {
	n := new(Note)
	if err := json.Unmarshal(b, n); err != nil {
		return nil, fmt.Errorf("receipts: read a note of %d bytes: %w", len(b), err)
	}
	if n.Version != version || n.Receipt == nil {
		return nil, fmt.Errorf("receipts: a note of version %d, want %d with a receipt", n.Version, version)
	}
	f := &n.Receipt.Flows
	if slices.Min([]int{f.Matched, f.Deleted, f.Vanished, f.Remaining, f.Spared, n.Receipt.Endpoints.Dead,
		n.Receipt.Endpoints.Reset, n.Receipt.Endpoints.Unreachable, n.Receipt.Endpoints.Silent}) < 0 {
		return nil, fmt.Errorf("receipts: a note with a number below zero")
	}
	return n, nil
}
