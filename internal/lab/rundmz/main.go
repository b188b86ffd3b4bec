//go:build linux

// Command rundmz turns a DMZ off under load, runs a command on its gateway that
// is to end what goes on all the same, and exits with 1 unless that holds: the
// command ends with 0 and prints a receipt that says proven, all ends are reset,
// nothing is transferred any more, a bystander goes on, and the gateway's rules
// are as before.
//
//	rundmz COMMAND [ARG]...
//
// The command, say "flowcut cut -g -r 192.168.1.100 -o json", may be one in a
// chroot or of another user.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"flowcut/cut"
	"flowcut/internal/lab"
)

const (
	port  = 5201
	limit = 2 * time.Minute
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: rundmz COMMAND [ARG]...")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, limit)
	err := run(ctx, os.Args[1:])
	cancel()
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "rundmz: %v\n", err)
		os.Exit(1)
	}
}

// run builds the network, and closes it.
func run(ctx context.Context, command []string) (err error) {
	net, err := lab.Standard(ctx, lab.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, net.Close()) }()
	ends, bystander, err := load(ctx, net)
	if err != nil {
		return err
	}
	before, err := ruleset(net.Gateway.Host)
	if err != nil {
		return err
	}
	if err := receipt(ctx, net.Gateway.Host, command); err != nil {
		return err
	}
	after, err := ruleset(net.Gateway.Host)
	if err != nil {
		return err
	}
	if after != before {
		return fmt.Errorf("rules before:\n%s\nafter:\n%s", before, after)
	}
	return judge(ctx, ends, bystander)
}

// load makes downloads and idle connections through the DMZ, turns it off, and
// returns both ends of each. A bystander downloads from another server.
func load(ctx context.Context, net *lab.Topology) (ends, bystander lab.Ends, err error) {
	client := net.Clients[0]
	for n, server := range net.Servers {
		at := port + uint16(n)
		if _, err := server.Listen(at); err != nil {
			return nil, nil, err
		}
		if err := net.Gateway.Forward(at, server); err != nil {
			return nil, nil, err
		}
	}
	dial := func(kind lab.Kind, server int, count int) lab.Ends {
		var made lab.Ends
		if err == nil {
			to := net.To(client, net.Servers[server], port+uint16(server), false)
			made, err = client.Dial(ctx, lab.Streams{Kind: kind, To: to, Count: count})
		}
		return made
	}
	busy, idle := dial(lab.Download, 0, 4), dial(lab.Idle, 0, 20)
	bystander = dial(lab.Download, 1, 1)
	if err != nil {
		return nil, nil, err
	}
	if err := busy.WaitReceived(ctx, 16<<20); err != nil {
		return nil, nil, err
	}
	for _, e := range [][]*lab.End{busy, busy.Peers(), idle, idle.Peers()} {
		ends = append(ends, e...)
	}
	return ends, bystander, net.Gateway.Unforward(port)
}

// receipt runs the command on the gateway and reads what it prints.
func receipt(ctx context.Context, gateway *lab.Host, command []string) error {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	if err := gateway.NS.Do(cmd.Start); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w\n%s", command[0], err, &out)
	}
	var r cut.Receipt
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		return fmt.Errorf("read the receipt: %w\n%s", err, &out)
	}
	if !r.Proven || !r.Final {
		return fmt.Errorf("not proven: %s", &out)
	}
	fmt.Printf("rundmz: %d flows ended for good, %d ends confirmed dead\n", r.Flows.Deleted, r.Endpoints.Dead)
	return nil
}

// judge holds the ends to what they were told and to silence.
func judge(ctx context.Context, ends, bystander lab.Ends) error {
	if err := ends.WaitTold(ctx); err != nil {
		return err
	}
	if n := ends.Told(unix.ECONNRESET); n != len(ends) {
		return fmt.Errorf("%d of %d ends were reset", n, len(ends))
	}
	received, was := ends.Received(), bystander.Received()
	// The bystander's progress is the clock: what it can transfer meanwhile, the others could, too.
	if err := bystander.WaitReceived(ctx, was+64<<20); err != nil {
		return fmt.Errorf("the bystander: %w", err)
	}
	if n := ends.Received() - received; n > 0 {
		return fmt.Errorf("%d bytes were received after the cut", n)
	}
	return nil
}

func ruleset(h *lab.Host) (string, error) {
	var out []byte
	err := h.NS.Do(func() (err error) {
		out, err = exec.Command("nft", "--stateless", "list", "ruleset").CombinedOutput()
		return err
	})
	if err != nil {
		return "", fmt.Errorf("nft list ruleset: %w\n%s", err, out)
	}
	return string(out), nil
}
