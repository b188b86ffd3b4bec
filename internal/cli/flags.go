package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"flowcut/internal/netns"
	"flowcut/internal/oneline"
	"flowcut/selector"
)

// addSelection gives a command the flags of a selection and the help for them.
func addSelection(cmd *cobra.Command) *selector.Flags {
	f := new(selector.Flags)
	fs := pflag.NewFlagSet("selection", pflag.ContinueOnError)
	fs.SortFlags = false
	f.Register(fs)
	cmd.Flags().SortFlags = false
	cmd.Flags().AddFlagSet(fs)
	selectionUsage(cmd, fs)
	completeSelection(cmd)
	return f
}

// needNarrow refuses a selection that leaves nothing out, unless all says that
// everything is meant.
func needNarrow(s selector.Selector, all bool) error {
	if all || s.Narrows() {
		return nil
	}
	return usage("narrow the selection, or give --all if every such flow is meant", "nothing narrows the selection")
}

// output is the value of -o.
type output struct {
	format string
	known  []string
}

// addOutput gives a command -o; the first format is the default.
func addOutput(cmd *cobra.Command, formats ...string) *output {
	o := &output{formats[0], formats}
	cmd.Flags().VarP(o, "output", "o", "what is printed: "+strings.Join(formats, ", "))
	complete(cmd, "output", formats...)
	return o
}

func (o *output) String() string { return o.format }

func (o *output) Type() string { return "FORMAT" }

func (o *output) Set(v string) error {
	if !slices.Contains(o.known, v) {
		return fmt.Errorf("unknown format, write one of %s", strings.Join(o.known, ", "))
	}
	o.format = v
	return nil
}

// namespace is the value of --netns.
type namespace struct{ which string }

// addNetNS gives a command --netns.
func addNetNS(cmd *cobra.Command) *namespace {
	n := new(namespace)
	cmd.Flags().Var(n, "netns", "network namespace to work in, by name, path or process")
	_ = cmd.RegisterFlagCompletionFunc("netns", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return namespaces(), cobra.ShellCompDirectiveDefault
	})
	return n
}

func (n *namespace) String() string { return n.which }

func (n *namespace) Type() string { return "NAME|PATH|PID" }

func (n *namespace) Set(v string) error {
	if v == "" {
		return errors.New("empty value")
	}
	n.which = v
	return nil
}

// with calls f with the descriptor of the namespace, 0 for the one we are in.
func (n *namespace) with(f func(fd int) error) error {
	ns, err := n.open()
	switch {
	case err != nil:
		return err
	case ns == nil:
		return f(0)
	}
	defer func() { _ = ns.Close() }() // nothing was written to it
	return f(ns.Fd())
}

// inside calls f in the namespace, on a thread that is there.
func (n *namespace) inside(f func() error) error {
	ns, err := n.open()
	if err != nil {
		return err
	}
	defer func() { _ = ns.Close() }() // nothing was written to it, and nil is well
	return ns.Do(f)
}

// open returns nil for the namespace that we are in.
func (n *namespace) open() (*netns.NS, error) {
	if n.which == "" {
		return nil, nil
	}
	ns, err := netns.Open(n.which)
	if err != nil && !errors.Is(err, os.ErrPermission) {
		err = usage("name one that \"ip netns\" lists, or give a path or a process ID", "--netns %s: %v", oneline.Value(n.which), cause(err))
	}
	return ns, err
}

// cause returns an error without what a path error says around it.
func cause(err error) error {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return p.Err
	}
	return err
}

// namespaces returns the names of the network namespaces there are.
func namespaces() []string {
	entries, err := os.ReadDir(netns.Dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// duration is the value of a flag that takes a time which is not negative, or
// one of some words.
type duration struct {
	value time.Duration
	words map[string]time.Duration
}

func (d *duration) String() string {
	for w, v := range d.words {
		if v == d.value {
			return w
		}
	}
	return d.value.String()
}

func (d *duration) Type() string { return "TIME" }

func (d *duration) Set(s string) error {
	if v, ok := d.words[s]; ok {
		d.value = v
		return nil
	}
	v, err := time.ParseDuration(s)
	switch {
	case err != nil:
		return errors.New("not a time, write one such as 500ms, 5s or 2m")
	case v < 0:
		return errors.New("a time cannot be negative")
	}
	d.value = v
	return nil
}

// terminal reports whether a stream is one a person looks at.
func terminal(w io.Writer) bool {
	if p, ok := w.(pipe); ok {
		w = p.Writer
	}
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && f.Name() != os.DevNull
}

// complete offers words for the value of a flag.
func complete(cmd *cobra.Command, flag string, words ...string) {
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// completeSelection offers words where a flag of the selection takes names.
func completeSelection(cmd *cobra.Command) {
	complete(cmd, "family", "ipv4", "ipv6")
	complete(cmd, "proto", "tcp", "udp", "udplite", "sctp", "dccp", "icmp", "icmpv6", "gre")
	complete(cmd, "status", "ASSURED", "SEEN_REPLY", "UNREPLIED", "EXPECTED", "SRC_NAT", "DST_NAT",
		"FIXED_TIMEOUT", "SEQ_ADJUST", "HELPER", "OFFLOAD", "HW_OFFLOAD")
	complete(cmd, "state", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT",
		"LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2")
}
