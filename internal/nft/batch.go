package nft

import (
	"golang.org/x/sys/unix"

	"flowcut/internal/rtnl"
)

// Batch is a list of changes that the kernel makes all at once or not at all.
// The zero value is an empty batch.
type Batch struct {
	// Generation is the number of the ruleset that the changes are meant for, as
	// [Conn.Generation] has it. Where that is not the last one any more, Commit
	// returns ErrChanged. 0: whatever it is.
	Generation uint32

	msgs  []rtnl.Message
	setID uint32
}

// Numbers that x/sys/unix lacks.
const (
	tableOwner   = 0x2 // NFT_TABLE_F_OWNER
	setDescAttr  = 9   // NFTA_SET_DESC
	setDescSize  = 1   // NFTA_SET_DESC_SIZE
	maxElemBytes = 60000
)

const (
	create = unix.NLM_F_CREATE | unix.NLM_F_EXCL
	add    = unix.NLM_F_CREATE | unix.NLM_F_APPEND
	remove = 0
)

func (b *Batch) put(typ uint16, f Family, flags uint16, fill func(e *encoder)) {
	e := &encoder{b: []byte{byte(f), 0, 0, 0}} // struct nfgenmsg
	fill(e)
	b.msgs = append(b.msgs, rtnl.Message{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | typ, Flags: flags, Body: e.b})
}

// AddTable makes the table with its sets, chains and rules. One that exists
// already fails the batch.
func (b *Batch) AddTable(t *Table) {
	b.AddEmptyTable(t)
	b.AddAllRules(t)
}

// AddEmptyTable makes the table with its sets and what is in these, and with its
// chains, but without rules.
func (b *Batch) AddEmptyTable(t *Table) {
	b.put(unix.NFT_MSG_NEWTABLE, t.Family, create, func(e *encoder) {
		e.str(unix.NFTA_TABLE_NAME, t.Name)
		if t.Owned {
			e.u32(unix.NFTA_TABLE_FLAGS, tableOwner)
		}
	})
	for _, s := range t.Sets {
		b.AddSet(t, s)
		b.AddElements(t, s.Name, s.Elements)
	}
	for _, c := range t.Chains {
		b.addChain(t, c)
	}
}

// AddAllRules adds the rules of all chains of the table.
func (b *Batch) AddAllRules(t *Table) {
	for _, c := range t.Chains {
		b.AddRules(t, c.Name, c.Rules)
	}
}

// AddSet makes a set in the table.
func (b *Batch) AddSet(t *Table, s *Set) {
	b.setID++
	b.put(unix.NFT_MSG_NEWSET, t.Family, create, func(e *encoder) {
		e.str(unix.NFTA_SET_TABLE, t.Name)
		e.str(unix.NFTA_SET_NAME, s.Name)
		e.u32(unix.NFTA_SET_ID, b.setID)
		var keyType, keyLen uint32
		for _, k := range s.Key {
			keyType = keyType<<6 | k.ID // nft(8) packs the types of a concatenation so
			keyLen += uint32(k.Len+3) &^ 3
		}
		if len(s.Key) == 1 {
			keyLen = uint32(s.Key[0].Len)
		}
		e.u32(unix.NFTA_SET_KEY_TYPE, keyType)
		e.u32(unix.NFTA_SET_KEY_LEN, keyLen)
		e.u32(unix.NFTA_SET_FLAGS, s.flags())
		if s.Size != 0 {
			e.nest(setDescAttr, func() { e.u32(setDescSize, s.Size) })
		}
		if s.Timeout != 0 {
			e.u64(unix.NFTA_SET_TIMEOUT, uint64(s.Timeout.Milliseconds()))
		}
	})
}

func (s *Set) flags() uint32 {
	var f uint32
	if s.Interval {
		f |= unix.NFT_SET_INTERVAL
	}
	if s.Dynamic {
		f |= unix.NFT_SET_EVAL
	}
	if s.timed() {
		f |= unix.NFT_SET_TIMEOUT
	}
	return f
}

// AddElements adds keys to a set of the table; keys it has already stay.
func (b *Batch) AddElements(t *Table, set string, elems []Element) {
	for len(elems) > 0 {
		n := min(len(elems), maxElemBytes/(len(elems[0].Key)+24))
		chunk := elems[:n]
		elems = elems[n:]
		b.put(unix.NFT_MSG_NEWSETELEM, t.Family, unix.NLM_F_CREATE, func(e *encoder) {
			e.str(unix.NFTA_SET_ELEM_LIST_TABLE, t.Name)
			e.str(unix.NFTA_SET_ELEM_LIST_SET, set)
			e.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func() {
				for _, el := range chunk {
					el.append(e)
				}
			})
		})
	}
}

