package cli

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/cmd/access"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/jetstream"
)

func (a *app) natsAuthCommand() *cobra.Command {
	return a.under("nats-auth", "Let verifiers, subscribers and auditors in at the broker",
		`Let programs in at the broker, and shut them out again. Each gets credentials of
its own: by them it reads what it may, as one consumer that was made for it, and
reaches nothing else. Who was let in is an event of the ledger.

The embedded broker is reached by its server's data folder, whether the server
runs, with --nats-listen, or is stopped. A cluster is reached by --nats, with the
folder that nats-auth operator made.`,
		a.natsAuthOperatorCommand(),
		a.natsAuthIssueCommand(events.CredentialVerifier, "Issue credentials for a verifier",
			`A verifier, such as a sidecar, reads the ledger to answer for keys by itself, and
records its own uses. Narrowed to organizations, it reads no other organization's
events.`),
		a.natsAuthIssueCommand(events.CredentialSubscriber, "Issue credentials for a subscriber",
			`A subscriber is told of revocations, each until it has said that it dealt with it.
It reads nothing else, and writes nothing.`),
		a.natsAuthIssueCommand(events.CredentialAuditor, "Issue credentials for an auditor",
			`An auditor reads every event and every use, and writes nothing.`),
		a.natsAuthMirrorCommand(), a.natsAuthMirrorsCommand(), a.natsAuthLeafCommand(),
		a.natsAuthListCommand(), a.natsAuthRevokeCommand(), a.natsAuthHealCommand())
}

func (a *app) natsAuthOperatorCommand() *cobra.Command {
	var out string
	var nodes []string
	c := &cobra.Command{
		Use: "operator --out DIR", Short: "Make a cluster's root of trust, once", Args: takes(),
		Long: `Make a cluster's root of trust in a folder: what the nodes' conf includes, and
the credentials of those who run the installation. Who has the folder can let
anybody in: keep it where keys are kept. --nodes are the addresses where the nodes
take each other (NATS_CLUSTER_LISTEN), and not those of clients.

It is made once. Run again, it leaves every key as it is, finishes what was
interrupted, brings auth.conf to what this version needs, and with --nodes writes
cluster.conf anew.`,
		Example: `  keyledger nats-auth operator --out auth --nodes n1:6222,n2:6222,n3:6222`,
		RunE: func(*cobra.Command, []string) error {
			if out == "" {
				return usage("--out is needed: the folder for the root of trust", "")
			}
			// Before anything is made.
			if err := credentials.CheckNodes(nodes); err != nil {
				return usage("--nodes: "+strip(err), "")
			}
			authority, err := credentials.Create(out)
			if err != nil {
				return err
			}
			if len(nodes) > 0 {
				if err := authority.WriteCluster(nodes); err != nil {
					return err
				}
			}
			path := func(name string) string { return shellQuote(filepath.ToSlash(filepath.Join(out, name))) }
			return a.out.done(map[string]any{"folder": out, "ledger_account": authority.LedgerAccount()}, authority.LedgerAccount(),
				`The root of trust is in %s. Keep it safe.

%s`,
				shellQuote(filepath.ToSlash(out)), sideBySide([][2]string{
					{path(credentials.ConfFile), "for every node: whom it trusts"},
					{path(credentials.ClusterFile), "for every node: the others (made when --nodes names them)"},
					{path(credentials.ServerCreds), "for keyledger serve"},
					{path(credentials.OperatorCreds), "for keyledger init and keyledger owner reset"},
				}))
		},
	}
	c.Flags().StringVar(&out, "out", "", "`folder` for the root of trust")
	c.Flags().StringSliceVar(&nodes, "nodes", nil, "the cluster `addresses` of the nodes, for cluster.conf")
	a.out.flags(c.Flags())
	return c
}

// sideBySide puts files and what they are for into two columns.
func sideBySide(rows [][2]string) string {
	width := 0
	for _, row := range rows {
		width = max(width, len(row[0]))
	}
	lines := make([]string, len(rows))
	for i, row := range rows {
		lines[i] = fmt.Sprintf("  %-*s  %s", width, row[0], row[1])
	}
	return strings.Join(lines, "\n")
}

// reachFlags are the flags by which a broker's doors are reached.
func (a *app) reachFlags(c *cobra.Command, r *access.Reach) {
	f := c.Flags()
	f.StringVar(&r.Data, "data", "./data", "`folder` of the server with the embedded broker")
	f.StringVar(&r.URL, "nats", "", "the cluster's `addresses`, where the ledger lies on one")
	f.StringVar(&r.Auth, "auth", "", "`folder` that nats-auth operator made")
	f.StringVar(&r.CA, "nats-ca", "", "`file` with the authorities that the broker's certificates are checked by, PEM")
	f.IntVar(&r.Replicas, "replicas", 3, "on how many of the cluster's nodes each stream lies: 1, 3 or 5")
	a.out.flags(f)
}

