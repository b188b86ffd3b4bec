package selector

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseJSON(t *testing.T) {
	path := writeFile(t, "list", "10.0.0.5\n")
	tests := []struct{ in, want string }{
		{`{}`, ""},
		{" {\t} \r\n", ""},
		{`{"host": "192.0.2.1"}`, "--host 192.0.2.1"},
		{`{"host": ["192.0.2.1", "2001:db8::/32", "192.0.2.7,192.0.2.9"], "proto": "tcp"}`, "--proto tcp --host 192.0.2.1,192.0.2.7,192.0.2.9,2001:db8::/32"},
		{`{"!host": ["192.0.2.1", "192.0.2.7"]}`, "! --host 192.0.2.1,192.0.2.7"},
		{`{"src": "10.0.0.1", "dst": "10.0.0.2", "sport": 80, "dport": [443, "8000-8080"], "protonum": 6}`,
			"--proto tcp --orig-src 10.0.0.1 --orig-dst 10.0.0.2 --orig-port-src 80 --orig-port-dst 443,8000-8080"},
		{`{"dst-nat": true, "!src-nat": true, "any-nat": ["10.0.0.1:80", "[2001:db8::1]:80"]}`, "--dst-nat ! --src-nat --any-nat=10.0.0.1:80,[2001:db8::1]:80"},
		{`{"picked-up": true}`, "--picked-up"},
		{`{"!picked-up": true}`, "! --picked-up"},
		{`{"picked-up": "no"}`, "! --picked-up"},
		{`{"mark": "0x10/0xf0", "zone": 3, "id": [1, 4294967295], "label": [0, 127], "family": "ipv4"}`,
			"--family ipv4 --mark 0x10/0xf0 --label 0,127 --zone 3 --id 1,4294967295"},
		{`{"status": ["ASSURED", "unreplied"], "!state": "ESTABLISHED"}`, "--status ASSURED,UNREPLIED ! --state ESTABLISHED"},
		{`{"host": []}`, "--host @/dev/null"},
		{`{"!host": []}`, "! --host @/dev/null"},
		{`{"host": "@` + path + `"}`, "--host 10.0.0.5"},
		{`{"h\u006fst": "10.0.0.\u0031"}`, "--host 10.0.0.1"},
	}
	for _, tt := range tests {
		s, err := ParseJSON([]byte(tt.in))
		if err != nil || s.String() != tt.want {
			t.Errorf("%s:\n got %s, %v\nwant %s", tt.in, s, err, tt.want)
		}
	}
}

func TestParseJSONErrors(t *testing.T) {
	tests := []struct{ in, want string }{
		{``, "not a JSON object: it ends too early"},
		{`[]`, "not a JSON object"},
		{`null`, "not a JSON object"},
		{`"host"`, "not a JSON object"},
		{`{"host": "10.0.0.1"`, "it ends too early"},
		{`{"host": ["10.0.0.1"`, "it ends too early"},
		{`{"host": "10.0.0.1",}`, "not a JSON object"},
		{`{"host": ["10.0.0.1",]}`, "not a JSON object"},
		{`{"host" "10.0.0.1"}`, "not a JSON object"},
		{`{host: "10.0.0.1"}`, "not a JSON object"},
		{`{"host": "10.0.0.1"} x`, "something stands behind it"},
		{`{"host": "10.0.0.1"}{}`, "something stands behind it"},
		{`{"host": "10.0.0.1"}}`, "something stands behind it"},
		{`{"host": "10.0.0.1"} null`, "something stands behind it"},
		{`{"hosts": "10.0.0.1"}`, "hosts: unknown key: write the long name"},
		{`{"Host": "10.0.0.1"}`, "Host: unknown key"},
		{`{"--host": "10.0.0.1"}`, "--host: unknown key: write the long name of a flag of the selection without dashes"},
		{`{"s": "10.0.0.1"}`, "s: unknown key"},
		{`{"!!host": "10.0.0.1"}`, "!!host: unknown key"},
		{`{"": "10.0.0.1"}`, "unknown key"},
		{`{"settle": "3s"}`, "settle: unknown key"},
		{`{"host": "10.0.0.1", "host": "10.0.0.2"}`, "host: a second key for --host: give all values in one list"},
		{`{"src": "10.0.0.1", "orig-src": "10.0.0.2"}`, "orig-src: a second key for --orig-src"},
		{`{"host": "10.0.0.1", "!host": "10.0.0.2"}`, "!host: a second key for --host"},
		{`{"host": null}`, "host: null is no value"},
		{`{"host": [null]}`, "host: null is no value"},
		{`{"host": {}}`, "host: an object or a list inside the value"},
		{`{"host": [["10.0.0.1"]]}`, "host: an object or a list inside the value"},
		{`{"host": true}`, "host: this needs more than true or false"},
		{`{"dst-nat": false}`, `dst-nat: false says nothing: leave the key out, or write "!dst-nat": true`},
		{`{"dst-nat": [true, "10.0.0.1"]}`, "given both with and without an address"},
		{`{"host": "!10.0.0.1"}`, "host: a ! in the value: put it in front of the key"},
		{`{"!host": " ! 10.0.0.1"}`, "!host: a ! in the value"},
		{`{"host": ["10.0.0.1", "!10.0.0.2"]}`, "host: a ! in the value"},
		{`{"host": ""}`, "--host: empty value"},
		{`{"host": ["10.0.0.1", ""]}`, "an empty place in the list"},
		{`{"dport": []}`, "dport: an empty list"},
		{`{"host": 10}`, "--host 10: not an address"},
		{`{"dport": 65536}`, "--orig-port-dst 65536: out of range"},
		{`{"dport": -1}`, "--orig-port-dst -1: "},
		{`{"dport": 80.0}`, "--orig-port-dst 80.0: not a port"},
		{`{"dport": 1e2}`, "--orig-port-dst 1e2: not a port"},
		{`{"host": "@-"}`, "there is no standard input here"},
		{`{"!family": "ipv4"}`, "cannot be negated"},
		{`{"proto": "icmp", "dport": 80}`, "icmp has no ports"},
	}
	for _, tt := range tests {
		s, err := ParseJSON([]byte(tt.in))
		if _, ok := errors.AsType[*Error](err); !ok || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s:\n got %v\nwant %s", tt.in, err, tt.want)
		}
		if d := cmp.Diff(Selector{}, s, cmpAddr); d != "" {
			t.Errorf("%s: a value and an error:\n%s", tt.in, d)
		}
	}
}

