package demo

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// table prints one line a method.
func table(w io.Writer, results []result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "METHOD\tENTRIES DELETED\tBYTES AFTER THE RULE\tSILENT AFTER\tCAME BACK\tTOLD: CLIENTS\tSERVERS\tIDLE STILL OPEN\tBYSTANDERS HURT")
	for _, r := range results {
		all := streams + idles
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d of %d\t%d of %d\t%d of %d\t%s\n",
			r.name, r.deleted, size(r.bytes), r.silence(), r.returned(),
			r.clientsTold, all, r.serversTold, all, r.idleOpen, idles, r.harm())
	}
	return t.Flush()
}

// silence says when the downloads fell silent for good.
func (r result) silence() string {
	if !r.silent {
		return "never"
	}
	return r.last.Round(time.Millisecond / 10).String()
}

func (r result) returned() string {
	if r.silent {
		return "no"
	}
	return "yes, " + gbit(r.rate)
}

func (r result) harm() string {
	return fmt.Sprintf("%d of %d connections, %d of %d datagrams", r.broken, r.bystanders, r.lost, r.datagrams)
}

func gbit(rate float64) string { return fmt.Sprintf("%.1f Gbit/s", rate/1e9) }

// size writes a number of bytes for reading.
func size(n uint64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%d B", n)
}