// leafFlag is the flag of what is done at a leaf node as well, or there alone.
func leafFlag(c *cobra.Command, r *access.Reach, usage string) {
	c.Flags().StringVar(&r.LeafURL, "leaf-nats", "", usage)
}

// atDoors reaches the broker's doors for the time of a call.
func (a *app) atDoors(cmd *cobra.Command, r access.Reach, f func(*access.Doors) error) error {
	r.Logger = slog.New(slog.NewTextHandler(a.env.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	if err := r.Validate(); err != nil {
		return usage(serveFault(err), "")
	}
	doors, leave, err := r.Open(cmd.Context())
	if err != nil {
		return err
	}
	defer leave()
	return f(doors)
}

func (a *app) natsAuthIssueCommand(kind events.CredentialKind, short, long string) *cobra.Command {
	var reach access.Reach
	var orgs, mirror, leaf string
	wish := access.Wish{For: kind}
	c := &cobra.Command{
		Use: string(kind) + " NAME --out FILE", Short: short, Args: takes("NAME"),
		Long: long + `

The name is given once, for ever. Interrupted, the command goes on when it is run
again; run once more after that it changes nothing.`,
		Example: fmt.Sprintf("  keyledger nats-auth %s %s-1 --out %s-1.creds\n  keyledger nats-auth %s acme-1 --orgs acme --out acme-1.creds \\\n    --nats nats://n1:4222 --auth auth",
			kind, kind, kind, kind),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if wish.Name, err = events.ParseCredentialName(args[0]); err != nil {
				return usage("NAME must be 1 to 63 characters of a-z, 0-9 and '-', and begin with a letter or digit", "")
			}
			if wish.Organizations, err = access.ParseOrganizations(orgs); err != nil {
				return usage("--orgs is a list of organization ids, such as acme,globex", "")
			}
			if mirror != "" {
				if wish.Mirror, err = events.ParseMirrorName(mirror); err != nil {
					return usage("--mirror is the name that nats-auth mirror made one by", "")
				}
			}
			if leaf != "" {
				if wish.Leaf, err = events.ParseCredentialName(leaf); err != nil {
					return usage("--leaf is the name that nats-auth leaf let one in by", "")
				}
				if reach.LeafURL == "" {
					return usage("--leaf needs --leaf-nats, the leaf node's own address", "")
				}
			} else if reach.LeafURL != "" {
				return usage("--leaf-nats goes with --leaf, the name of the leaf node", "")
			}
			if m := wish.MaxStaleness; m != 0 && (m < events.MinStaleness || m > events.MaxStaleness) {
				return usage(fmt.Sprintf("--max-staleness must lie within %s and %s", events.MinStaleness, events.MaxStaleness), "")
			}
			if wish.Out == "" {
				return usage("--out is needed: the file for the credentials", "")
			}
			return a.atDoors(cmd, reach, func(doors *access.Doors) error {
				issued, err := doors.Issue(cmd.Context(), wish)
				if errors.Is(err, jetstream.ErrReadersFull) {
					return hinted(err, "Make a mirror with nats-auth mirror and issue the next ones with --mirror; this one is let in by the same command again once there is room.")
				}
				if err != nil {
					return err
				}
				return a.out.done(credentialDocument(access.Entry{CredentialIssued: issued}), string(issued.Name),
					"The %s %s is let in by %s. Whoever has the file is %s.", kind, issued.Name, wish.Out, issued.Name)
			})
		},
	}
	c.Flags().StringVar(&orgs, "orgs", "", "the only `organizations` it reaches, separated by commas (default: all)")
	c.Flags().StringVar(&wish.Out, "out", "", "`file` for the credentials, readable by its owner alone")
	if kind == events.CredentialVerifier {
		c.Flags().DurationVar(&wish.MaxStaleness, "max-staleness", 0, "how old it may let its knowledge become, a `time` such as 30s (default: the server's)")
		leafFlag(c, &reach, "the `address` of that leaf node, for --leaf")
		c.Flags().StringVar(&leaf, "leaf", "", "the leaf `node` that it is at, let in with nats-auth leaf (default: the broker itself)")
		c.Flags().StringVar(&mirror, "mirror", "", "the `mirror` that it reads by, made with nats-auth mirror (default: the ledger itself)")
	}
	a.reachFlags(c, &reach)
	return c
}

func (a *app) natsAuthMirrorCommand() *cobra.Command {
	var reach access.Reach
	replicas := 0
	c := &cobra.Command{
		Use: "mirror NAME", Short: "Make a mirror of the ledger, for many verifiers", Args: takes("NAME"),
		Long: `Make a mirror of the ledger at the broker: a copy that follows it, position by
position, and that nobody can write to. The broker gives a stream 1,000 readers, and
on a cluster each of them costs every node something; verifiers that are issued with
--mirror read by the mirror instead. One that stands still makes its verifiers stale,
which then deny. It can be repeated.`,
		Example: "  keyledger nats-auth mirror west --mirror-replicas 1 \\\n    --nats nats://n1:4222 --auth auth\n" +
			"  keyledger nats-auth verifier shop-1 --mirror west --out shop-1.creds \\\n    --nats nats://n1:4222 --auth auth",
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := events.ParseMirrorName(args[0])
			if err != nil {
				return usage("NAME must be 1 to 63 characters of a-z, 0-9 and '-', and begin with a letter or digit", "")
			}
			switch {
			case replicas == 0 && reach.URL == "":
				replicas = 1
			case replicas == 0:
				replicas = reach.Replicas
			case replicas != 1 && replicas != 3 && replicas != 5:
				return usage("--mirror-replicas must be 1, 3 or 5", "")
			case replicas > 1 && reach.URL == "":
				return usage("--mirror-replicas is 1 at an embedded broker, which is one node", "")
			}
			return a.atDoors(cmd, reach, func(doors *access.Doors) error {
				if err := doors.MakeMirror(cmd.Context(), name, replicas); err != nil {
					return err
				}
				return a.out.done(map[string]any{"name": name}, string(name), "Verifiers read by the mirror when they are issued with --mirror %s.", name)
			})
		},
	}
	c.Flags().IntVar(&replicas, "mirror-replicas", 0, "on how many nodes the mirror lies: 1, 3 or 5 (default: --replicas)")
	a.reachFlags(c, &reach)
	return c
}

