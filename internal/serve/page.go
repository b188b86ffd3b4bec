//go:build linux

package serve

import (
	"bytes"
	"embed"
	"html/template"
	"net/http"
	"os"
	"sync"
)

// files are what the page is made of: no build step, nothing from elsewhere.
//
//go:embed page
var files embed.FS

// pageTemplate is parsed when it is needed: other commands, which have no time to lose,
// start without it.
var pageTemplate = sync.OnceValue(func() *template.Template { return template.Must(template.ParseFS(files, "page/index.html")) })

// page is the page with what is known now; its script keeps it up to date.
func (s *Server) page(w http.ResponseWriter, r *http.Request) {
	s.board.fresh(r.Context())
	var v struct {
		Host, Version string
		Cuts          bool // are allowed
		Table         tableView
		Top           topView
		Receipts      []receiptView
	}
	v.Host, _ = os.Hostname()
	v.Version, v.Cuts, v.Table = s.cfg.Version, s.cuts != nil, s.board.table()
	v.Receipts, v.Top = s.board.latest()
	var b bytes.Buffer
	if err := pageTemplate().Execute(&b, v); err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(b.Bytes()) // who does not read it is gone
}
