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
	"strings"
	"time"

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
	net, err := lab.Standard(ctx, lab.Config{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, net.Close()) }()
	server := net.Servers[0]
	if err := errors.Join(net.Gateway.Forward(port, server), net.Gateway.Route(spoofed, net.Clients[0].Addr4), server.Vanish()); err != nil {
		return nil, err
	}
	c, err := conntrack.Dial(conntrack.Config{NetNS: net.Gateway.NS.Fd()})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	r = &Result{Rate: o.Rate}
	if err := prepare(ctx, c, o, r); err != nil {
		return nil, err
	}
	return r, r.race(ctx, net, c, o)
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
func (r *Result) race(ctx context.Context, net *lab.Topology, c *conntrack.Client, o Options) error {
	out, in := io.Pipe()
	code := make(chan int, 1)
	var errs bytes.Buffer
	look := func(format string, w, errs io.Writer) (code int) {
		err := net.Gateway.NS.Do(func() error {
			args := []string{"stats", "--for", (o.FillIn + after).String(), "--every", "200ms", "-o", format}
			code = cli.Run(ctx, args, strings.NewReader(""), w, errs)
			return nil
		})
		if err != nil {
			fmt.Fprintln(errs, err)
		}
		return code
	}
	if o.Text != nil {
		go look("text", o.Text, io.Discard)
	}
	go func() {
		code <- look("json", in, &errs)
		_ = in.Close()
	}()
	lines := bufio.NewReader(out)
	if _, err := lines.ReadBytes('\n'); err != nil {
		return fmt.Errorf("flowcut stats: %w: %s", err, errs.String())
	}
	full := make(chan error, 1)
	var at time.Time
	begin := time.Now()
	flood, err := net.Clients[0].Flood(lab.Floods{To: netip.AddrPortFrom(net.Gateway.Public4, port), Sources: spoofed, UDP: o.UDP, Rate: r.Rate})
	if err != nil {
		return err
	}
	go func() {
		var err error
		at, err = fullAt(ctx, c, &r.Limits)
		full <- err
	}()
	said, err := r.read(lines)
	if err := errors.Join(err, <-full, flood.Stop()); err != nil {
		return err
	}
	r.Code, r.Took = <-code, at.Sub(begin)
	for _, s := range said {
		r.hold(s, at)
	}
	s, err := health.Read(ctx, c)
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

	Outlook struct {
		FullInMS   int64 `json:"full_in_ms"`
		EarliestMS int64 `json:"earliest_ms"`
		LatestMS   int64 `json:"latest_ms"`
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
