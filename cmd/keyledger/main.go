// Command keyledger is an API key ledger: its server and its command line.
package main

import (
	"context"
	"os"

	"github.com/keyledger/keyledger/cmd/cli"
)

// version is set by the linker.
var version = "dev"

func main() {
	os.Exit(cli.Main(context.Background(), cli.Process(version)))
}
