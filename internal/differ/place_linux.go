package differ

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"time"

	"flowcut/conntrack"
	"flowcut/internal/netns"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// place is a network namespace with its own /etc, on a thread of its own.
// What is started there is inside of both.
type place struct {
	ns     *netns.NS
	client *conntrack.Client
	jobs   chan func()
	ended  chan struct{}
	ftp    *ftp
}

// newPlace makes a place whose /etc is the directory etc.
func newPlace(etc string) (*place, error) {
	p := &place{jobs: make(chan func()), ended: make(chan struct{})}
	ready := make(chan error)
	go p.live(etc, ready)
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("differ: make a place: %w", err)
	}
	var err error
	if p.client, err = conntrack.Dial(conntrack.Config{NetNS: p.ns.Fd()}); err == nil {
		err = p.do(p.settle)
	}
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

// live is the place's thread. It never goes home: it ends with the place.
func (p *place) live(etc string, ready chan<- error) {
	defer close(p.ended)
	runtime.LockOSThread()
	err := enter(etc)
	if err == nil {
		p.ns, err = netns.Open("/proc/thread-self/ns/net")
	}
	ready <- err
	if err != nil {
		return
	}
	for job := range p.jobs {
		job()
	}
}

// enter takes the calling thread into new namespaces.
func enter(etc string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts private: %w", err)
	}
	if err := unix.Mount(etc, "/etc", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s at /etc: %w", etc, err)
	}
	return nil
}

// do runs f on the place's thread.
func (p *place) do(f func() error) error {
	done := make(chan error)
	p.jobs <- func() { done <- f() }
	return <-done
}

// close ends the place.
func (p *place) close() error {
	var errs []error
	if p.ftp != nil {
		p.ftp.close()
	}
	if p.client != nil {
		errs = append(errs, p.client.Close())
	}
	close(p.jobs)
	<-p.ended
	return errors.Join(append(errs, p.ns.Close())...)
}

// ruleset switches connection tracking on, gives room for labels, and has the
// FTP helper watch the usual port.
const ruleset = `
table inet differ {
	ct helper ftp4 { type "ftp" protocol tcp; l3proto ip; }
	ct helper ftp6 { type "ftp" protocol tcp; l3proto ip6; }
	chain out {
		type filter hook output priority -150;
		ct state invalid counter
		meta mark 99 ct label set 127
		ip protocol tcp tcp dport 21 ct helper set "ftp4"
		ip6 nexthdr tcp tcp dport 21 ct helper set "ftp6"
	}
}`

// settle makes the namespace usable.
func (p *place) settle() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	nft := exec.Command("nft", "-f", "-")
	nft.Stdin = bytes.NewBufferString(ruleset)
	if out, err := nft.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, out)
	}
	for _, kv := range [][2]string{
		{"nf_conntrack_udp_timeout", "900"},
		{"nf_conntrack_udp_timeout_stream", "900"},
	} {
		if err := sysctl(kv[0], kv[1]); err != nil {
			return err
		}
	}
	p.ftp, err = listenFTP()
	return err
}

// sysctl sets a value of connection tracking in the calling thread's namespace.
func sysctl(key, value string) error {
	if err := os.WriteFile("/proc/sys/net/netfilter/"+key, []byte(value), 0); err != nil {
		return fmt.Errorf("set %s: %w", key, err)
	}
	return nil
}

// patience is how long one command may take.
const patience = 10 * time.Second

// start starts a program in the place, under the name of conntrack. Call it
// in do.
func start(ctx context.Context, path string, words []string, stdin string, stdout, stderr *bytes.Buffer) (*exec.Cmd, error) {
	cmd := exec.CommandContext(ctx, path, words...)
	cmd.Args[0] = "conntrack"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TZ=UTC", "LC_ALL=C"}
	if stdin != "" {
		cmd.Stdin = bytes.NewBufferString(stdin)
	}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.WaitDelay = time.Second // for what it may have started itself
	return cmd, cmd.Start()
}

// run runs a program to its end in the place.
func (p *place) run(ctx context.Context, path string, words []string, stdin string) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var stdout, stderr bytes.Buffer
	var cmd *exec.Cmd
	err := p.do(func() (err error) {
		cmd, err = start(ctx, path, words, stdin, &stdout, &stderr)
		return err
	})
	if err != nil {
		return outcome{}, err
	}
	err = cmd.Wait()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return outcome{}, err
	}
	return outcome{code: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}, nil
}