func (a *app) natsAuthLeafCommand() *cobra.Command {
	var reach access.Reach
	var hubs []string
	var out string
	c := &cobra.Command{
		Use: "leaf NAME --hub nats-leaf://HOST:PORT --out DIR", Short: "Let a leaf node in, with a copy of the ledger near verifiers", Args: takes("NAME"),
		Long: `Let a leaf node in: a nats-server near the applications, with a copy of the ledger
of its own that follows the broker's. Its verifiers read there, and what they record
goes through it to the broker. It can read the whole ledger and write nothing to it.

The folder gets what the leaf node's conf includes, deploy/nats/leaf.conf, and its
credentials. The broker's nodes need a block leafnodes that listens at --hub. Then
verifiers are issued with --leaf NAME --leaf-nats and the leaf node's own address.

The name is given once, for ever. Interrupted, the command goes on when it is run
again.`,
		Example: "  keyledger nats-auth leaf shop --hub tls://n1:7422,tls://n2:7422 --out leaf \\\n    --nats nats://n1:4222 --auth auth\n" +
			"  keyledger nats-auth verifier till-1 --leaf shop --leaf-nats nats://shop:4222 \\\n    --out till-1.creds --nats nats://n1:4222 --auth auth",
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := events.ParseCredentialName(args[0])
			if err != nil {
				return usage("NAME must be 1 to 63 characters of a-z, 0-9 and '-', and begin with a letter or digit", "")
			}
			if out == "" {
				return usage("--out is needed: the folder for the leaf node", "")
			}
			if err := credentials.CheckHubs(hubs); err != nil {
				return usage("--hub: "+strip(err), "")
			}
			if reach.URL == "" {
				return usage("--nats is needed: the embedded broker takes no leaf nodes, a cluster does", "")
			}
			return a.atDoors(cmd, reach, func(doors *access.Doors) error {
				if err := doors.IssueLeaf(cmd.Context(), name, hubs, out); err != nil {
					return err
				}
				return a.out.done(map[string]any{"name": name, "folder": out}, string(name),
					"The leaf node %s comes in by what is in %s. Whoever has it reads the whole ledger.", name, shellQuote(filepath.ToSlash(out)))
			})
		},
	}
	c.Flags().StringSliceVar(&hubs, "hub", nil, "the `addresses` at which the broker's nodes take leaf nodes")
	c.Flags().StringVar(&out, "out", "", "`folder` for what the leaf node needs")
	a.reachFlags(c, &reach)
	return c
}

func (a *app) natsAuthMirrorsCommand() *cobra.Command {
	var reach access.Reach
	c := &cobra.Command{
		Use: "mirrors", Short: "List the mirrors of the ledger and how far behind they are", Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.atDoors(cmd, reach, func(doors *access.Doors) error {
				mirrors, err := doors.Mirrors(cmd.Context())
				if err != nil {
					return err
				}
				documents := []map[string]any{}
				g := grid{head: []string{"NAME", "READERS", "REPLICAS", "BEHIND", "HEARD"}, none: "There are no mirrors.", whole: map[string]bool{"NAME": true}}
				for _, m := range mirrors {
					heard := "never"
					if m.Heard >= 0 {
						heard = m.Heard.Round(time.Millisecond).String() + " ago"
					}
					documents = append(documents, map[string]any{
						"name": m.Name, "readers": m.Readers, "replicas": m.Replicas, "behind": m.Lag, "heard_ms_ago": m.Heard.Milliseconds(),
					})
					g.add(string(m.Name), string(m.Name), strconv.Itoa(m.Readers), strconv.Itoa(m.Replicas), strconv.FormatUint(m.Lag, 10), heard)
				}
				return a.out.list(map[string]any{"items": documents}, g)
			})
		},
	}
	a.reachFlags(c, &reach)
	return c
}

