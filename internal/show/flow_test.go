package show

import (
	"testing"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/example"
)

func TestAppendBytes(t *testing.T) {
	tests := map[uint64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1<<20 - 1: "1.0 MiB", 1 << 20: "1.0 MiB",
		1023 << 10: "1023.0 KiB", 12_900_000: "12.3 MiB", 1 << 40: "1.0 TiB", 1<<64 - 1: "16.0 EiB",
	}
	for n, want := range tests {
		if got := string(AppendBytes(nil, n)); got != want {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
}

func TestAppendDuration(t *testing.T) {
	tests := map[time.Duration]string{
		0: "0s", 999 * time.Millisecond: "0s", 59 * time.Second: "59s", time.Minute: "1m", 61 * time.Second: "1m1s",
		time.Hour: "1h", time.Hour + time.Second: "1h", time.Hour + 61*time.Second: "1h1m",
		5 * 24 * time.Hour: "5d", 5*24*time.Hour - time.Second: "4d23h", 1000 * 24 * time.Hour: "1000d",
	}
	for d, want := range tests {
		if got := string(AppendDuration(nil, d)); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
}

// TestAppendRow holds what a real table does not show reliably: counters,
// ages, offloaded flows, changed ids and keys, names of helpers.
func TestAppendRow(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	counted := conntrack.AttrOrigCounters | conntrack.AttrReplyCounters | conntrack.AttrStart | conntrack.AttrTimeout
	flow := conntrack.Flow{
		Has:          conntrack.AttrTCP | counted,
		Orig:         example.Ports(conntrack.ProtoTCP, "203.0.113.2:1", "203.0.113.1:2"),
		OrigCounters: conntrack.Counters{Packets: 1, Bytes: 1 << 20}, ReplyCounters: conntrack.Counters{Bytes: 1 << 30},
		Start: now.Add(-90 * time.Second), Timeout: 30 * time.Second, Status: conntrack.StatusSeenReply,
		TCP: conntrack.TCP{State: conntrack.TCPCloseWait}, Helper: "ftp", ReplyZone: 3,
	}
	flow.Reply = flow.Orig.Invert()
	tests := []struct {
		change func(*conntrack.Flow)
		want   string
	}{
		{func(*conntrack.Flow) {}, "tcp      CLOSE_WAIT   -             1.0 GiB   1m30s      30s  203.0.113.2:1 -> 203.0.113.1:2  reply-zone 3  helper ftp"},
		{func(f *conntrack.Flow) { f.Status |= conntrack.StatusOffload; f.Has &^= conntrack.AttrTimeout },
			"tcp      OFFLOAD      -             1.0 GiB   1m30s        -  203.0.113.2:1 -> 203.0.113.1:2  reply-zone 3  helper ftp"},
		{func(f *conntrack.Flow) {
			f.Status |= conntrack.StatusOffload | conntrack.StatusHWOffload
			f.Start = now.Add(time.Hour)
		},
			"tcp      HW_OFFLOAD   -             1.0 GiB      0s      30s  203.0.113.2:1 -> 203.0.113.1:2  reply-zone 3  helper ftp"},
		{func(f *conntrack.Flow) {
			f.Reply.SrcPort = 9
			f.OrigCounters.Bytes = 1023 << 40
			f.TCP.OrigFlags, f.TCP.ReplyFlags = 0x0a, 0x2a
		},
			"tcp      CLOSE_WAIT   yes        1023.0 TiB   1m30s      30s  203.0.113.2:1 -> 203.0.113.1:2 => 203.0.113.1:9  reply-zone 3  helper ftp"},
		{func(f *conntrack.Flow) {
			f.Orig, f.Has, f.Helper = example.ICMP(conntrack.ProtoICMP, "10.0.0.1", "10.0.0.2", 13), 0, ""
			f.Reply = f.Orig.Invert()
			f.Reply.ICMPID = 78
			f.Status |= conntrack.StatusAssured
		}, "icmp     ASSURED      -                   -       -        -  10.0.0.1 -> 10.0.0.2 type 13 code 0 id 77 => 78  reply-zone 3"},
		{func(f *conntrack.Flow) {
			f.Orig, f.Has, f.Helper, f.Status = example.Ports(conntrack.ProtoGRE, "10.0.0.1:1", "10.0.0.2:2"), 0, "", 0
			f.Reply = f.Orig.Invert()
			f.Reply.DstPort = 255
		}, "gre      UNREPLIED    -                   -       -        -  10.0.0.1 -> 10.0.0.2 keys 0x1 => 0xff -> 0x2  reply-zone 3"},
	}
	for _, tt := range tests {
		f := flow
		tt.change(&f)
		if got := string(AppendRow(nil, &f, now)); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
}