func TestMarshalJSON(t *testing.T) {
	tests := []struct{ in, want string }{
		{"", `{}`},
		{"--host 10.0.0.1,10.0.0.3 -p tcp ! --dport 22", `{"proto":"tcp","host":["10.0.0.1","10.0.0.3"],"!orig-port-dst":"22"}`},
		{"-g ! -n -j 10.0.0.1 --picked-up", `{"dst-nat":true,"!src-nat":true,"any-nat":"10.0.0.1","picked-up":true}`},
		{"-s @/dev/null ! -d @/dev/null", `{"orig-src":[],"!orig-dst":[]}`},
	}
	for _, tt := range tests {
		b, err := json.Marshal(mustParse(t, tt.in))
		if err != nil || string(b) != tt.want {
			t.Errorf("%s:\n got %s, %v\nwant %s", tt.in, b, err, tt.want)
		}
	}
	if b, err := json.Marshal(mustParse(t, "-g 10.0.0.1").Mirror()); err == nil {
		t.Errorf("the mirror of a target: %s", b)
	}
	if b, err := json.Marshal(Selector{OrigSrcPort: Ports{Set: true}}); err != nil || string(b) != `{"orig-port-src":[]}` {
		t.Errorf("no ports: %s, %v", b, err)
	}
	path := writeFile(t, "list", "10.0.0.5\n")
	s := mustParse(t, "-g")
	if err := json.Unmarshal([]byte(`{"host": "@`+path+`"}`), &s); err == nil || s.String() != "--dst-nat" {
		t.Errorf("unmarshal has read a file: %s, %v", s, err)
	}
}

// checkJSON holds a selector to what is read of its own JSON.
func checkJSON(t *testing.T, s Selector) {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	again, err := ParseJSON(b)
	if err != nil {
		t.Fatalf("%s: its own JSON %s is refused: %v", s, b, err)
	}
	var third Selector
	if err := json.Unmarshal(b, &third); err != nil {
		t.Fatalf("%s: its own JSON %s is refused: %v", s, b, err)
	}
	for _, other := range []Selector{again, third} {
		if d := cmp.Diff(s, other, cmpAddr); d != "" {
			t.Fatalf("%s: read again from %s it differs:\n%s", s, b, d)
		}
	}
}

func TestJSONRandom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 3000 {
		if s, err := Parse(randomArgs(r)); err == nil {
			checkJSON(t, s)
		}
	}
}

func FuzzParseJSON(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"host": "192.0.2.1"}`, `{"!src": ["10.0.0.0/8", "2001:db8::1-2001:db8::9"], "dport": [80, "443-500"], "proto": "tcp"}`,
		`{"dst-nat": true, "!src-nat": "[2001:db8::1]:80", "picked-up": "no", "mark": "1/3", "label": 3, "zone": [1,2], "id": 7}`,
		`{"host": []}`, `{"host": null}`, `{"host": {"a": 1}} x`, `{"status": ["ASSURED"], "!state": "CLOSE", "family": "ipv6"}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := (&Flags{noFiles: true}).ParseJSON([]byte(text), nil)
		if err == nil {
			if !json.Valid([]byte(text)) {
				t.Fatalf("%q is no JSON", text)
			}
			checkJSON(t, s)
			return
		}
		checkError(t, s, err)
	})
}
