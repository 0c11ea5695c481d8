package cli

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/cmd/serve"
)

func (a *app) ownerCommand() *cobra.Command {
	return a.under("owner", "Get back into an installation",
		"Get back into an installation whose owner's key is lost, or known to others.",
		a.ownerResetCommand())
}

func (a *app) ownerResetCommand() *cobra.Command {
	var cfg serve.OwnerConfig
	c := &cobra.Command{
		Use: "reset", Short: "Make a new owner's key", Args: takes(),
		Long: `Make a new owner's key for the installation, and write it to a file. It takes no
key, but the rights of whoever runs the broker: the data folder of a server that
is stopped, or with --nats credentials of the cluster, where servers may go on.

The ledger remembers it, with the reason, as every other change. Interrupted, it
goes on when it is run again. With --revoke-others all other owner's keys of the
installation end for ever.`,
		Example: `  keyledger owner reset --reason "nobody has the key any more"
  keyledger owner reset --nats nats://n1:4222 --nats-creds operator.creds \
    --revoke-others --reason "owner key leaked"`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Logger = slog.New(slog.NewTextHandler(a.env.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
			settleReplicas(cmd, &cfg.Cluster)
			if err := cfg.Validate(); err != nil {
				return usage(serveFault(err), "")
			}
			question := "Make a new owner's key?"
			if cfg.RevokeOthers {
				question = "Make a new owner's key, and revoke all other owner's keys of the installation, for ever?"
			}
			if err := a.confirm(cmd, question); err != nil {
				return err
			}
			reset, err := serve.ResetOwner(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			return a.tellReset(reset)
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Data, "data", "./data", "`folder` of a server that is stopped; with --nats, the folder for the key")
	clusterFlags(c, &cfg.Cluster, "the cluster's `addresses`, where the ledger lies on one")
	f.StringVar(&cfg.Out, "out", "", "`file` for the key (default: owner.key in the data folder)")
	f.BoolVar(&cfg.RevokeOthers, "revoke-others", false, "revoke all other owner's keys of the installation")
	f.StringVar(&cfg.Reason, "reason", "", "`why`, for the ledger")
	a.yesFlag(c)
	a.out.flags(f)
	return c
}

// tellReset says where the new key is, and never the key.
func (a *app) tellReset(reset serve.OwnerReset) error {
	revoked := make([]string, len(reset.Revoked))
	for i, id := range reset.Revoked {
		revoked[i] = id.String()
	}
	var text strings.Builder
	fmt.Fprintf(&text, "The installation has a new owner, key %s, in %s.\n", reset.Owner, reset.Path)
	if reset.Kept != "" {
		fmt.Fprintf(&text, "The key that was there is in %s.\n", reset.Kept)
	}
	if n := len(revoked); n > 0 {
		fmt.Fprintf(&text, "Revoked %s:\n  %s\n", plural(n, "other owner's key"), strings.Join(revoked, "\n  "))
	}
	fmt.Fprintf(&text, "\n  export KEYLEDGER_KEY=$(cat %s)", shellQuote(filepath.ToSlash(reset.Path)))
	return a.out.done(map[string]any{
		"ledger": reset.Ledger.String(), "owner": reset.Owner.String(), "owner_key": reset.Path, "kept": reset.Kept, "revoked": revoked,
	}, reset.Owner.String(), "%s", text.String())
}
