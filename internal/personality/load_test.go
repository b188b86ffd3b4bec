package personality

import "testing"

func BenchmarkReadLine(b *testing.B) {
	s := new(session)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.readLine(`-A -s 10.1.2.3 -d 203.0.113.1 -r 192.168.1.100 -q 10.1.2.3 -p tcp --sport 1024 --dport 443 ` +
			`--reply-port-src 443 --reply-port-dst 1024 --state ESTABLISHED -u SEEN_REPLY,ASSURED -t 3600 -m 5`); err != nil {
			b.Fatal(err)
		}
	}
}
