package cli

import (
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/cmd/serve"
)

func (a *app) initCommand() *cobra.Command {
	var cfg serve.InitConfig
	c := &cobra.Command{
		Use: "init", Short: "Begin an installation on a cluster, once",
		Long: `Begin an installation on a cluster of NATS servers: make its streams, append its
first events, and write its keys into a folder. It is done once. Interrupted, it
goes on when it is run again with the same folder; run once more after that it
changes nothing; run from another folder it refuses.

The credentials must be allowed to make streams. Servers need less, and should
be given less.`,
		Example: `  keyledger init --nats nats://n1:4222,nats://n2:4222,nats://n3:4222 \
    --nats-creds operator.creds --data ./data`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Logger = slog.New(slog.NewTextHandler(a.env.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
			settleReplicas(cmd, &cfg.Cluster)
			if err := cfg.Validate(); err != nil {
				return usage(serveFault(err), "")
			}
			begun, err := serve.Init(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			return a.tellBegun(cfg, begun)
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Data, "data", "./data", "`folder` for the keys")
	clusterFlags(c, &cfg.Cluster, "the cluster's `addresses`")
	f.StringVar(&cfg.InstallationKey, "installation-key", "", "`file` with the installation key, made unless it is there (default: installation.key in the data folder)")
	f.StringSliceVar(&cfg.KEKs, "kek", nil, "the `key` that customers' provider keys are kept with; file:PATH is made unless it is there (default: provider.kek in the data folder)")
	a.out.flags(f)
	return c
}

// tellBegun says what to do next: where the keys are, and never a key.
func (a *app) tellBegun(cfg serve.InitConfig, begun serve.Begun) error {
	answer := map[string]any{
		"ledger": begun.Ledger.String(), "again": begun.Again, "owner_key": begun.Owner,
		"installation_key": begun.InstallationKey, "verifier_key": begun.VerifierKey,
		"key_encryption_key": begun.KEK,
	}
	what := "A new ledger, " + begun.Ledger.String() + "."
	if begun.Again {
		what = "This ledger, " + begun.Ledger.String() + ", has begun already, from this folder; nothing was changed."
	}
	path := func(p string) string { return shellQuote(filepath.ToSlash(p)) }
	files := [][2]string{
		{path(begun.Owner), "opens everything: keep it safe"},
		{path(begun.InstallationKey), "every server needs it; without it the cluster's files open nothing"},
	}
	give, kek := "the installation key", ""
	if begun.KEK != "" {
		files = append(files, [2]string{path(begun.KEK), "opens customers' provider keys, on every server: keep it apart from backups"})
		give, kek = give+", the key-encryption key", " --kek file:"+path(begun.KEK)
	}
	files = append(files, [2]string{path(begun.VerifierKey), "what its signatures are checked with: give it to auditors"})
	text := fmt.Sprintf(`%s

%s

Give each server %s and server.creds, and start it:

  keyledger serve --nats %s --nats-creds server.creds \
    --replicas %d --installation-key %s%s --data ./data

Then use the ledger:

  export KEYLEDGER_KEY=$(cat %s)`,
		what, sideBySide(files), give, shellQuote(cfg.Cluster.Shown()), cfg.Cluster.Replicas, path(begun.InstallationKey), kek, path(begun.Owner))
	return a.out.done(answer, begun.Ledger.String(), "%s", text)
}
