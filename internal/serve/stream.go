//go:build linux

package serve

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// hub tells all pages that are open what changes, as server-sent events.
type hub struct {
	mu      sync.Mutex
	streams map[chan []byte]struct{}
	last    map[string][]byte // what was told last, by the event's name
	wanted  chan struct{}     // somebody looks who did not before
	ended   bool
}

func newHub() *hub {
	return &hub{streams: map[chan []byte]struct{}{}, last: map[string][]byte{}, wanted: make(chan struct{}, 1)}
}

// backlog is how many events a client may be behind. One that takes no more is
// dropped: the page comes back by itself and begins with the latest of each.
const backlog = 16

// want asks for what is told rarely.
func (h *hub) want() {
	select {
	case h.wanted <- struct{}{}:
	default:
	}
}

// len is the number of pages that are open.
func (h *hub) len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.streams)
}

// join begins a stream, with the latest of each event; nil if there are too many.
func (h *hub) join() chan []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended || len(h.streams) >= mostStreams {
		return nil
	}
	c := make(chan []byte, backlog)
	for _, frame := range h.last {
		c <- frame
	}
	h.streams[c] = struct{}{}
	h.want()
	return c
}

// leave ends a stream.
func (h *hub) leave(c chan []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drop(c)
}

// drop ends a stream; h.mu is held.
func (h *hub) drop(c chan []byte) {
	if _, ok := h.streams[c]; ok {
		delete(h.streams, c)
		close(c)
	}
}

// tell sends an event to all pages.
func (h *hub) tell(event string, v any) {
	data, err := json.Marshal(v) // which has no line ends
	if err != nil {
		panic(err) // none of our types does
	}
	frame := fmt.Appendf(nil, "event: %s\ndata: %s\n\n", event, bytes.TrimSpace(data))
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last[event] = frame
	for c := range h.streams {
		select {
		case c <- frame:
		default:
			h.drop(c)
		}
	}
}

// end ends all streams, and lets no other begin.
func (h *hub) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
	for c := range h.streams {
		h.drop(c)
	}
}

// events is the stream of a page.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	frames := s.hub.join()
	if frames == nil {
		refuse(w, http.StatusServiceUnavailable, fmt.Sprintf("%d pages are open already", mostStreams))
		return
	}
	defer s.hub.leave(frames)
	out := http.NewResponseController(w)
	_ = out.SetReadDeadline(time.Time{}) // the request is read; the stream has no end
	w.Header().Set("Content-Type", "text/event-stream")
	for {
		select {
		case <-r.Context().Done():
			return
		case frame, more := <-frames:
			if !more || out.SetWriteDeadline(time.Now().Add(timeForFrame)) != nil {
				return
			}
			if _, err := w.Write(frame); err != nil || out.Flush() != nil {
				return
			}
		}
	}
}
