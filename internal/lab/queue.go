//go:build linux

package lab

import (
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Messages and attributes of nfnetlink_queue, enum nfqnl_msg_types,
// nfqnl_attr_type and nfqnl_attr_config.
const (
	queueSubsystem = 3 << 8         // NFNL_SUBSYS_QUEUE
	queuePacket    = queueSubsystem // and NFQNL_MSG_PACKET, 0
	queueVerdict   = queueSubsystem | 1
	queueConfig    = queueSubsystem | 2

	queueConfigCommand = 1  // NFQA_CFG_CMD
	queueConfigParams  = 2  // NFQA_CFG_PARAMS
	queueConfigLength  = 3  // NFQA_CFG_QUEUE_MAXLEN
	queuePacketHeader  = 1  // NFQA_PACKET_HDR
	queueVerdictHeader = 2  // NFQA_VERDICT_HDR
	queuePayload       = 10 // NFQA_PAYLOAD

	queueBind       = 1 // NFQNL_CFG_CMD_BIND
	queueCopyPacket = 2 // NFQNL_COPY_PACKET
	queueLength     = 1 << 16
	queueAccept     = 1 // NF_ACCEPT
)

// Queue holds the packets that a rule of the host sends to it (NFQUEUE) until
// they are let go. Its methods may be called at once.
type Queue struct {
	host *Host
	num  uint16
	conn *netlink.Conn

	mu      sync.Mutex
	waiting []Held
	open    bool
}

// Held is a packet that waits in a queue.
type Held struct {
	ID     uint32
	Packet []byte // from the IP header on, its first 256 bytes
}

// Queue takes over a queue of the host by its number. It lives as long as the
// lab, or until Close; then the kernel drops what waits.
func (h *Host) Queue(num uint16) (*Queue, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: h.NS.Fd()})
	if err != nil {
		return nil, fmt.Errorf("lab: %s: open queue %d: %w", h.Name, num, err)
	}
	q := &Queue{host: h, num: num, conn: conn}
	const room = 64 << 20 // the kernel drops packets that find none
	if err := conn.SetReadBuffer(room); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("lab: %s: queue %d: %w", h.Name, num, err)
	}
	params := append(binary.BigEndian.AppendUint32(nil, small), queueCopyPacket)
	for _, a := range []netlink.Attribute{
		{Type: queueConfigCommand, Data: []byte{queueBind, 0, 0, 0}},
		{Type: queueConfigParams, Data: params},
		{Type: queueConfigLength, Data: binary.BigEndian.AppendUint32(nil, queueLength)},
	} {
		err := q.say(queueConfig, netlink.Acknowledge, a)
		if err == nil {
			_, err = conn.Receive()
		}
		if err != nil {
			_ = conn.Close()
			return nil, fmt.Errorf("lab: %s: bind queue %d: %w", h.Name, num, err)
		}
	}
	if !h.lab.hold(q) {
		_ = conn.Close()
		return nil, h.lab.ctx.Err()
	}
	h.lab.tasks.Go(q.receive)
	return q, nil
}

// say sends one message about the queue.
func (q *Queue) say(typ netlink.HeaderType, flags netlink.HeaderFlags, a netlink.Attribute) error {
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{a})
	if err != nil {
		return err
	}
	header := binary.BigEndian.AppendUint16([]byte{unix.AF_UNSPEC, 0}, q.num) // struct nfgenmsg
	_, err = q.conn.Send(netlink.Message{
		Header: netlink.Header{Type: typ, Flags: netlink.Request | flags},
		Data:   append(header, attrs...),
	})
	return err
}

// receive takes packets in until the socket is closed.
func (q *Queue) receive() {
	for {
		messages, err := q.conn.Receive()
		if fatal(cause(err)) {
			return
		}
		if err != nil {
			continue // packets that found no room were dropped by the kernel
		}
		for _, m := range messages {
			if h, ok := parseHeld(m); ok {
				q.take(h)
			}
		}
	}
}

func parseHeld(m netlink.Message) (h Held, ok bool) {
	const genmsg = 4
	if m.Header.Type != queuePacket || len(m.Data) < genmsg {
		return h, false
	}
	attrs, err := netlink.UnmarshalAttributes(m.Data[genmsg:])
	if err != nil {
		return h, false
	}
	for _, a := range attrs {
		switch a.Type {
		case queuePacketHeader:
			if ok = len(a.Data) >= 4; ok {
				h.ID = binary.BigEndian.Uint32(a.Data)
			}
		case queuePayload:
			h.Packet = a.Data
		}
	}
	return h, ok
}

func (q *Queue) take(h Held) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, h)
	if q.open {
		_ = q.release() // the socket was closed
	}
}

// release lets go of what waits; the caller has the lock.
func (q *Queue) release() error {
	waiting := q.waiting
	q.waiting = nil
	for _, h := range waiting {
		verdict := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, queueAccept), h.ID)
		if err := q.say(queueVerdict, 0, netlink.Attribute{Type: queueVerdictHeader, Data: verdict}); err != nil {
			return fmt.Errorf("lab: %s: accept from queue %d: %w", q.host.Name, q.num, err)
		}
	}
	return nil
}

// Waiting returns the packets that are held, in the order in which they came.
func (q *Queue) Waiting() []Held {
	q.mu.Lock()
	defer q.mu.Unlock()
	return append([]Held(nil), q.waiting...)
}

// Release accepts all packets that wait. When it returns, they have gone on
// through the rest of the ruleset. What comes later is held.
func (q *Queue) Release() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.release()
}

// Open accepts what waits, and from now on all that comes, at once; Shut ends that.
func (q *Queue) Open() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.open = true
	return q.release()
}

// Shut holds what comes from now on.
func (q *Queue) Shut() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.open = false
}

// Close gives the queue up; what waits is dropped.
func (q *Queue) Close() {
	q.host.lab.release(q)
	q.abort()
}

func (q *Queue) abort() { _ = q.conn.Close() }
