//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
)

// pageOf returns the page in Markdown: each picture that there is, with what it shows
// and the command that made it.
func pageOf(list []scene, page, dir string) []byte {
	var b bytes.Buffer
	b.WriteString(`# Pictures

Each is a command on the gateway of a live lab, in a terminal of a fixed size; ` + "`make pictures`" + ` takes them all again.
The text in them is text: it can be selected and read aloud.
`)
	for i := range list {
		s := &list[i]
		file := filepath.Join(dir, s.name+".svg")
		if _, err := os.Stat(file); err != nil {
			continue // it was never taken
		}
		if r, err := filepath.Rel(filepath.Dir(page), file); err == nil {
			file = r
		}
		fmt.Fprintf(&b, "\n## flowcut %s\n\n%s\n\n    %s\n\n![%s](%s)\n", s.name, s.says, s.line, s.line, file)
	}
	return b.Bytes()
}
