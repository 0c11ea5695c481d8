package cli

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/cmd/serve"
)

func (a *app) serveCommand() *cobra.Command {
	var cfg serve.Config
	c := &cobra.Command{
		Use: "serve", Short: "Run the server, all of it in one process",
		Long: `Run the server: the HTTP API and verification, with the ledger's broker in the
same process and everything it keeps in one folder.

In an empty folder it begins a ledger, writes the owner's key into the folder
and says where. When it answers it prints one line, ready. SIGTERM and Ctrl-C
let it finish what it has taken on; then it exits with 0.

Listening beyond this machine needs TLS, or --insecure-http where something in
front of it terminates TLS. It logs to standard error; on a terminal only what
needs attention.`,
		Example: `  keyledger serve
  keyledger serve --listen 127.0.0.1:9090 --data /var/lib/keyledger
  keyledger serve --listen :8443 --tls-cert server.pem --tls-key server.key`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Out, cfg.Version = a.env.Stdout, a.env.Version
			options := &slog.HandlerOptions{Level: slog.LevelInfo}
			if a.out.errTerminal {
				options.Level = slog.LevelWarn
			}
			cfg.Logger = slog.New(slog.NewTextHandler(a.env.Stderr, options))
			began := ""
			cfg.Began = func(path string) { began = path }
			cfg.Ready = func(string) {
				if began != "" {
					a.tellOwner(began)
				}
			}
			if err := cfg.Validate(); err != nil {
				return usage(serveFault(err), "")
			}
			return serve.Run(cmd.Context(), cfg)
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Listen, "listen", "127.0.0.1:8080", "`address` to serve HTTP on; port 0 takes any that is free")
	f.StringVar(&cfg.Data, "data", "./data", "`folder` for the ledger, the views and the keys")
	f.StringVar(&cfg.TLSCert, "tls-cert", "", "`file` with the certificate, PEM")
	f.StringVar(&cfg.TLSKey, "tls-key", "", "`file` with the certificate's key, PEM")
	f.BoolVar(&cfg.InsecureHTTP, "insecure-http", false, "listen beyond this machine without TLS")
	return c
}

// tellOwner says where the owner's key is and how to use it, and never the key:
// output ends up in logs.
func (a *app) tellOwner(path string) {
	fmt.Fprintf(a.env.Stderr, `
A new ledger. Its owner's key is in %s; to use it:

  export KEYLEDGER_KEY=$(cat %s)

`, path, shellQuote(filepath.ToSlash(path)))
}

// serveFault writes the faults of a server's configuration on one line.
func serveFault(err error) string {
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) {
		return strip(err)
	}
	text := ""
	for i, e := range joined.Unwrap() {
		if i > 0 {
			text += "; "
		}
		text += strip(e)
	}
	return text
}

var plainPath = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// shellQuote writes a path so that it can be pasted into a shell.
func shellQuote(path string) string {
	if plainPath.MatchString(path) {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}
