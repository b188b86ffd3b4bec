// Command flowcut shows and ends flows through a Linux gateway.
package main

import (
	"context"
	"os"
	"time"

	"flowcut/internal/cli"
)

// start is what receipts count from: read before main, with the first
// variables of the program.
var start = time.Now()

func main() {
	ctx, stop := cli.NotifySignals(cli.WithStart(context.Background(), start))
	code := cli.Run(ctx, cli.Args(os.Args), os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