func (a *app) natsAuthListCommand() *cobra.Command {
	var reach access.Reach
	c := &cobra.Command{
		Use: "list", Short: "List everybody who was ever let in", Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.atDoors(cmd, reach, func(doors *access.Doors) error {
				entries, err := doors.List(cmd.Context())
				if err != nil {
					return err
				}
				documents := []map[string]any{}
				g := grid{
					head: []string{"NAME", "FOR", "ORGANIZATIONS", "ISSUED", "REVOKED"},
					none: "Nobody was let in.", whole: map[string]bool{"NAME": true}, folded: map[string]bool{"ORGANIZATIONS": true},
				}
				for _, e := range entries {
					orgs := "all"
					if len(e.Organizations) > 0 {
						orgs = joinIDs(e.Organizations, ", ")
					}
					documents = append(documents, credentialDocument(e))
					g.add(string(e.Name), string(e.Name), string(e.For), orgs, at(e.At.Std()), at(e.RevokedAt.Std()))
				}
				return a.out.list(map[string]any{"items": documents}, g)
			})
		},
	}
	a.reachFlags(c, &reach)
	return c
}

func (a *app) natsAuthRevokeCommand() *cobra.Command {
	var reach access.Reach
	var reason string
	c := &cobra.Command{
		Use: "revoke NAME", Short: "Shut somebody out, for ever", Args: takes("NAME"),
		Long: `Shut a program out at the broker, at once and for ever: it is thrown out where it
is connected. Its name is not given again. Interrupted, the command goes on when it
is run again.`,
		Example: `  keyledger nats-auth revoke verifier-1 --reason "the machine was sold"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := events.ParseCredentialName(args[0])
			if err != nil {
				return usage("there can be no credential of that name", "")
			}
			if err := a.confirm(cmd, "Shut "+string(name)+" out at the broker, for ever?"); err != nil {
				return err
			}
			return a.atDoors(cmd, reach, func(doors *access.Doors) error {
				if err := doors.Revoke(cmd.Context(), name, reason); err != nil {
					return err
				}
				return a.out.done(map[string]any{"name": name}, string(name), "%s is shut out, for ever.", name)
			})
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "`why`, for the ledger")
	leafFlag(c, &reach, "the `address` of the leaf node where it comes in, for a verifier of one")
	a.yesFlag(c)
	a.reachFlags(c, &reach)
	return c
}

func (a *app) natsAuthHealCommand() *cobra.Command {
	var reach access.Reach
	c := &cobra.Command{
		Use: "heal", Short: "Have the broker know again who is let in and who is not", Args: takes(),
		Long: `Have the broker know again who is let in and who is not, as the ledger says: after
a command was cut off, or a node's files were lost or brought back from a backup.
A server with the embedded broker does it at every start. It can be repeated.`,
		Example: `  keyledger nats-auth heal --nats nats://n1:4222 --auth auth`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.atDoors(cmd, reach, func(doors *access.Doors) error {
				if err := doors.Heal(cmd.Context()); err != nil {
					return err
				}
				return a.out.done(map[string]any{"healed": true}, "", "The broker lets in who is let in, and nobody else.")
			})
		},
	}
	leafFlag(c, &reach, "the `address` of the leaf node to do it at (default: at the broker)")
	a.reachFlags(c, &reach)
	return c
}

// credentialDocument is a credential as a program reads it.
func credentialDocument(e access.Entry) map[string]any {
	d := map[string]any{"name": e.Name, "for": e.For, "account": e.Account}
	if len(e.Organizations) > 0 {
		d["organizations"] = e.Organizations
	}
	if e.MaxStaleness > 0 {
		d["max_staleness"] = e.MaxStaleness
	}
	if e.Mirror != "" {
		d["mirror"] = e.Mirror
	}
	if e.Leaf != "" {
		d["leaf"] = e.Leaf
	}
	for member, t := range map[string]events.Time{"issued_at": e.At, "revoked_at": e.RevokedAt} {
		if !t.IsZero() {
			d[member] = t
		}
	}
	return d
}

func joinIDs[T ~string](ids []T, separator string) string {
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = string(id)
	}
	return strings.Join(texts, separator)
}
