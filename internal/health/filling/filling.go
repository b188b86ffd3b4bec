//go:build linux

// Package filling fills the table of a gateway in the lab, and holds "flowcut stats" to
// what it forecasts meanwhile.
//
// The limit is the host's, so it is left alone: what is not filled by the
// flood is filled beforehand with entries that stay.
package filling

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"flowcut/conntrack"
	"flowcut/internal/cli"
	"flowcut/internal/health"
	"flowcut/internal/lab"
)

// Options says how the table is filled.
type Options struct {
	UDP    bool          // datagrams instead of SYNs; IPv4, each from another source
	FillIn time.Duration // from the first packet of the flood to a full table
	Rate   int           // packets a second; 0: as many as fill an empty table in FillIn
	SVG    string        // a file for the picture of the look; "": none
	Text   io.Writer     // what "flowcut stats" prints as text goes here, in a second run beside the first; nil: none
}

// Forecast is what "flowcut stats" said at a moment.
type Forecast struct {
	Ahead    time.Duration // of the moment at which the table was full
	Error    time.Duration // by how much later that was expected than it came
	InRange  bool          // it came between the earliest and the latest moment that were said
	Warning  bool
	Earliest time.Duration // from the moment of the forecast on
	Latest   time.Duration
}

// Result is what came of it.
type Result struct {
	Limits    conntrack.Limits // when it was full
	Rate      int              // of the flood, packets a second
	Took      time.Duration    // from the flood's first packet to the full table
	Lost      uint64           // drops and early drops by the end
	Forecasts []Forecast       // in the order of time, of all samples that forecast a full table
	Code      int              // exit code
	Fills     []string         // what the report says was added
	Do        []string         // and what it says is to be done
}

// First returns the first forecast that came with a warning.
func (r *Result) First() (Forecast, bool) {
	for _, f := range r.Forecasts {
		if f.Warning {
			return f, true
		}
	}
	return Forecast{}, false
}

const (
	port  = 80
	after = 3 * time.Second // that the look goes on with a full table
)

var spoofed = netip.MustParsePrefix("198.18.0.0/15")

