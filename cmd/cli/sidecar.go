package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/cmd/access"
	"github.com/keyledger/keyledger/cmd/sidecar"
	"github.com/keyledger/keyledger/verify"
)

func (a *app) sidecarCommand() *cobra.Command {
	cfg := sidecar.Config{SocketMode: 0o660, WhenStale: verify.Deny, Uses: verify.Buffered}
	var orgs string
	c := &cobra.Command{
		Use: "sidecar --nats URL --nats-creds FILE", Short: "Run a verifier next to an application",
		Long: `Run a verifier next to an application. It follows the ledger by a credential of
its own, which keyledger nats-auth verifier writes, and answers from its own
memory: over HTTP, on unix sockets, and to gateways over gRPC. Whoever reaches it
may ask; it takes no management key.

It knows how stale it is. Past --max-staleness it denies with STALE, whatever cut
it off, so that a revoked key is never accepted for longer. Three switches take
that bound away, wholly or for some keys: --when-stale serve,
--offline-start-max-age, and --when-stale ask for what the server answers.

When it can give verdicts it prints one line, ready. SIGTERM and Ctrl-C let it
answer what it was asked and store the uses it holds; then it exits with 0.`,
		Example: `  keyledger sidecar --nats nats://127.0.0.1:4222 \
    --nats-creds data/creds/sidecar.creds
  keyledger sidecar --nats tls://n1:4222 --nats-creds edge-1.creds \
    --listen 127.0.0.1:8081 --listen unix:/run/keyledger/sidecar.sock \
    --log-vkey "$(cat log.vkey)" --snapshot-dir /var/lib/keyledger-sidecar`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if cfg.Organizations, err = access.ParseOrganizations(orgs); err != nil {
				return usage("--orgs is a list of organization ids, such as acme,globex", "")
			}
			cfg.Out, cfg.Version, cfg.Logger = a.env.Stdout, a.env.Version, a.logger()
			if err := cfg.Validate(); err != nil {
				return usage(serveFault(err), "")
			}
			return sidecar.Run(cmd.Context(), cfg)
		},
	}
	sidecarDoors(c, &cfg)
	sidecarLedger(c, &cfg, &orgs)
	return c
}

// sidecarDoors are the flags of where and how questions come in.
func sidecarDoors(c *cobra.Command, cfg *sidecar.Config) {
	f := c.Flags()
	f.StringSliceVar(&cfg.Listen, "listen", []string{"127.0.0.1:8081"}, "`addresses` to serve HTTP on, host:port or unix:PATH, separated by commas or one each time")
	f.StringSliceVar(&cfg.GRPCListen, "grpc-listen", nil, "`addresses` where gateways ask over gRPC, as Envoy does (ext_authz), host:port or unix:PATH")
	f.Var(&octal{&cfg.SocketMode}, "socket-mode", "`mode` of unix sockets: who may connect may ask")
	f.StringVar(&cfg.TLSCert, "tls-cert", "", "`file` with the certificate, PEM; unix sockets speak in clear")
	f.StringVar(&cfg.TLSKey, "tls-key", "", "`file` with the certificate's key, PEM")
	f.BoolVar(&cfg.InsecureHTTP, "insecure-http", false, "listen beyond this machine without TLS, and ask a server over http")
	f.BoolVar(&cfg.RecordClientIP, "record-client-ip", false, "record with every use the address of the client, as callers and gateways tell it; it is personal data")
}

