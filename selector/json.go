package selector

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
)

// ParseJSON reads a selector from a JSON object such as
// {"host": ["192.0.2.1", "192.0.2.7"], "proto": "tcp", "!dport": 22}.
//
// A key is the long name of a flag, or another name that the flag has; a ! in
// front of it negates all of the value. A value is a string or a number as the
// flag takes it, true for a flag that needs no value, or a list of these. An
// empty list of addresses is one that no address is in. As for [Parse], files
// named by @FILE are read, and nothing else.
//
// Errors are of type *Error.
func ParseJSON(b []byte) (Selector, error) {
	return new(Flags).ParseJSON(b, nil)
}

// ParseJSON reads a selector from a JSON object, see [ParseJSON]. The rest is
// as for Selector.
func (f *Flags) ParseJSON(b []byte, stdin io.Reader) (Selector, error) {
	r := objectReader{dec: json.NewDecoder(bytes.NewReader(b))}
	r.dec.UseNumber()
	if err := r.object(f); err != nil {
		return Selector{}, err
	}
	return f.Selector(stdin)
}

// UnmarshalJSON reads what [ParseJSON] does, and refuses @FILE.
func (s *Selector) UnmarshalJSON(b []byte) error {
	parsed, err := (&Flags{noFiles: true}).ParseJSON(b, nil)
	if err == nil {
		*s = parsed
	}
	return err
}

// MarshalJSON returns the selector as [ParseJSON] takes it, with the keys in a
// fixed order. One that Mirror made from targets of a translation is an error,
// since nothing can ask for it.
func (s Selector) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i := range conditions {
		c := &conditions[i]
		l, set := c.format(&s)
		if !set {
			continue
		}
		key, value := c.name, l.value(c)
		if l.negated {
			key = "!" + key
		}
		if len(l.items) > 0 && strings.HasPrefix(l.items[0], reversedTarget) {
			return nil, &Error{Flag: c.name, Problem: "the mirror of a target cannot be written"}
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		text, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		b = append(append(append(b, '"'), key...), `":`...)
		b = append(b, text...)
	}
	return append(b, '}'), nil
}

// value returns a list as the value of a key.
func (l *list) value(c *condition) any {
	switch {
	case len(l.items) != 1:
		return l.items
	case l.items[0] == c.bare:
		return true
	case l.items[0] == emptyFile:
		return []string{}
	}
	return l.items[0]
}

// objectReader reads a JSON object into flags.
type objectReader struct{ dec *json.Decoder }

const (
	hintKey    = "write the long name of a flag of the selection without dashes, such as host or proto, and ! in front to negate it"
	hintObject = `write one object a line, such as {"host": "192.0.2.1", "proto": "tcp"}`
	hintValue  = "write a string, a number, or a list of these"
)

// object reads all there is: one object.
func (r *objectReader) object(f *Flags) error {
	if t, err := r.token(); err != nil || t != json.Delim('{') {
		return noObject(err)
	}
	for {
		t, err := r.token()
		if err != nil {
			return noObject(err)
		}
		key, isKey := t.(string)
		if !isKey {
			break // the closing brace
		}
		if err := r.member(f, key); err != nil {
			return err
		}
	}
	if _, err := r.dec.Token(); !errors.Is(err, io.EOF) {
		return noObject(errors.New("something stands behind it"))
	}
	return nil
}

// token returns the next token, of which there must be one.
func (r *objectReader) token() (json.Token, error) {
	t, err := r.dec.Token()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return t, err
}

// noObject returns an Error about the JSON itself.
func noObject(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("it ends too early")
	}
	return &Error{Problem: "not a JSON object", Hint: hintObject, Err: err}
}

// member reads the value of a key into flags.
func (r *objectReader) member(f *Flags, key string) error {
	name, negated := strings.CutPrefix(key, "!")
	c := conditionOf(name)
	if c == nil {
		return &Error{Value: key, Problem: "unknown key", Hint: hintKey}
	}
	if slices.ContainsFunc(f.words, func(w word) bool { return w.cond == c }) {
		return &Error{Value: key, Problem: "a second key for --" + c.name, Hint: "give all values in one list, of one key"}
	}
	items, err := r.value(c)
	if bad, ok := errors.AsType[*Error](err); ok {
		bad.Value = key
		return bad
	}
	if err != nil {
		return noObject(err)
	}
	value := strings.Join(items, ",")
	if negated {
		value = "!" + value
	}
	f.words = append(f.words, word{c, value})
	return nil
}

// conditionOf returns the condition with a name, nil if there is none.
func conditionOf(name string) *condition {
	for i := range conditions {
		if c := &conditions[i]; c.name == name || slices.Contains(c.aliases, name) {
			return c
		}
	}
	return nil
}

// value reads the value of a condition's key.
func (r *objectReader) value(c *condition) ([]string, error) {
	t, err := r.token()
	if err != nil {
		return nil, err
	}
	if t != json.Delim('[') {
		item, err := scalar(c, t)
		return []string{item}, err
	}
	var items []string
	for {
		t, err := r.token()
		if err != nil {
			return nil, err
		}
		if t == json.Delim(']') {
			break
		}
		item, err := scalar(c, t)
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	}
	switch {
	case len(items) > 0:
	case strings.HasPrefix(c.arg, argAddr):
		items = []string{emptyFile}
	default:
		return nil, wrong("", "an empty list", "give a value, or leave the key out")
	}
	return items, nil
}

// scalar returns a value that is no list as the flag takes it.
func scalar(c *condition, t json.Token) (string, error) {
	switch v := t.(type) {
	case string:
		if strings.HasPrefix(strings.TrimSpace(v), "!") {
			return "", wrong("", "a ! in the value", "put it in front of the key")
		}
		return v, nil
	case json.Number:
		return v.String(), nil
	case bool:
		if v && c.bare != "" {
			return c.bare, nil
		}
		if c.bare != "" {
			return "", wrong("", "false says nothing", "leave the key out, or write \"!"+c.name+"\": true")
		}
		return "", wrong("", "this needs more than true or false", hintValue)
	case nil:
		return "", wrong("", "null is no value", "leave the key out, or give a value")
	}
	return "", wrong("", "an object or a list inside the value", hintValue)
}
