package personality

import (
	"fmt"
	"strings"
)

const commandsHelp = `Commands:
  -L [TABLE]       list entries
  -G [TABLE]       show one entry, named by its tuple
  -D [TABLE]       delete the entries that the options select, all without any
  -I [TABLE]       make an entry
  -A               make an entry, or change the one that is there
  -U               change the entries that the options select
  -E [TABLE]       show what happens to entries, as it happens
  -F [TABLE]       empty the table
  -C [TABLE]       count entries
  -S [TABLE]       show the counters of each processor
  -R FILE          run the -I, -A, -U, -D and -F lines of a file, - for standard input
  -V, -h           show the version, this help; with -p PROTO the protocol's options

Tables: conntrack, expect, dying, unconfirmed

Selecting, or saying what an entry is:
  -s, --src ADDR[/BITS]          source of the original direction; also --orig-src
  -d, --dst ADDR[/BITS]          its destination; also --orig-dst
  -r, --reply-src ADDR           source of the reply direction
  -q, --reply-dst ADDR           its destination
  --mask-src, --mask-dst ADDR    which bits of --src and --dst count
  -p, --protonum PROTO           protocol, by name or number; adds its options
  -f, --family ipv4|ipv6         family of addresses
  -n, --src-nat [ADDR[:PORT]]    source translated
  -g, --dst-nat [ADDR[:PORT]]    destination translated
  -j, --any-nat [ADDR[:PORT]]    either
  -m, --mark MARK[/MASK]         connection mark
  -u, --status STATUS[,...]      ASSURED, SEEN_REPLY, UNREPLIED, FIXED_TIMEOUT,
                                 EXPECTED, OFFLOAD, HW_OFFLOAD; ! in front: not so
  -w, --zone ZONE                zone; also --orig-zone, --reply-zone
  -l, --label LABEL[,...]        labels
  -i, --id ID                    id
  -t, --timeout SECONDS          time until the entry expires

Changing:
  --label-add LABEL[,...]        add labels
  --label-del [LABEL[,...]]      take labels away, all without a value

Expectations:
  --tuple-src, --tuple-dst ADDR  addresses of the flow that is expected

Showing:
  -o, --output FORM[,...]        xml, extended, timestamp, id, ktimestamp, labels,
                                 userspace, save
  -e, --event-mask KIND[,...]    ALL, NEW, UPDATES, DESTROY
  -b, --buffer-size BYTES        room for events that wait to be shown
  -z, --zero                     zero the counters while listing
  --labelmap FILE                file with the names of labels
`

// help is -h, and what is shown without a command.
func (s *session) help(l *line) error {
	b := fmt.Appendf(s.buf[:0], `Shows and changes the connection tracking table. Version %s (flowcut%s)
Usage: conntrack [COMMAND] [OPTIONS]

%s`, version, suffix(s.config.Version), commandsHelp)
	if l.proto != nil {
		b = fmt.Appendf(b, "\nProto `%s' help:\n", l.proto.name)
		for _, o := range l.proto.options {
			names := append([]string{o.name}, o.aliases...)
			b = fmt.Appendf(b, "  --%s\n", strings.Join(names, ", --"))
		}
		if len(l.proto.options) == 0 {
			b = fmt.Append(b, "  no options\n")
		}
	}
	_, err := s.out.Write(b)
	return err
}

// version is -V. Scripts look for this line.
func (s *session) version(*line) error {
	return s.print(fmt.Appendf(s.buf[:0], "conntrack v%s (conntrack-tools)", version))
}
