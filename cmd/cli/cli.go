package cli

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Env is all that a command sees of the world around it.
type Env struct {
	// Args are the arguments after the program's name.
	Args []string
	// Stdin, Stdout and Stderr are the standard streams. Colours, widths and
	// questions are for those that are a terminal.
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	// LookupEnv looks up a variable of the environment, and tells whether it is set.
	LookupEnv func(string) (string, bool)
	// Version is the program's.
	Version string
}

// Process is the environment of this process.
func Process(version string) Env {
	return Env{
		Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		LookupEnv: os.LookupEnv, Version: version,
	}
}

// getenv looks up a variable of the environment, "" when it is not set.
func (e Env) getenv(name string) string {
	text, _ := e.LookupEnv(name)
	return text
}

// The exit codes.
const (
	exitYes   = 0 // done, or the answer is yes
	exitFault = 1 // could not
	exitUsage = 2 // the command was not understood
	exitNo    = 3 // the answer is no
)

// Main runs one command and returns the exit code of the process.
func Main(ctx context.Context, env Env) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends at once what takes too long to end well.
	context.AfterFunc(ctx, stop)
	a := newApp(env)
	cmd, err := a.root.ExecuteContextC(ctx)
	return a.conclude(ctx, cmd, err)
}

// app is one command being run.
type app struct {
	env  Env
	root *cobra.Command
	out  *printer
	// settings are where every setting came from, once a command runs.
	settings settings
	// link are the flags with which a command finds its server.
	link linkFlags
}

func newApp(env Env) *app {
	a := &app{env: env, out: newPrinter(env)}
	// Commands stand in the order of use, and not of the alphabet.
	cobra.EnableCommandSorting = false
	a.root = a.rootCommand()
	a.root.SetArgs(env.Args)
	a.root.SetIn(env.Stdin)
	a.root.SetOut(env.Stdout)
	a.root.SetErr(env.Stderr)
	return a
}
