//go:build linux

// Package serve shows a gateway's connection tracking over HTTP: metrics for
// Prometheus, and a page. Both only read; a cut from the page must be allowed, and
// needs a token.
package serve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"flowcut/conntrack"
	"flowcut/cut"
	"flowcut/internal/receipts"
	"flowcut/internal/usock"
)

// Config says what is served, and where.
type Config struct {
	// Listen is an address with a port, such as "127.0.0.1:9190", or "unix:" and the
	// path of a socket.
	Listen string

	// Hosts are names that clients may call the server by in the header Host, beside
	// "localhost" and the addresses it listens on.
	Hosts []string

	// Public allows cuts on an address that others than this host reach.
	Public bool

	// NetNS is the descriptor of the network namespace whose table is shown, 0 for the
	// calling thread's. It must stay open.
	NetNS int

	// Events listens to the kernel's events, for returns and overruns.
	Events bool

	// Token allows cuts, to those who have it. Empty: none.
	Token string

	// Cut is how cuts from the page are made; Selector, NetNS, Spare, Max, Start and
	// Flows are set for each.
	Cut cut.Options

	// Log, unless nil, is called with the receipt of each cut from the page.
	Log func(r *cut.Receipt, from string)

	// Warn is told of what does not work, a line each.
	Warn func(line string)

	Version string // of the program, for the page and flowcut_build_info
}

// Server is what a Config describes, at its sockets.
type Server struct {
	cfg      Config
	listener net.Listener
	ct       *conntrack.Client
	flows    *conntrack.Listener // nil: no events
	receipts *receipts.Listener  // nil: others' are not heard
	metrics  *metrics
	board    *board
	hub      *hub
	cuts     *cuts // nil: none are allowed
	pace     pace
}

// ErrPublic is returned where cuts would be possible from other hosts, without
// encryption.
var ErrPublic = errors.New("cuts are allowed, the address is not of this host alone, and there is no TLS")

// New opens all sockets. Needs CAP_NET_ADMIN. The caller must Close the Server.
func New(cfg Config) (s *Server, err error) {
	s = &Server{hub: newHub(), pace: usual}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
			s = nil
		}
	}()
	if s.ct, err = conntrack.Dial(conntrack.Config{NetNS: cfg.NetNS}); err != nil {
		return s, err
	}
	if _, err = s.ct.Limits(context.Background()); err != nil {
		return s, err
	}
	if cfg.Events {
		if why := silent(cfg.NetNS); why != "" {
			cfg.Warn(why)
			cfg.Events = false
		}
	}
	s.cfg = cfg
	if cfg.Events { // from now on: what begins before is announced to nobody
		if s.flows, err = s.ct.Listen(heard); err != nil {
			return s, err
		}
	}
	if s.listener, err = listen(cfg.Listen); err != nil {
		return s, err
	}
	if !s.local() {
		if cfg.Token != "" && !cfg.Public {
			return s, ErrPublic
		}
		cfg.Warn(fmt.Sprintf("listening on %s, which is not this host's alone, without TLS: put it behind a proxy that has it", s.listener.Addr()))
	}
	switch s.receipts, err = receipts.Listen(cfg.NetNS); {
	case errors.Is(err, unix.EADDRINUSE):
		cfg.Warn("another flowcut serve hears the receipts of cuts here: only those of this page are shown")
	case err != nil:
		cfg.Warn(fmt.Sprintf("only cuts of this page are shown: %v", err))
	}
	s.metrics = newMetrics(s.ct, cfg, s.hub)
	s.board = newBoard(s.ct, s.hub)
	if cfg.Token != "" {
		s.cuts = newCuts(cfg)
	}
	return s, nil
}

// listen opens the socket for clients.
func listen(where string) (net.Listener, error) {
	const mode = 0o660
	var l net.Listener
	var err error
	if path, ok := strings.CutPrefix(where, "unix:"); ok {
		l, err = usock.Listen(path, mode)
	} else {
		l, err = net.Listen("tcp", where)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", where, err)
	}
	return l, nil
}

// local tells whether only this host reaches the server.
func (s *Server) local() bool {
	a, ok := s.listener.Addr().(*net.TCPAddr)
	return !ok || a.IP.IsLoopback()
}

// URL is where the page is, "unix:" and a path for a Unix socket.
func (s *Server) URL() string {
	a := s.listener.Addr()
	if a.Network() == "unix" {
		return "unix:" + a.String()
	}
	return "http://" + a.String() + "/"
}

// Close closes the sockets and removes those in the file system.
func (s *Server) Close() error {
	var errs []error
	if s.listener != nil {
		if err := s.listener.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if s.receipts != nil {
		errs = append(errs, s.receipts.Close())
	}
	if s.ct != nil {
		errs = append(errs, s.ct.Close())
	}
	return errors.Join(errs...)
}

// Limits of what clients may take of the gateway.
const (
	mostConnections = 256
	mostStreams     = 32 // pages that are told what changes
	mostHeader      = 16 << 10
	mostBody        = 16 << 10

	timeToSend    = 5 * time.Second // a request's header
	timeForAll    = 15 * time.Second
	timeToBeIdle  = time.Minute
	timeForFrame  = 5 * time.Second // for a client to take what it is told
	timeToSayGood = 3 * time.Second // to requests under way when it ends
)

// Run serves until ctx ends, and returns nil then. A cut that is under way ends with
// it, and Run returns when its rules are gone and its receipt is out. It may be called
// once.
func (s *Server) Run(ctx context.Context) error {
	err := s.run(ctx)
	if s.cuts != nil {
		s.cuts.busy.Lock() // for good: none begins any more
	}
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled) || errors.Is(err, conntrack.ErrClosed)) {
		return nil
	}
	return err
}

// run does all that goes on until ctx ends or something fails.
func (s *Server) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	web := &http.Server{
		Handler:           s.handler(ctx),
		ReadHeaderTimeout: timeToSend, ReadTimeout: timeForAll, WriteTimeout: timeForAll, IdleTimeout: timeToBeIdle,
		MaxHeaderBytes: mostHeader,
		ErrorLog:       quiet(),
	}
	g.Go(func() error {
		if err := web.Serve(netutil.LimitListener(s.listener, mostConnections)); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	g.Go(func() error { return s.board.sample(ctx) })
	g.Go(func() error { return s.board.walk(ctx) })
	if s.receipts != nil {
		g.Go(func() error { return s.hear(ctx) })
	}
	if s.flows != nil {
		g.Go(func() error { return s.watch(ctx) })
	}
	g.Go(func() error {
		<-ctx.Done()
		s.hub.end()
		soon, cancel := context.WithTimeout(context.Background(), timeToSayGood)
		defer cancel()
		if err := web.Shutdown(soon); err != nil {
			return web.Close()
		}
		return nil
	})
	return g.Wait()
}

// hear takes receipts of cuts that others make.
func (s *Server) hear(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.receipts.Close() }) // told to who waits
	defer stop()
	for {
		n, err := s.receipts.Next()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, receipts.ErrRefused):
			s.metrics.refused.Inc()
		case err != nil:
			return err
		default:
			s.note(n)
		}
	}
}

// note counts and shows a receipt.
func (s *Server) note(n *receipts.Note) {
	s.metrics.cut(n.Receipt)
	s.board.receipt(n)
}
