package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"runtime/debug"
	"sync"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"flowcut/cut"
	"flowcut/internal/oneline"
	"flowcut/internal/personality"
	"flowcut/selector"
)

// batchRun is one run of "flowcut cut --batch".
type batchRun struct {
	cmd    *cobra.Command
	cutter *cut.Cutter
	format string
	where  string       // the namespace, for the log
	ns     int          // its descriptor, 0 for our own
	lines  chan pending // queued, in order
	begun  bool         // a line was cut
	unread error        // of the output: nobody reads any more
	uncut  []int        // lines that were read and not cut, when a signal came
	worst  error        // of all lines
}

// pending is a line that is queued, or wrong.
type pending struct {
	selection
	result <-chan cut.Result
	err    error
}

// mostPending is how many lines are read ahead of their receipts.
const mostPending = 1 << 16

// runBatch cuts what lines select. Those of a file are all read first: if one
// is wrong, nothing is changed. Those of standard input are cut as they come,
// and one that is wrong does not keep the others from it.
func (f *cutFlags) runBatch(cmd *cobra.Command, ns *namespace, format string) error {
	if err := f.checkBatch(cmd.Flags()); err != nil {
		return err
	}
	o, err := f.options(cmd.Context(), ns, cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	return ns.with(func(fd int) error {
		o.NetNS = fd
		r := &batchRun{cmd: cmd, format: format, where: ns.which, ns: fd, lines: make(chan pending, mostPending)}
		read := r.readStream
		if f.batch != "-" {
			read = r.readFile
		}
		feed, err := read(f.batch, ns, f.all)
		if err != nil {
			return err
		}
		debug.SetGCPercent(gcPercent)
		r.cutter = cut.NewCutter(o)
		return r.run(feed)
	})
}

// checkBatch refuses what does not go with lines.
func (f *cutFlags) checkBatch(fs *pflag.FlagSet) error {
	var sel selector.Flags
	selection := pflag.NewFlagSet("selection", pflag.ContinueOnError)
	sel.Register(selection)
	var both string
	fs.Visit(func(x *pflag.Flag) {
		if selection.Lookup(x.Name) != nil {
			both = x.Name
		}
	})
	switch {
	case f.batch == "":
		return usage("name a file, or - for standard input", "--batch: empty value")
	case both != "":
		return usage("write it into the lines", "--batch together with --%s: the lines select", both)
	case f.dryRun:
		return usage("try a line by itself: flowcut cut --dry-run and what the line says", "--batch together with --dry-run")
	}
	return f.checkTimes(fs)
}

// feed hands out lines, until there are no more or something ends them.
type feed = iter.Seq2[selection, error]

// readFile reads all lines of a file, of which none may be wrong.
func (r *batchRun) readFile(name string, ns *namespace, all bool) (feed, error) {
	lines, err := personality.Within(r.cmd.Context(), 0, func() (lines []selection, err error) {
		file, err := os.Open(name)
		if err != nil {
			return nil, usage("name a file that can be read, or - for standard input", "--batch %s: %v", oneline.Value(name), cause(err))
		}
		defer file.Close()
		if info, err := file.Stat(); err == nil && info.IsDir() {
			return nil, usage("name a file, or - for standard input", "--batch %s: is a directory", oneline.Value(name))
		}
		for s, err := range newBatch(file, ns.readSet, all).selections() {
			if err != nil {
				return nil, fmt.Errorf("--batch %s: %w", oneline.Value(name), err)
			}
			lines = append(lines, s)
		}
		return lines, nil
	})
	return func(yield func(selection, error) bool) {
		for _, s := range lines {
			if !yield(s, nil) {
				return
			}
		}
	}, err
}

// readStream reads lines as they come.
func (r *batchRun) readStream(_ string, ns *namespace, all bool) (feed, error) {
	return newBatch(r.cmd.InOrStdin(), ns.readSet, all).selections(), nil
}

// run queues lines and prints their receipts, in the order of the lines, each
// when it is there. A signal ends all cuts that are under way.
func (r *batchRun) run(lines feed) error {
	ctx := r.cmd.Context()
	stop := context.AfterFunc(ctx, func() { r.cutter.Abort(context.Cause(ctx)) })
	defer stop()
	ended := make(chan struct{})
	end := sync.OnceFunc(func() { close(ended) })
	defer end()
	go func() { // reading may never end
		defer close(r.lines)
		for s, err := range lines {
			select {
			case <-ended:
				return
			default:
			}
			p := pending{selection: s, err: err}
			if err == nil {
				p.result = r.cutter.Queue(ctx, s.selector)
			}
			select {
			case r.lines <- p:
			case <-ended:
				return
			}
		}
	}()
	for {
		select {
		case p, more := <-r.lines:
			if !more {
				r.cutter.Close()
				return cmp.Or(r.worst, r.unread)
			}
			if err := r.answer(p); err != nil {
				r.cutter.Close()
				return err
			}
			if r.unread != nil { // no more is read; what is queued is cut
				end()
				r.cutter.Close()
				r.rest()
				return cmp.Or(r.worst, r.unread)
			}
		case <-ctx.Done():
			r.cutter.Close()
			r.rest()
			if n := len(r.uncut); n > 0 {
				fmt.Fprintf(r.cmd.ErrOrStderr(), "flowcut: lines that were read and not cut: %d, from line %d to line %d\n", n, r.uncut[0], r.uncut[n-1])
			}
			return context.Cause(ctx)
		}
	}
}

// rest takes the receipts of what had been queued when it ended.
func (r *batchRun) rest() {
	for {
		select {
		case p, more := <-r.lines:
			if !more {
				return
			}
			_ = r.answer(p) // a signal has ended all, that is the error
		default:
			return
		}
	}
}

// answer waits for the receipt of a line and prints it.
func (r *batchRun) answer(p pending) error {
	var result cut.Result
	if p.err == nil {
		result = <-p.result
		p.err = result.Err
	}
	receipt := result.Receipt
	if receipt == nil && !r.begun && p.result != nil && (errors.Is(p.err, os.ErrPermission) || isUnsupported(p.err)) {
		return p.err // so it is with all lines
	}
	if p.err != nil && (receipt == nil || context.Cause(r.cmd.Context()) == nil) {
		r.fail(p)
	}
	if receipt == nil {
		return nil
	}
	r.begun = true
	journal(receipt, r.where, r.ns)
	if !receipt.Proven && r.worst == nil {
		r.worst = &exitError{code: codeFailed}
	}
	if r.unread == nil { // else: what is queued is cut and logged all the same
		r.unread = patiently(r.cmd.Context(), func() error { return r.print(p, receipt) })
	}
	return nil
}

// fail says what is wrong with a line.
func (r *batchRun) fail(p pending) {
	if context.Cause(r.cmd.Context()) != nil { // a signal ended it
		r.uncut = append(r.uncut, p.line)
		return
	}
	what, hint := describe(p.err)
	if p.result != nil {
		what = fmt.Sprintf("line %d: %s: %s", p.line, oneline.Value(p.text), what)
	}
	what = oneline.Text(what)
	fmt.Fprintf(r.cmd.ErrOrStderr(), "flowcut: %s\n", what)
	if hint != "" {
		fmt.Fprintln(r.cmd.ErrOrStderr(), hint)
	}
	r.worst = &exitError{code: codeFailed}
	if r.format == "json" && r.unread == nil {
		r.unread = patiently(r.cmd.Context(), func() error {
			return json.NewEncoder(r.cmd.OutOrStdout()).Encode(map[string]any{"line": p.line, "error": what})
		})
	}
}

// print prints the receipt of a line: as an object, or in a line with what is
// to be said beyond it.
func (r *batchRun) print(p pending, receipt *cut.Receipt) error {
	w := r.cmd.OutOrStdout()
	if r.format == "json" {
		return json.NewEncoder(w).Encode(struct {
			Line int `json:"line"`
			*cut.Receipt
		}{p.line, receipt})
	}
	_, err := io.WriteString(w, fmt.Sprintf("%d: %s: ", p.line, p.text))
	if err != nil {
		return err
	}
	return printReceipt(w, receipt, r.format)
}
