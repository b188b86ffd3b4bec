package cli

import (
	"fmt"
	"log/syslog"
	"net"
	"os"
	"os/user"
	"strconv"
	"time"

	"flowcut/cut"
	"flowcut/internal/receipts"
)

// journalPatience is how long telling others of a cut may take in all; a log that
// works takes microseconds.
const journalPatience = 100 * time.Millisecond

// journal tells of a cut in a network namespace: the system log, then the "flowcut
// serve" that shows it, if there is one. fd is 0 for the calling thread's namespace.
func journal(r *cut.Receipt, where string, fd int) {
	deadline, who := time.Now().Add(journalPatience), caller()
	logCut(r, where, who, deadline)
	receipts.Send(fd, who, r, deadline)
}

// logCut writes one line about a cut to the system log. Who ended which flows
// of a gateway is asked later, when the receipt is gone. Without a log, or with
// one that takes no more, there is no line and no error: the cut is done.
func logCut(r *cut.Receipt, where, who string, deadline time.Time) {
	severity := syslog.LOG_NOTICE
	if !r.Proven {
		severity = syslog.LOG_WARNING
	}
	line := fmt.Appendf(nil, "<%d>%s flowcut[%d]: %s\n",
		syslog.LOG_AUTH|severity, time.Now().Format(time.Stamp), os.Getpid(), journalLine(r, where, who))
	// The package's own writer would wait for room without end.
	dialer := net.Dialer{Deadline: deadline}
	for _, kind := range []string{"unixgram", "unix"} {
		c, err := dialer.Dial(kind, "/dev/log")
		if err != nil {
			continue
		}
		if err = c.SetDeadline(deadline); err == nil {
			_, err = c.Write(line)
		}
		_ = c.Close()
		if err == nil {
			return
		}
	}
}

// caller says who runs this: the user, and behind sudo who that was before.
func caller() string {
	id := os.Getuid()
	name := strconv.Itoa(id)
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	s := fmt.Sprintf("user=%s uid=%d", quote(name), id)
	if before := os.Getenv("SUDO_USER"); before != "" {
		s += " sudo_user=" + quote(before)
	}
	return s
}

// journalLine is what the log says of a cut.
func journalLine(r *cut.Receipt, where, who string) string {
	selection := r.Selector
	if selection == "" {
		selection = "--all"
	}
	s := fmt.Sprintf("cut %s selector=%s", who, quote(selection))
	if where != "" {
		s += " netns=" + quote(where)
	}
	s += fmt.Sprintf(" matched=%d deleted=%d spared=%d", r.Flows.Matched, r.Flows.Deleted, r.Flows.Spared)
	if r.Proven {
		s += " proven=yes"
	} else {
		s += " proven=no reason=" + quote(r.Reason)
	}
	return s + fmt.Sprintf(" elapsed=%s", r.ElapsedMS)
}

// quote keeps what others chose, such as a variable, from looking like
// something else in the log, and from filling it.
func quote(s string) string {
	const most = 1000
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strconv.QuoteToASCII(s)
}
