//go:build linux

package main

import "context"

// scene is one picture: what is done on which gateway, and when it is taken.
type scene struct {
	name          string // of the command, and of the file
	says          string // what is to be seen, for who cannot see it, and for the page
	columns, rows int    // of the terminal; empty rows at the end are left out of the picture
	line          string // that is run on the gateway, by sh
	prepare       func(context.Context, *site) error
	steps         []step // in order; after the last the picture is taken. None: when the line has ended
	code          int    // that a line without steps ends with
}

// step waits for something on the screen, and then does something.
type step struct {
	see  string // a part of a row; "" for nothing
	keys string // are typed
	do   func(context.Context, *site) error
}

// scenes are all pictures there are.
var scenes = []scene{
	{
		name: "list", columns: 124, rows: 20, line: "flowcut list",
		says: "The flows of a gateway as a table: protocol, state, whether it is picked up, bytes, age, time left, and who sends to whom with what translation makes of each end.",
	},
	{
		name: "cut", columns: 100, rows: 20, line: "flowcut cut -g -r 192.168.1.100", prepare: forwardOff,
		says: "The receipt of a cut of all flows that were forwarded to a server: proven, what was matched and deleted, that the ends are dead by their own word, and how long each step took.",
	},
	{
		name: "watch", columns: 172, rows: 24, line: "flowcut watch -p tcp --dport 5201", prepare: reconnecting,
		says:  "Events as they come, while somebody deletes the entries of connections that go on: they come back picked up, in the other direction, and are marked as returned with their earlier life.",
		steps: []step{{see: "new", do: cutOff}, {see: "RETURNED"}},
	},
	{
		name: "top", columns: 100, rows: 24, line: "flowcut top",
		says:  "Flows live on a terminal, those first that are fastest; two are marked, to be cut together.",
		steps: []step{{see: "192.168.1.100"}, {see: "iB/s", keys: "  "}, {see: "2 marked"}}, // rates are known after the second look
	},
	{
		name: "explain", columns: 92, rows: 60, line: "flowcut explain --picked-up --max 1", prepare: deleted,
		says: "A flow in plain words: one that came back after its entry was deleted, what is translated, where it is in its life, how long it is kept and by which sysctl, why it is picked up, and the command that ends it.",
	},
	{
		name: "stats", columns: 100, rows: 40, line: "flowcut stats",
		says: "How full the table is, how it changes, the counters of the processors in words, and the top talkers.",
	},
	{
		name: "bypass", columns: 112, rows: 20, line: "flowcut bypass list", prepare: ran("flowcut bypass add -p udp --dport 53 --dst 203.0.113.1 --for 10m"),
		says: "Queries to the gateway, taken out of connection tracking for ten minutes.",
	},
	{
		name: "doctor", columns: 82, rows: 120, line: "flowcut doctor",
		says: "What doctor finds on a gateway: the verdict, then a line a check with what it means and what to do.",
	},
}
