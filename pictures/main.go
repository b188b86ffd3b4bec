//go:build linux

// Command pictures runs flowcut on live gateways, in a terminal of a fixed size,
// and draws what is on the screen: docs/pictures/NAME.svg for each scene, and the
// page that shows them all.
//
// Needs root. Nothing outside its own network namespaces is touched.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	program := flag.String("flowcut", "flowcut", "the program, as make build makes it")
	dir := flag.String("dir", "docs/pictures", "where the pictures go")
	page := flag.String("page", "docs/pictures.md", "the page that shows all pictures")
	only := flag.String("only", "", "names of the scenes to take, divided by commas; empty: all")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	err := run(ctx, *program, *dir, *page, *only)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "pictures:", err)
		os.Exit(1)
	}
}

// longest is how long a scene may take; most take a second or two.
const longest = 2 * time.Minute

// run takes the pictures, and writes the page even if some could not be taken.
func run(ctx context.Context, program, dir, page, only string) error {
	program, err := filepath.Abs(program)
	if err != nil {
		return err
	}
	list, err := chosen(only)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var errs []error
	for _, s := range list {
		err := s.take(ctx, program, dir)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
		}
		fmt.Println(s.name, said(err))
		if ctx.Err() != nil {
			return errors.Join(errs...)
		}
	}
	return errors.Join(append(errs, os.WriteFile(page, pageOf(scenes, page, dir), 0o644))...)
}

func said(err error) string {
	if err != nil {
		return "failed"
	}
	return "taken"
}

// chosen returns the scenes of a list of names.
func chosen(only string) ([]scene, error) {
	if only == "" {
		return scenes, nil
	}
	var list []scene
	for name := range strings.SplitSeq(only, ",") {
		i := slices.IndexFunc(scenes, func(s scene) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no scene is called %q", name)
		}
		list = append(list, scenes[i])
	}
	return list, nil
}

// take builds a network, plays a scene on it, and writes the picture.
func (s *scene) take(ctx context.Context, program, dir string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	site, err := newSite(ctx, program)
	if err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	defer func() { err = errors.Join(err, site.close()) }()
	if s.prepare != nil {
		if err := s.prepare(ctx, site); err != nil {
			return fmt.Errorf("prepare: %w", err)
		}
	}
	screen, err := s.play(ctx, site)
	if err != nil {
		return err
	}
	svg := draw(s, screen)
	if len(svg) > most {
		return fmt.Errorf("the picture has %d bytes, more than %d", len(svg), most)
	}
	return os.WriteFile(filepath.Join(dir, s.name+".svg"), svg, 0o644)
}

// most is how large a picture may be.
const most = 60_000
