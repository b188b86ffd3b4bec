package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"flowcut/cut"
	"flowcut/internal/oneline"
	"flowcut/internal/personality"
	"flowcut/internal/privilege"
	"flowcut/internal/serve"
	"flowcut/selector"
)

// serveFlags are the flags of "flowcut serve".
type serveFlags struct {
	listen    string
	hosts     []string
	allowCut  bool
	tokenFile string
	insecure  bool
	noEvents  bool
	spare     spares
}

// newServe makes "flowcut serve".
func newServe(time.Time) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve [flags]",
		Short: "Serve metrics for Prometheus and a page that shows the table",
		Long: `serve answers to HTTP until a signal ends it: /metrics has metrics for
Prometheus, and / is a page that shows how full the table is, who has most flows,
and the receipts of the last cuts, those of other processes included.

It only reads. With --allow-cut the page can cut, too, for those who have the
token: first the dry run is shown. The token is in --token-file, or made and
printed once.

By default only this host can connect. There is no TLS: for others put it behind a
proxy that has it, and name what they call it by --host.`,
		Example: `  flowcut serve
  ssh -L 9190:127.0.0.1:9190 gateway        # then look at http://127.0.0.1:9190/
  flowcut serve --listen unix:/run/flowcut/serve.sock --host gateway.example.org
  flowcut serve --allow-cut --token-file /etc/flowcut/token`,
		Args: noWords,
	}
	f := new(serveFlags)
	cmd.Flags().SortFlags = false
	f.register(cmd)
	ns := addNetNS(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return ns.with(func(fd int) error { return f.run(cmd, ns, fd) })
	}
	return cmd
}

func (f *serveFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.listen, "listen", "127.0.0.1:9190", "`ADDR:PORT` to listen on, or unix: and the path of a socket")
	fs.StringArrayVar(&f.hosts, "host", nil, "`NAME` that clients may call this server, beside localhost and the address; may be given again")
	fs.BoolVar(&f.allowCut, "allow-cut", false, "cut from the page, for those who have the token")
	fs.StringVar(&f.tokenFile, "token-file", "", "`FILE` with the token, which its owner alone may read; without it one is made and printed")
	fs.BoolVar(&f.insecure, "insecure", false, "allow cuts also on an address that other hosts reach, without TLS")
	fs.BoolVar(&f.noEvents, "no-events", false, "do not listen to events: no returns and overruns, and less work for the kernel")
	fs.Var(&f.spare, "spare", "leave these flows alone in cuts from the page: the flags of a selection in one word; may be given again")
	_ = cmd.MarkFlagFilename("token-file")
	for _, name := range []string{"listen", "host", "spare"} {
		complete(cmd, name)
	}
}

// run serves the table of a namespace.
func (f *serveFlags) run(cmd *cobra.Command, ns *namespace, fd int) error {
	ctx := cmd.Context()
	cfg, made, err := f.config(ctx, cmd.OutOrStdout(), ns, fd)
	if err != nil {
		return err
	}
	warn := func(line string) { fmt.Fprintln(cmd.ErrOrStderr(), "flowcut: "+oneline.Text(line)) }
	cfg.Warn = warn
	s, err := serve.New(cfg)
	if err != nil {
		return explainListen(err)
	}
	defer func() { _ = s.Close() }() // what is wrong with it then is nobody's concern
	if !f.allowCut {
		if err := privilege.DropToWatch(fd != 0); err != nil {
			warn("going on with more rights than are needed: " + err.Error())
		}
	}
	out := cmd.OutOrStdout()
	if made {
		fmt.Fprintf(out, "token: %s\n", cfg.Token)
	}
	if _, err := fmt.Fprintf(out, "listening on %s\n", s.URL()); err != nil && !errors.Is(err, errClosedPipe) {
		return err
	}
	notify("READY=1")
	defer notify("STOPPING=1")
	return s.Run(ctx)
}

// config returns what the flags say, and whether the token was made.
func (f *serveFlags) config(ctx context.Context, out io.Writer, ns *namespace, fd int) (cfg serve.Config, made bool, err error) {
	cfg = serve.Config{Listen: f.listen, Hosts: f.hosts, Public: f.insecure, NetNS: fd, Events: !f.noEvents, Version: version()}
	if err := f.check(); err != nil || !f.allowCut {
		return cfg, false, err
	}
	cfg.Cut.Except, err = personality.Within(ctx, 0, func() ([]selector.Selector, error) { return f.spare.selectors(ns.readSet) })
	if err != nil {
		return cfg, false, err
	}
	cfg.Log = func(r *cut.Receipt, from string) {
		logCut(r, ns.which, caller()+" page="+quote(from), time.Now().Add(journalPatience))
	}
	if f.tokenFile == "" {
		if os.Getenv("JOURNAL_STREAM") != "" && !terminal(out) {
			return cfg, false, usage("give --token-file, such as one of systemd's LoadCredential=", "--allow-cut: the token would be printed into the journal, which others may read")
		}
		cfg.Token = serve.NewToken()
		return cfg, true, nil
	}
	if cfg.Token, err = serve.ReadToken(f.tokenFile); err != nil {
		return cfg, false, usage("give a file of mode 0600 with a long random word in it", "--token-file %s: %v", oneline.Value(f.tokenFile), cause(err))
	}
	return cfg, false, nil
}

// check refuses what makes no sense.
func (f *serveFlags) check() error {
	path, isPath := strings.CutPrefix(f.listen, "unix:")
	switch _, _, err := net.SplitHostPort(f.listen); {
	case isPath && path == "":
		return usage("write unix: and the path of a socket", "--listen %s: no path", f.listen)
	case !isPath && err != nil:
		return usage("write an address and a port, such as 127.0.0.1:9190, or unix: and a path", "--listen %s: not an address with a port", oneline.Value(f.listen))
	}
	for _, h := range f.hosts {
		if h == "" || strings.ContainsAny(h, ":/ ") {
			return usage("write a name without a port, such as gateway.example.org", "--host %s: not a name", oneline.Value(h))
		}
	}
	if f.allowCut {
		return nil
	}
	for _, x := range []struct {
		name  string
		given bool
	}{{"token-file", f.tokenFile != ""}, {"insecure", f.insecure}, {"spare", len(f.spare) > 0}} {
		if x.given {
			return usage("add --allow-cut, or leave it out", "--%s without --allow-cut: nothing is cut", x.name)
		}
	}
	return nil
}

// explainListen says what to do where an address cannot be had.
func explainListen(err error) error {
	switch {
	case errors.Is(err, serve.ErrPublic):
		return usage("listen on 127.0.0.1 behind a proxy that has TLS, or give --insecure", "%v", err)
	case errors.Is(err, unix.EADDRINUSE), errors.Is(err, unix.EADDRNOTAVAIL), errors.Is(err, os.ErrNotExist):
		return usage("give another --listen", "%v", err)
	}
	return err
}

// notify tells systemd, where it has started us, see sd_notify(3).
func notify(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	c, err := net.Dial("unixgram", path) // where it begins with @ it is abstract
	if err != nil {
		return
	}
	_, _ = c.Write([]byte(state)) // systemd notices that we say nothing
	_ = c.Close()
}