func (el Element) append(e *encoder) {
	e.nest(unix.NFTA_LIST_ELEM, func() {
		e.nest(unix.NFTA_SET_ELEM_KEY, func() { e.bytes(unix.NFTA_DATA_VALUE, el.Key) })
		if el.End {
			e.u32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
		}
		if el.Timeout != 0 {
			e.u64(unix.NFTA_SET_ELEM_TIMEOUT, uint64(el.Timeout.Milliseconds()))
		}
	})
}

func (b *Batch) addChain(t *Table, c *Chain) {
	b.put(unix.NFT_MSG_NEWCHAIN, t.Family, create, func(e *encoder) {
		e.str(unix.NFTA_CHAIN_TABLE, t.Name)
		e.str(unix.NFTA_CHAIN_NAME, c.Name)
		if c.Hook == nil {
			return
		}
		e.nest(unix.NFTA_CHAIN_HOOK, func() {
			e.u32(unix.NFTA_HOOK_HOOKNUM, c.Hook.Num)
			e.u32(unix.NFTA_HOOK_PRIORITY, uint32(c.Hook.Priority))
		})
		var policy uint32 = 1 // NF_ACCEPT
		if c.DropPolicy {
			policy = 0
		}
		e.u32(unix.NFTA_CHAIN_POLICY, policy)
		e.str(unix.NFTA_CHAIN_TYPE, c.Hook.Type)
	})
}

// AddRules appends rules to a chain.
func (b *Batch) AddRules(t *Table, chain string, rules []Rule) {
	for _, r := range rules {
		b.put(unix.NFT_MSG_NEWRULE, t.Family, add, func(e *encoder) {
			e.str(unix.NFTA_RULE_TABLE, t.Name)
			e.str(unix.NFTA_RULE_CHAIN, chain)
			e.nest(unix.NFTA_RULE_EXPRESSIONS, func() {
				for _, s := range r.Statements {
					s.append(e)
				}
			})
			if r.Comment != "" {
				e.bytes(unix.NFTA_RULE_USERDATA, appendComment(nil, r.Comment))
			}
		})
	}
}

// A comment is the first of nft(8)'s records in a rule's user data: type,
// length and a NUL-terminated string.
func appendComment(b []byte, s string) []byte {
	b = append(b, 0, byte(len(s)+1)) // NFTNL_UDATA_RULE_COMMENT
	return append(append(b, s...), 0)
}

// FlushChain removes the rules of a chain; the chain stays.
func (b *Batch) FlushChain(t *Table, chain string) {
	b.put(unix.NFT_MSG_DELRULE, t.Family, remove, func(e *encoder) {
		e.str(unix.NFTA_RULE_TABLE, t.Name)
		e.str(unix.NFTA_RULE_CHAIN, chain)
	})
}

// AddChain makes a chain of the table with its rules.
func (b *Batch) AddChain(t *Table, c *Chain) {
	b.addChain(t, c)
	b.AddRules(t, c.Name, c.Rules)
}

// FlushSet removes what is in a set; the set stays.
func (b *Batch) FlushSet(t *Table, set string) {
	b.put(unix.NFT_MSG_DELSETELEM, t.Family, remove, func(e *encoder) {
		e.str(unix.NFTA_SET_ELEM_LIST_TABLE, t.Name)
		e.str(unix.NFTA_SET_ELEM_LIST_SET, set)
	})
}

// DeleteRule removes one rule of a chain.
func (b *Batch) DeleteRule(t *Table, chain string, handle uint64) {
	b.put(unix.NFT_MSG_DELRULE, t.Family, remove, func(e *encoder) {
		e.str(unix.NFTA_RULE_TABLE, t.Name)
		e.str(unix.NFTA_RULE_CHAIN, chain)
		e.u64(unix.NFTA_RULE_HANDLE, handle)
	})
}

// DeleteChain removes a chain with its rules, to which nothing jumps any more.
// Packets that wait in any NFQUEUE of the namespace are lost if it is a base chain.
func (b *Batch) DeleteChain(t *Table, chain string) {
	b.put(unix.NFT_MSG_DELCHAIN, t.Family, remove, func(e *encoder) {
		e.str(unix.NFTA_CHAIN_TABLE, t.Name)
		e.str(unix.NFTA_CHAIN_NAME, chain)
	})
}

// DeleteSet removes a set that no rule uses any more.
func (b *Batch) DeleteSet(t *Table, set string) {
	b.put(unix.NFT_MSG_DELSET, t.Family, remove, func(e *encoder) {
		e.str(unix.NFTA_SET_TABLE, t.Name)
		e.str(unix.NFTA_SET_NAME, set)
	})
}

// DeleteTable removes the table with all that is in it.
func (b *Batch) DeleteTable(t *Table) {
	b.put(unix.NFT_MSG_DELTABLE, t.Family, remove, func(e *encoder) {
		e.str(unix.NFTA_TABLE_NAME, t.Name)
	})
}
