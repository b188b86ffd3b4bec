//go:build linux

package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
)

// handler has all that is served, behind the door.
func (s *Server) handler(ctx context.Context) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.metrics.handler())
	mux.HandleFunc("GET /{$}", s.page)
	mux.HandleFunc("GET /events", s.events)
	for _, name := range []string{"page.css", "page.js", "icon.svg"} {
		mux.HandleFunc("GET /"+name, func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, files, "page/"+name) })
	}
	mux.Handle("POST /cut/plan", s.allowed(func(w http.ResponseWriter, r *http.Request) { s.cuts.plan(ctx, w, r) }))
	mux.Handle("POST /cut", s.allowed(func(w http.ResponseWriter, r *http.Request) { s.cut(ctx, w, r) }))
	return s.door(mux)
}

// policy lets the page load from its own origin alone, run no script that stands in
// it, and be part of no other page.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"

// door turns away whom a browser brings from elsewhere, and tells browsers what the
// page may do.
//
// A name that an attacker lets point to this host's address (DNS rebinding) shows in
// the header Host, which scripts cannot set. A request that another site's page makes
// shows in Origin and Sec-Fetch-Site.
func (s *Server) door(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer s.report(r)
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		switch {
		case !s.named(r):
			refuse(w, http.StatusMisdirectedRequest, "this server is not called that: see --host")
		case fromElsewhere(r):
			refuse(w, http.StatusForbidden, "a page of another origin asks")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// report says where a handler has panicked, and ends the connection.
func (s *Server) report(r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if err, ok := p.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
		s.cfg.Warn(fmt.Sprintf("panic in the answer to %s %s: %v", r.Method, r.URL.Path, p))
		for line := range strings.Lines(string(debug.Stack())) {
			s.cfg.Warn(strings.TrimRight(line, "\n"))
		}
	}
	panic(http.ErrAbortHandler)
}

// named tells whether the server is called what the request calls it: localhost, the
// address that the request has come to, or a name that was given. An address is no
// name that somebody could let point here.
func (s *Server) named(r *http.Request) bool {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if strings.EqualFold(host, "localhost") || slices.ContainsFunc(s.cfg.Hosts, func(n string) bool { return strings.EqualFold(n, host) }) {
		return true
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	local, ok := localAddr(r)
	return ok && local.Addr() == a.Unmap()
}

// localAddr is the address that a request has come to; there is none for a Unix socket.
func localAddr(r *http.Request) (netip.AddrPort, bool) {
	a, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, false
	}
	p := a.AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port()), true
}

// fromElsewhere tells whether a page of another origin makes a browser send the
// request. Following a link to the page is no such thing.
func fromElsewhere(r *http.Request) bool {
	if origin := r.Header.Get("Origin"); origin != "" {
		u, err := url.Parse(origin)
		if err != nil || u.Host == "" || !strings.EqualFold(u.Host, r.Host) {
			return true
		}
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
		return false
	}
	visit := r.Method == http.MethodGet && r.URL.Path == "/" && r.Header.Get("Sec-Fetch-Mode") == "navigate"
	return !visit
}

// allowed lets through who has the token and sends JSON.
func (s *Server) allowed(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.cuts == nil {
			refuse(w, http.StatusForbidden, "this server only reads: no cuts without --allow-cut")
			return
		}
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok || !s.cuts.token.is(token) {
			w.Header().Set("WWW-Authenticate", "Bearer")
			refuse(w, http.StatusUnauthorized, "the token is missing or wrong")
			return
		}
		if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
			refuse(w, http.StatusUnsupportedMediaType, "the content type is not application/json")
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, mostBody)
		next(w, r)
	})
}

// refuse answers with an error.
func refuse(w http.ResponseWriter, code int, what string) { answer(w, code, failure{Error: what}) }

// quiet drops what package net/http would log of clients that misbehave. Panics are
// said by report.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }
