package cli

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"strings"
	"time"

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

With --nats the ledger lies on a cluster of NATS servers instead, where
keyledger init has begun it. Any number of servers run side by side on one
cluster; each has a folder of its own, which may be empty at first, and the
installation key that init wrote.

Listening beyond this machine needs TLS, or --insecure-http where something in
front of it terminates TLS. It logs to standard error; on a terminal only what
needs attention.`,
		Example: `  keyledger serve
  keyledger serve --listen 127.0.0.1:9090 --data /var/lib/keyledger
  keyledger serve --listen :8443 --tls-cert server.pem --tls-key server.key
  keyledger serve --nats nats://n1:4222,nats://n2:4222,nats://n3:4222 \
    --nats-creds server.creds --installation-key installation.key`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Out, cfg.Version, cfg.Logger = a.env.Stdout, a.env.Version, a.logger()
			// What is on by default is not what was asked for.
			if cfg.Cluster.URL != "" && !cmd.Flags().Changed("nats-listen") {
				cfg.NATSListen = ""
			}
			settleReplicas(cmd, &cfg.Cluster)
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
	f.StringVar(&cfg.GRPCListen, "grpc-listen", "", "`address` or unix:PATH where gateways ask for verdicts over gRPC, as Envoy does (ext_authz)")
	f.StringVar(&cfg.Data, "data", "./data", "`folder` for the ledger, the views and the keys")
	f.StringVar(&cfg.TLSCert, "tls-cert", "", "`file` with the certificate, PEM")
	f.StringVar(&cfg.TLSKey, "tls-key", "", "`file` with the certificate's key, PEM")
	f.BoolVar(&cfg.InsecureHTTP, "insecure-http", false, "listen for HTTP beyond this machine without TLS")
	f.StringVar(&cfg.NATSListen, "nats-listen", "127.0.0.1:4222", "`address` where the embedded broker takes verifiers, subscribers and auditors; \"\" for nobody")
	f.Lookup("nats-listen").Annotations = map[string][]string{emptyFlag: nil}
	f.BoolVar(&cfg.RecordClientIP, "record-client-ip", false, "record with every use the address of the client, as callers and gateways tell it; it is personal data")
	f.StringVar((*string)(&cfg.AccessRetention), "access-retention", "", "`period` for which it is kept who read the audit log, could not log in or was refused, such as 90d, 1y or never (default 400d; on a cluster what its stream says)")
	f.StringVar((*string)(&cfg.UsesRetention), "uses-retention", "", "`period` for which single uses are kept at most, such as 90d, 1y or never; counts outlive them (default never)")
	f.DurationVar(&cfg.SnapshotEvery, "snapshot-every", 10*time.Minute, "`time` after which it is looked again whether verifiers need a newer snapshot to start from; 0 for never")
	providerFlags(c, &cfg.Providers)
	clusterFlags(c, &cfg.Cluster, "use the cluster at these `addresses` instead of the embedded broker")
	f.StringVar(&cfg.InstallationKey, "installation-key", "", "`file` with the installation key (default: installation.key in the data folder)")
	f.StringSliceVar(&cfg.KEKs, "kek", nil, "a `key` that customers' provider keys are kept with, file:PATH, env:NAME or kms:unix:///PATH; the first wraps, others only open; none for no provider keys (default: provider.kek in the data folder)")
	f.BoolVar(&cfg.KEKLost, "kek-lost", false, "start though no key opens the provider keys there are: they are lost until each is replaced")
	return c
}

// providerFlags say how AI providers are asked.
func providerFlags(c *cobra.Command, p *serve.Providers) {
	f := c.Flags()
	f.StringArrayVar(&p.Models, "provider-models", nil, "`models` that customers' keys of an AI provider must reach, such as openai=gpt-4o,gpt-4o-mini; once for each provider")
	f.StringArrayVar(&p.Endpoints, "provider-endpoint", nil, "`address` to ask a provider at instead of its own, such as openai=https://llm.example.com/v1; once for each")
	f.StringSliceVar(&p.Allow, "provider-allow", nil, "`hosts`, addresses or networks that customers may name though they are not public, such as llm.internal:8443,10.1.0.0/16")
	f.StringVar(&p.CA, "provider-ca", "", "`file` with authorities that certificates of providers are checked by beside the system's, PEM")
}

// clusterFlags are the flags of a command that works on a cluster.
func clusterFlags(c *cobra.Command, cluster *serve.Cluster, what string) {
	f := c.Flags()
	f.StringVar(&cluster.URL, "nats", "", what+", separated by commas")
	f.StringVar(&cluster.Creds, "nats-creds", "", "`file` with the credentials for the cluster")
	f.StringVar(&cluster.CA, "nats-ca", "", "`file` with the authorities that the cluster's certificates are checked by, PEM")
	f.IntVar(&cluster.Replicas, "replicas", 3, "on how many of the cluster's nodes each stream lies: 1, 3 or 5")
}

// settleReplicas forgets the default where there is no cluster.
func settleReplicas(cmd *cobra.Command, cluster *serve.Cluster) {
	if cluster.URL == "" && !cmd.Flags().Changed("replicas") {
		cluster.Replicas = 0
	}
}

// logger logs to standard error; on a terminal only what needs attention.
func (a *app) logger() *slog.Logger {
	options := &slog.HandlerOptions{Level: slog.LevelInfo}
	if a.out.errTerminal {
		options.Level = slog.LevelWarn
	}
	return slog.New(slog.NewTextHandler(a.env.Stderr, options))
}

// tellOwner says where the owner's key is and how to use it, and never the key:
// output ends up in logs.
func (a *app) tellOwner(path string) {
	fmt.Fprintf(a.env.Stderr, `
A new ledger. Its owner's key is in %s; to use it:

  export KEYLEDGER_KEY=$(cat %s)

`, path, shellQuote(filepath.ToSlash(path)))
}

// serveFault writes the faults of a configuration on one line.
func serveFault(err error) string {
	joined, ok := err.(interface{ Unwrap() []error }) //nolint:errorlint // its parts, and not those of one of them
	if !ok {
		return strip(err)
	}
	var faults []string
	for _, e := range joined.Unwrap() {
		faults = append(faults, serveFault(e))
	}
	return strings.Join(faults, "; ")
}

var plainPath = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// shellQuote writes a path so that it can be pasted into a shell.
func shellQuote(path string) string {
	if plainPath.MatchString(path) {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}