// sidecarLedger are the flags of what verdicts rest on, and what is recorded of them.
func sidecarLedger(c *cobra.Command, cfg *sidecar.Config, orgs *string) {
	f := c.Flags()
	f.StringVar(&cfg.Nodes.URL, "nats", "", "`addresses` of the broker, separated by commas")
	f.StringVar(&cfg.Nodes.Creds, "nats-creds", "", "`file` with the credentials of a verifier")
	f.StringVar(&cfg.Nodes.CA, "nats-ca", "", "`file` with the authorities that the broker's certificates are checked by, PEM")
	f.StringVar(orgs, "orgs", "", "`organizations` that the credentials must be narrowed to, separated by commas (default: what they show)")
	f.StringSliceVar(&cfg.LogKeys, "log-vkey", nil, "verifier `keys` of the installation, from log.vkey or /log/vkey: only what they signed counts")
	f.DurationVar(&cfg.MaxStaleness, "max-staleness", verify.DefaultMaxStaleness, "past this `time` without proof that no event is missing verdicts are STALE; the credentials' own bound counts where it is smaller")
	f.DurationVar(&cfg.MaxWait, "max-wait", verify.DefaultMaxWait, "longest `time` that a question waits for its at_least")
	f.Var(&choice[verify.WhenStale]{&cfg.WhenStale, whenStale}, "when-stale", "`what` becomes of questions then: deny, serve (no bound holds) or ask (the server, its bound holds)")
	f.StringVar(&cfg.Server, "server", "", "`URL` of the server to ask about keys not known here while stale")
	f.StringVar(&cfg.ServerKeyFile, "server-key-file", "", "`file` with a management key of the role verifier, for --server")
	f.StringVar(&cfg.ServerCA, "server-ca", "", "`file` with the authorities that the server's certificate is checked by, PEM (default: the system's)")
	f.Var(&choice[verify.Durability]{&cfg.Uses, durabilities}, "uses", "`when` a verdict is given: buffered (its use is stored soon) or durable (it is stored)")
	f.IntVar(&cfg.UsesBuffer, "uses-buffer", 0, "how many uses are held at most that are not stored yet (default 65536)")
	f.StringVar(&cfg.SnapshotDir, "snapshot-dir", "", "`folder` for snapshots of the index, to start from")
	f.DurationVar(&cfg.SnapshotEvery, "snapshot-every", verify.DefaultSnapshotEvery, "`time` between two snapshots; 0 saves one at the end only")
	f.DurationVar(&cfg.OfflineStartMaxAge, "offline-start-max-age", 0, "without a broker, answer from a snapshot until its last event is older than this `time`; no bound holds (default 0: never)")
	f.DurationVar(&cfg.StartJitter, "start-jitter", verify.DefaultStartJitter, "wait up to this `time` before a snapshot is fetched from the broker")
}

var (
	whenStale    = []named[verify.WhenStale]{{"deny", verify.Deny}, {"serve", verify.Serve}, {"ask", verify.Ask}}
	durabilities = []named[verify.Durability]{{"buffered", verify.Buffered}, {"durable", verify.Durable}}
)

// named is a value of a flag with its name.
type named[T comparable] struct {
	name  string
	value T
}

// choice is a flag that takes one of a few names.
type choice[T comparable] struct {
	value *T
	of    []named[T]
}

func (c *choice[T]) Type() string { return "string" }

func (c *choice[T]) String() string {
	for _, n := range c.of {
		if n.value == *c.value {
			return n.name
		}
	}
	return ""
}

func (c *choice[T]) Set(text string) error {
	names := ""
	for i, n := range c.of {
		if n.name == text {
			*c.value = n.value
			return nil
		}
		switch {
		case i == len(c.of)-1:
			names += " or "
		case i > 0:
			names += ", "
		}
		names += n.name
	}
	return fmt.Errorf("%q is not %s", text, names)
}

// octal is a flag that takes a file's mode.
type octal struct{ mode *fs.FileMode }

func (o *octal) Type() string { return "string" }

func (o *octal) String() string { return fmt.Sprintf("%04o", *o.mode) }

func (o *octal) Set(text string) error {
	mode, err := strconv.ParseUint(text, 8, 9)
	if err != nil {
		return errors.New("must be a file's mode, such as 0660")
	}
	*o.mode = fs.FileMode(mode)
	return nil
}
