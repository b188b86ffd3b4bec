package nft

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/internal/netns"
	"flowcut/internal/rtnl"
)

// Conn talks to nf_tables in one network namespace. Tables that it makes with
// the owner flag live as long as it is open. It is not safe for concurrent use.
type Conn struct {
	nl     *rtnl.Conn
	broken error
}

// Dial opens a connection in the namespace of a descriptor, 0 for the calling
// thread's.
func Dial(netNS int) (*Conn, error) {
	var nl *rtnl.Conn
	err := netns.DoFd(netNS, func() (err error) {
		nl, err = rtnl.Dial(unix.NETLINK_NETFILTER)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("nft: %w", err)
	}
	nl.SetBuffers(64<<20, 4<<20) // the kernel takes a batch in one send only
	return &Conn{nl: nl}, nil
}

// Close closes the connection; the kernel removes the tables it owns.
func (c *Conn) Close() error { return c.nl.Close() }

// Commit makes the changes of a batch, all or none, and returns when they are
// in force. After an error the connection is of no more use: close it.
func (c *Conn) Commit(b *Batch) error {
	if c.broken != nil {
		return c.broken
	}
	if len(b.msgs) == 0 {
		return nil
	}
	if err := c.commit(b); err != nil {
		if errors.Is(err, unix.ERESTART) {
			err = ErrChanged
		}
		c.broken = fmt.Errorf("nft: commit %d changes: %w", len(b.msgs), err)
	}
	return c.broken
}

func (c *Conn) commit(b *Batch) error {
	msgs := make([]rtnl.Message, 0, len(b.msgs)+2)
	begin := bracket(unix.NFNL_MSG_BATCH_BEGIN)
	if b.Generation != 0 {
		const id = 1 // NFNL_BATCH_GENID
		e := &encoder{b: begin.Body}
		e.u32(id, b.Generation)
		begin.Body = e.b
	}
	msgs = append(append(msgs, begin), b.msgs...)
	// Errors answer by themselves; one more answer tells that all went well.
	msgs[len(msgs)-1].Flags |= unix.NLM_F_ACK
	return c.nl.Batch(append(msgs, bracket(unix.NFNL_MSG_BATCH_END)))
}

func bracket(typ uint16) rtnl.Message {
	return rtnl.Message{Type: typ, Body: []byte{unix.AF_UNSPEC, 0, 0, unix.NFNL_SUBSYS_NFTABLES}} // res_id, big-endian
}

// ErrChanged means that others have changed the ruleset since the generation that
// a batch was meant for. Nothing was done: read, and try again.
var ErrChanged = errors.New("the ruleset has changed meanwhile")

// errInterrupted means that the ruleset changed while it was read.
var errInterrupted = errors.New("ruleset changed while it was read")

// dump asks for many objects and asks again when somebody else's change made
// the answer inconsistent.
func (c *Conn) dump(typ uint16, f Family, fill func(e *encoder)) ([][]byte, error) {
	const tries = 100
	e := &encoder{b: []byte{byte(f), 0, 0, 0}} // struct nfgenmsg
	fill(e)
	for range tries {
		msgs, interrupted, err := c.nl.DumpOnce(unix.NFNL_SUBSYS_NFTABLES<<8|typ, e.b)
		if !interrupted && !errors.Is(err, unix.EINTR) {
			return msgs, err
		}
	}
	return nil, errInterrupted
}

// Member is an element that a set holds.
type Member struct {
	Key     []byte        // parts padded to four bytes; valid until the next step
	Expires time.Duration // time left
	Timed   bool          // it has a time; otherwise it stays
}

// Members returns the elements that are in a set now. While rules add to the
// set, an element may be left out or come twice.
func (c *Conn) Members(t *Table, set string) iter.Seq2[Member, error] {
	return func(yield func(Member, error) bool) {
		msgs, err := c.dump(unix.NFT_MSG_GETSETELEM, t.Family, func(e *encoder) {
			e.str(unix.NFTA_SET_ELEM_LIST_TABLE, t.Name)
			e.str(unix.NFTA_SET_ELEM_LIST_SET, set)
		})
		if err != nil {
			yield(Member{}, fmt.Errorf("nft: list set %s: %w", set, err))
			return
		}
		for _, m := range msgs {
			err := walk(m, unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(elems []byte) error {
				return attrs(elems, func(_ uint16, elem []byte) error {
					member, err := parseMember(elem)
					if err == nil && !yield(member, nil) {
						err = errStop
					}
					return err
				})
			})
			if err != nil {
				if !errors.Is(err, errStop) {
					yield(Member{}, err)
				}
				return
			}
		}
	}
}

var errStop = errors.New("stop")

func parseMember(elem []byte) (m Member, err error) {
	err = attrs(elem, func(typ uint16, v []byte) error {
		switch typ {
		case unix.NFTA_SET_ELEM_KEY:
			return find(v, unix.NFTA_DATA_VALUE, func(v []byte) error { m.Key = v; return nil })
		case unix.NFTA_SET_ELEM_EXPIRATION:
			m.Timed = true
			const most = uint64(math.MaxInt64 / time.Millisecond) // some 300 million years
			m.Expires = time.Duration(min(u64(v), most)) * time.Millisecond
		}
		return nil
	})
	if err != nil {
		return Member{}, err
	}
	return m, nil
}

// walk finds an attribute behind the nfgenmsg of a message.
func walk(data []byte, typ uint16, f func([]byte) error) error {
	if len(data) < 4 {
		return nil
	}
	return find(data[4:], typ, f)
}

func find(b []byte, typ uint16, f func([]byte) error) error {
	return attrs(b, func(t uint16, v []byte) error {
		if t != typ {
			return nil
		}
		return f(v)
	})
}

// Count is what the counter of a rule holds.
type Count struct{ Packets, Bytes uint64 }

// Counts returns the counters of the table's rules by the rules' comments;
// rules with the same comment are added up.
func (c *Conn) Counts(t *Table) (map[string]Count, error) {
	rules, err := c.Rules(t)
	if err != nil {
		return nil, err
	}
	out := map[string]Count{}
	for _, r := range rules {
		sum := out[r.Comment]
		out[r.Comment] = Count{sum.Packets + r.Count.Packets, sum.Bytes + r.Count.Bytes}
	}
	return out, nil
}

// RuleHeader is what the kernel says of a rule, but for its statements.
type RuleHeader struct {
	Chain   string
	Comment string
	Handle  uint64
	Count   Count // zero without a counter
}

// Rules returns the rules of a table, those of a chain in their order; none
// where there is no such table.
func (c *Conn) Rules(t *Table) ([]RuleHeader, error) {
	msgs, err := c.dump(unix.NFT_MSG_GETRULE, t.Family, func(e *encoder) {
		e.str(unix.NFTA_RULE_TABLE, t.Name)
	})
	if err != nil {
		return nil, fmt.Errorf("nft: list rules of %s: %w", t.Name, err)
	}
	var out []RuleHeader
	for _, m := range msgs {
		r, err := parseRule(m)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

func parseRule(data []byte) (r RuleHeader, err error) {
	if len(data) < 4 {
		return r, nil
	}
	err = attrs(data[4:], func(typ uint16, v []byte) error {
		switch typ {
		case unix.NFTA_RULE_CHAIN:
			r.Chain = str(v)
		case unix.NFTA_RULE_HANDLE:
			r.Handle = u64(v)
		case unix.NFTA_RULE_USERDATA:
			if len(v) > 2 && v[0] == 0 {
				r.Comment = str(v[2:])
			}
		case unix.NFTA_RULE_EXPRESSIONS:
			return attrs(v, func(_ uint16, v []byte) error { return parseExpr(v, &r.Count) })
		}
		return nil
	})
	if err != nil {
		return RuleHeader{}, err
	}
	return r, nil
}

// Chains returns the names of a table's chains.
func (c *Conn) Chains(t *Table) ([]string, error) {
	msgs, err := c.dump(unix.NFT_MSG_GETCHAIN, t.Family, func(*encoder) {})
	if err != nil {
		return nil, fmt.Errorf("nft: list chains of %s: %w", t.Name, err)
	}
	var out []string
	for _, m := range msgs {
		var table, name string
		err := attrs(m[min(4, len(m)):], func(typ uint16, v []byte) error {
			switch typ {
			case unix.NFTA_CHAIN_TABLE:
				table = str(v)
			case unix.NFTA_CHAIN_NAME:
				name = str(v)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if table == t.Name {
			out = append(out, name)
		}
	}
	return out, nil
}

func parseExpr(b []byte, n *Count) error {
	var name string
	return attrs(b, func(typ uint16, v []byte) error {
		switch {
		case typ == unix.NFTA_EXPR_NAME:
			name = str(v)
		case typ == unix.NFTA_EXPR_DATA && name == "counter":
			return parseCounter(v, n)
		}
		return nil
	})
}

func parseCounter(b []byte, n *Count) error {
	return attrs(b, func(typ uint16, v []byte) error {
		switch typ {
		case unix.NFTA_COUNTER_BYTES:
			n.Bytes = u64(v)
		case unix.NFTA_COUNTER_PACKETS:
			n.Packets = u64(v)
		}
		return nil
	})
}
