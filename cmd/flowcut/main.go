// Command flowcut shows and ends flows through a Linux gateway.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"flowcut/internal/cli"
	"flowcut/internal/privilege"
)

// start is what receipts count from: read before main, with the first
// variables of the program.
var start = time.Now()

func main() {
	ctx, stop := cli.NotifySignals(cli.WithStart(context.Background(), start))
	args := cli.Args(os.Args)
	if !cli.BuildsNetworks(args) {
		if err := privilege.Drop(); err != nil {
			fmt.Fprintf(os.Stderr, "flowcut: going on with more rights than are needed: %v\n", err)
		}
	}
	code := cli.Run(ctx, args, os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
