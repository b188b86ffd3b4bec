package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"flowcut/conntrack"
	"flowcut/internal/explain"
	"flowcut/internal/flowtext"
	"flowcut/internal/oneline"
	"flowcut/internal/personality"
	"flowcut/internal/sysctl"
	"flowcut/selector"
)

// mostExplained is how many flows of a selection are explained without --max.
const mostExplained = 3

// newExplain makes "flowcut explain".
func newExplain(time.Time) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain [FLOW | - | selection] [flags]",
		Short: "Say in plain words what a flow is and what becomes of it",
		Long: `explain says of a flow who opened it, what translates it, where it is in its
protocol's life, what its flags mean, for how long the kernel will keep it and
which setting says so, what is not known of it and why, and how to end it.

The flow is one that a selection finds, or one that is written down: FLOW is a
line of conntrack(8) -L or -E, or of /proc/net/nf_conntrack, or JSON of "flowcut
list" or "flowcut watch". Without it, or with -, such lines come from standard
input. What is written down is looked up in the table, and explained from the
entry if it is there.

Exit code: 0 explained; 1 nothing matches, or a line could not be read; 2 wrong
usage; 3 not permitted to read the table, which FLOW does without.`,
		Example: `  flowcut explain -g --dport 443
  flowcut explain "$(conntrack -L -p tcp --dport 443 2>/dev/null | head -1)"
  conntrack -E | flowcut explain
  flowcut explain -p tcp --state SYN_SENT --max 1 -o json`,
	}
	x := new(explainer)
	sel := addSelection(cmd)
	cmd.Flags().Var(&x.max, "max", "explain so many flows (default: 3 of a selection, all lines)")
	complete(cmd, "max")
	out := addOutput(cmd, "text", "json")
	x.ns = addNetNS(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		x.ctx, x.cmd, x.format = cmd.Context(), cmd, out.format
		sel.NFT = x.ns.readSet
		s, err := personality.Within(x.ctx, 0, func() (selector.Selector, error) { return sel.Selector(cmd.InOrStdin()) })
		if err != nil {
			return err
		}
		selected := len(s.Args()) > 0
		switch {
		case selected && len(args) > 0:
			return usage("give one of the two", "a flow that is written down, and a selection: %s", oneline.Value(args[0]))
		case !selected && (len(args) == 1 && args[0] == "-" || len(args) == 0 && !person(cmd.InOrStdin())):
			return x.within(x.lines)
		case !selected && len(args) > 0:
			return x.within(func() error { return x.word(strings.Join(args, " ")) })
		}
		return x.within(func() error { return x.selection(s) })
	}
	return cmd
}

// person tells whether nobody but a person could be at the other end of a stream.
func person(r io.Reader) bool {
	f, ok := r.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// explainer explains flows.
type explainer struct {
	ctx    context.Context
	cmd    *cobra.Command
	ns     *namespace
	max    most
	format string

	table  *conntrack.Client
	denied error // why the table cannot be asked; nil if it can
	set    explain.Settings
	reader flowtext.Reader
}

// within reads the settings, opens the table and calls f. That something is not
// permitted is left to f.
func (x *explainer) within(f func() error) error {
	x.set = explain.Settings{Now: time.Now(), Values: map[string]int{}, NetNS: x.ns.which}
	if names, err := selector.ReadLabelNames(selector.DefaultLabelFile); err == nil {
		x.set.LabelName, x.reader.Label = names.Name, names.Bit
	}
	x.denied = x.ns.inside(func() error {
		for _, key := range explain.Sysctls() {
			if v, err := sysctl.Get(key); err == nil {
				x.set.Values[key] = v
			}
		}
		addrs, err := net.InterfaceAddrs()
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				x.set.Own = append(x.set.Own, p.Addr())
			}
		}
		return err
	})
	if x.denied != nil {
		if isUsage(x.denied) { // there is no such namespace
			return x.denied
		}
		return f()
	}
	return x.ns.with(func(fd int) (err error) {
		x.table, x.denied = conntrack.Dial(conntrack.Config{NetNS: fd})
		if x.denied != nil {
			return f()
		}
		defer func() { err = errors.Join(err, x.table.Close()) }()
		return f()
	})
}

// selection explains the first flows that match.
func (x *explainer) selection(s selector.Selector) error {
	if x.denied != nil {
		return x.denied
	}
	if x.max == 0 {
		x.max = mostExplained
	}
	var first []*conntrack.Flow
	n := 0
	if !s.Empty() {
		for f, err := range x.table.Dump(x.ctx, s.Narrow()) {
			if err != nil {
				return err
			}
			if !s.Match(f) {
				continue
			}
			if n++; n <= int(x.max) {
				first = append(first, f.Clone())
			}
		}
	}
	if n == 0 {
		return &exitError{codeFailed, errors.New("no flow matches")}
	}
	for i, f := range first {
		if err := x.print(&explain.Subject{Flow: f, Master: x.master(f)}, i == 0); err != nil {
			return err
		}
	}
	if n > len(first) {
		fmt.Fprintf(x.cmd.ErrOrStderr(), "%d more match; --max explains more of them\n", n-len(first))
	}
	return nil
}