// Run fills a table and returns what was forecast and what happened.
func Run(ctx context.Context, o Options) (r *Result, err error) {
	s, err := build(ctx, lab.Config{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	r = &Result{Rate: o.Rate}
	if err := prepare(ctx, s.c, o, r); err != nil {
		return nil, err
	}
	return r, r.race(ctx, s, o)
}

// site is a gateway, a server behind it that never answers, and a client that floods.
type site struct {
	*lab.Topology
	c *conntrack.Client // of the gateway
}

func build(ctx context.Context, cfg lab.Config) (_ *site, err error) {
	net, err := lab.Standard(ctx, cfg)
	if err != nil {
		return nil, err
	}
	s := &site{Topology: net}
	server := net.Servers[0]
	err = errors.Join(net.Gateway.Forward(port, server), net.Gateway.Route(spoofed, net.Clients[0].Addr4), server.Vanish())
	if err == nil {
		s.c, err = conntrack.Dial(conntrack.Config{NetNS: net.Gateway.NS.Fd()})
	}
	if err != nil {
		return nil, errors.Join(err, net.Close())
	}
	return s, nil
}

func (s *site) close() error { return errors.Join(s.c.Close(), s.Close()) }

// flood begins to fill the table, an entry a packet.
func (s *site) flood(udp bool, rate int) (*lab.Flood, error) {
	return s.Clients[0].Flood(lab.Floods{To: netip.AddrPortFrom(s.Gateway.Public4, port), Sources: spoofed, UDP: udp, Rate: rate})
}

// look runs "flowcut stats" on the gateway and returns its exit code.
func (s *site) look(ctx context.Context, stdout, stderr io.Writer, args ...string) (code int, err error) {
	err = s.Gateway.NS.Do(func() error {
		code = cli.Run(ctx, append([]string{"stats"}, args...), strings.NewReader(""), stdout, stderr)
		return nil
	})
	return code, err
}

// prepare puts as many entries into the table as the flood leaves over.
func prepare(ctx context.Context, c *conntrack.Client, o Options, r *Result) error {
	l, err := c.Limits(ctx)
	if err != nil {
		return err
	}
	room := int(l.Max) - int(l.Count)
	if r.Rate == 0 {
		r.Rate = int(float64(room) / o.FillIn.Seconds())
	}
	left := room - int(float64(r.Rate)*o.FillIn.Seconds())
	_, err = c.CreateAll(ctx, func(yield func(*conntrack.Flow) bool) {
		for i := range max(0, left) {
			f := &conntrack.Flow{
				Has: conntrack.AttrStatus, Status: conntrack.StatusSeenReply | conntrack.StatusAssured, Timeout: time.Hour,
				Orig: conntrack.Tuple{
					Src: netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), Dst: netip.AddrFrom4([4]byte{10, 2, 0, 1}),
					Proto: conntrack.ProtoUDP, SrcPort: uint16(1 + i>>16), DstPort: 53,
				},
			}
			if !yield(f) {
				return
			}
		}
	})
	return err
}

// race lets the flood and "flowcut stats" run side by side.
func (r *Result) race(ctx context.Context, at *site, o Options) error {
	out, in := io.Pipe()
	var errs bytes.Buffer
	args := []string{"--for", (o.FillIn + after).String(), "--every", "200ms"}
	var looks errgroup.Group
	if o.Text != nil {
		looks.Go(func() error {
			_, err := at.look(ctx, o.Text, io.Discard, args...)
			return err
		})
	}
	looks.Go(func() (err error) {
		json := append(slices.Clone(args), "-o", "json")
		if o.SVG != "" {
			json = append(json, "--svg", o.SVG)
		}
		r.Code, err = at.look(ctx, in, &errs, json...)
		return errors.Join(err, in.Close())
	})
	lines := bufio.NewReader(out)
	if _, err := lines.ReadBytes('\n'); err != nil {
		return fmt.Errorf("flowcut stats: %w: %s", err, errs.String())
	}
	begin := time.Now()
	flood, err := at.flood(o.UDP, r.Rate)
	if err != nil {
		return err
	}
	var full time.Time
	looks.Go(func() (err error) {
		full, err = fullAt(ctx, at.c, &r.Limits)
		return err
	})
	said, err := r.read(lines)
	if err := errors.Join(err, looks.Wait(), flood.Stop()); err != nil {
		return err
	}
	r.Took = full.Sub(begin)
	for _, s := range said {
		r.hold(s, full)
	}
	s, err := health.Read(ctx, at.c)
	total := s.Total()
	r.Lost = health.Lost(&total)
	return err
}

// fullAt waits until the table is full or has lost something, and returns when.
func fullAt(ctx context.Context, c *conntrack.Client, l *conntrack.Limits) (time.Time, error) {
	var s health.Sample
	err := lab.Until(ctx, "the table is full", func() (_ bool, err error) {
		s, err = health.Read(ctx, c)
		total := s.Total()
		return s.Count >= s.Max || health.Lost(&total) > 0, err
	})
	*l = s.Limits
	return s.At, err
}

// said is a line of "flowcut stats -o json".
type said struct {
	Type    string    `json:"type"`
	Time    time.Time `json:"time"`
	Warning bool      `json:"warning"`
	Count   uint32    `json:"count"`
	Max     uint32    `json:"max"`
	Outlook struct {
		FullInMS   int64 `json:"full_in_ms"`
		EarliestMS int64 `json:"earliest_ms"`
		LatestMS   int64 `json:"latest_ms"`

		LevelsOffAbout  float64 `json:"levels_off_about"`
		LevelsOffAtMost float64 `json:"levels_off_at_most"`
	} `json:"outlook"`
	Fills *struct {
		Found []string `json:"found"`
		Means string   `json:"means"`
		Do    []string `json:"do"`
	} `json:"fills"`
}

// read reads the lines to the end, and returns those of samples.
func (r *Result) read(lines *bufio.Reader) (samples []said, err error) {
	d := json.NewDecoder(lines)
	for {
		var s said
		switch err := d.Decode(&s); {
		case err == io.EOF:
			return samples, nil
		case err != nil:
			return nil, err
		case s.Type == "sample":
			samples = append(samples, s)
		case s.Fills != nil:
			r.Fills, r.Do = append(s.Fills.Found, s.Fills.Means), s.Fills.Do
		}
	}
}

// hold compares a forecast with what happened.
func (r *Result) hold(s said, at time.Time) {
	if s.Outlook.FullInMS == 0 {
		return
	}
	f := Forecast{
		Ahead: at.Sub(s.Time), Warning: s.Warning,
		Earliest: time.Duration(s.Outlook.EarliestMS) * time.Millisecond, Latest: time.Duration(s.Outlook.LatestMS) * time.Millisecond,
	}
	f.Error = time.Duration(s.Outlook.FullInMS)*time.Millisecond - f.Ahead
	f.InRange = f.Earliest <= f.Ahead && f.Ahead <= f.Latest
	r.Forecasts = append(r.Forecasts, f)
}