// word explains a flow that is written on the command line.
func (x *explainer) word(text string) error {
	e, err := x.reader.Parse(text)
	if err != nil {
		return usage("give a line of conntrack(8) or of /proc/net/nf_conntrack, an object of \"flowcut list -o json\", or a selection",
			"no flow: %v", err)
	}
	return x.print(x.find(&e), true)
}

// lines explains flows that are written on standard input, as they come.
func (x *explainer) lines() error {
	const longest = 1 << 20
	sc := bufio.NewScanner(x.cmd.InOrStdin())
	sc.Buffer(nil, longest)
	line, done, wrong := 0, 0, 0
	for x.max == 0 || done < int(x.max) {
		more, err := personality.Within(x.ctx, 0, func() (bool, error) { return sc.Scan(), nil })
		if err != nil {
			return err
		}
		if !more {
			break
		}
		line++
		if len(bytes.TrimSpace(sc.Bytes())) == 0 {
			continue
		}
		x.reader.Now, x.set.Now = time.Now(), time.Now()
		e, err := x.reader.Parse(sc.Text())
		if err != nil {
			wrong++
			fmt.Fprintf(x.cmd.ErrOrStderr(), "flowcut: line %d: %v\n", line, err)
			continue
		}
		if err := x.print(x.find(&e), done == 0); err != nil {
			return err
		}
		done++
	}
	switch {
	case errors.Is(sc.Err(), bufio.ErrTooLong):
		return fmt.Errorf("line %d is longer than 1 MiB: no flow is, nothing from there on was read", line+1)
	case sc.Err() != nil:
		return fmt.Errorf("read line %d: %w", line+1, sc.Err())
	case wrong > 0:
		return &exitError{code: codeFailed}
	case done == 0:
		return &exitError{codeFailed, errors.New("no flow on standard input")}
	}
	return nil
}

// find looks a flow up that was written down.
func (x *explainer) find(e *flowtext.Entry) *explain.Subject {
	s := &explain.Subject{Flow: &e.Flow, Line: e.Form == flowtext.Line, Event: e.Event, Returned: e.Returned, Place: explain.Gone}
	if s.Line {
		s.Known = flowtext.LineStatus
		if e.Flow.Status&conntrack.StatusOffload != 0 {
			s.Known &^= conntrack.StatusAssured
		}
	}
	key := e.Flow.Key()
	now, err := x.get(key.Orig, key.Zone)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if now, err = x.get(e.Flow.Reply, key.Zone); err == nil && now.Orig == e.Flow.Reply && returned(&now) {
			s.Place, s.Other = explain.Mirrored, &now
		}
	case err != nil:
		s.Place, s.Why = explain.Unasked, err.Error()
		if errors.Is(err, os.ErrPermission) {
			s.Why = "not permitted, it needs CAP_NET_ADMIN"
		}
	case now.Orig != key.Orig && returned(&now):
		s.Place, s.Other = explain.Mirrored, &now
	case now.Orig != key.Orig, e.Event == conntrack.EventDestroy, e.Flow.Has&conntrack.AttrID != 0 && e.Flow.ID != now.ID:
		s.Place, s.Other = explain.Replaced, &now
	default:
		s = &explain.Subject{Flow: &now, Returned: e.Returned, Place: explain.Listed}
	}
	s.Master = x.master(s.Flow)
	return s
}

// returned tells whether an entry in the other direction may have been made by the
// old connection: one of TCP that began with a handshake was not.
func returned(f *conntrack.Flow) bool {
	return f.Orig.Proto != conntrack.ProtoTCP || f.PickedUp()
}

// get looks a tuple up.
func (x *explainer) get(t conntrack.Tuple, z conntrack.Zone) (conntrack.Flow, error) {
	if x.denied != nil {
		return conntrack.Flow{}, x.denied
	}
	f, err := x.table.Get(x.ctx, t, z)
	if errors.Is(err, os.ErrPermission) || isUnsupported(err) {
		x.denied = err // so it is with all
	}
	return f, err
}

// master returns the entry of the flow that expected f, nil if there is none.
func (x *explainer) master(f *conntrack.Flow) *conntrack.Flow {
	if f.Has&conntrack.AttrMaster == 0 {
		return nil
	}
	m, err := x.get(f.Master, f.Key().Zone)
	if err != nil || m.Orig != f.Master {
		return nil
	}
	return &m
}

// print prints what there is to say about a flow.
func (x *explainer) print(s *explain.Subject, first bool) error {
	list := explain.Flow(s, &x.set)
	w := x.cmd.OutOrStdout()
	return patiently(x.ctx, func() error {
		if x.format == "json" {
			e := json.NewEncoder(w)
			e.SetEscapeHTML(false)
			return e.Encode(explanation{s.Flow, s.Place.String(), list})
		}
		var b []byte
		if !first {
			b = append(b, '\n')
		}
		_, err := w.Write(explain.AppendText(b, s.Flow, list, terminal(w)))
		return err
	})
}

// explanation is what -o json prints.
type explanation struct {
	Flow       *conntrack.Flow     `json:"flow"`
	Place      string              `json:"place"`
	Statements []explain.Statement `json:"statements"`
}
