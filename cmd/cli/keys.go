package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keyledger/keyledger/api/client"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/domain/period"
)

func (a *app) keysCommand() *cobra.Command {
	c := a.under("keys", "Keys: create, change, rotate, revoke",
		`A key is an id, what it may do, where, and until when. The key itself, its
secret, is shown once: when it is created or rotated.`,
		a.keysCreateCommand(), a.keysListCommand(), a.keysGetCommand(), a.keysUpdateCommand(), a.keysRenameCommand(),
		a.keysEnableCommand(), a.keysDisableCommand(), a.keysRotateCommand(), a.keysRevokeCommand(), a.keysReceiptCommand(), a.keysHistoryCommand(),
		a.keysImportCommand())
	c.Aliases = []string{"key"}
	a.linked(c)
	a.about(c)
	return c
}

// keySettings are the flags of what a key is made with, and changed to.
type keySettings struct {
	name, profile, expiresIn, expiresAt string
	permissions, workspaces, metadata   []string
}

func (k *keySettings) flags(f *pflag.FlagSet) {
	f.StringVar(&k.name, "name", "", "display `name`")
	f.StringSliceVar(&k.permissions, "permissions", nil, "all, read_only, or a `list` such as interview:start,report:*")
	f.StringSliceVar(&k.workspaces, "workspaces", nil, "all, or a `list` of workspaces")
	f.StringVar(&k.profile, "profile", "", "`id` of the profile to attach")
	f.StringVar(&k.expiresIn, "expires-in", "", "`period` until it expires: 30d, 6mo, 1y or never")
	f.StringVar(&k.expiresAt, "expires-at", "", "`time` when it expires: 2027-01-31 or 2027-01-31T18:00:00Z")
	f.StringArrayVar(&k.metadata, "metadata", nil, "`key=value` to keep with it, once for each")
}

// grant is what --permissions says.
func (k *keySettings) grant(f *pflag.FlagSet) (*wire.GrantWish, error) {
	if !f.Changed("permissions") {
		return nil, nil
	}
	level, list, err := grants(k.permissions)
	if err != nil {
		return nil, err
	}
	return &wire.GrantWish{Level: level, Grants: list}, nil
}

// scope is what --workspaces says.
func (k *keySettings) scope(f *pflag.FlagSet) (*wire.Scope, error) {
	switch {
	case !f.Changed("workspaces"):
		return nil, nil
	case len(k.workspaces) == 0:
		return nil, usage("--workspaces is all, or a list of workspaces", "")
	case len(k.workspaces) == 1 && k.workspaces[0] == "all":
		return &wire.Scope{AllWorkspaces: true}, nil
	default:
		return &wire.Scope{Workspaces: k.workspaces}, nil
	}
}

// expiry is what --expires-at says, nil without it.
func (k *keySettings) expiry() (*time.Time, error) {
	if k.expiresAt == "" {
		return nil, nil
	}
	t, err := instant("expires-at", k.expiresAt)
	return &t, err
}

func (a *app) keysCreateCommand() *cobra.Command {
	var (
		k                                       keySettings
		prefix, externalID, subject, kind, role string
	)
	c := &cobra.Command{
		Use: "create", Short: "Create a key, and show its secret once", Args: takes(),
		Long: `Create a key. Its secret is shown once, here, and kept nowhere: give it to
whoever is to use it. -o secret prints the secret alone, for a script.

Good periods to expire in: ` + joinIDs(period.Choices[:], " ") + `.
Any other number of days, months or years will do as well, unless the
organization's policy has choices of its own.`,
		Example: `  keyledger keys create --name "interview service" \
    --permissions interview:start,interview:read --workspaces hiring \
    --expires-in 90d
  keyledger keys create --permissions read_only --workspaces all \
    -o secret > service.key
  keyledger keys create --kind management --role verifier --name gateway`,
		Annotations: map[string]string{showsSecret: ""},
	}
	f := c.Flags()
	k.flags(f)
	f.StringVar(&prefix, "prefix", "", "`beginning` of the key, such as acme_live (default: the organization's)")
	f.StringVar(&externalID, "external-id", "", "`id` by which another system knows it")
	f.StringVar(&subject, "data-subject", "", "`pseudonym` of whom the key's texts tell of, for audit erase (default: the key's own id)")
	f.StringVar(&kind, "kind", "", "`kind`: api, or management for a key to this ledger itself")
	f.StringVar(&role, "role", "", "`role` of a management key: owner, admin, member, auditor, verifier or resolver")
	w := a.wishFlags(c, false)
	c.MarkFlagsMutuallyExclusive("expires-in", "expires-at")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		body, err := k.create(f, kind == "management")
		if err != nil {
			return err
		}
		body.Prefix, body.ExternalID, body.DataSubject = prefix, externalID, subject
		body.Kind, body.Role, body.Reason = kind, role, w.reason
		s, org, err := a.openOrg(cmd)
		if err != nil {
			return err
		}
		var got answer
		made, err := s.CreateKey(cmd.Context(), org, body, a.options(w, &got)...)
		if err != nil {
			return err
		}
		return a.madeKey(got, made, made.Key, made.Secret, fmt.Sprintf("Created a key in organization %s.", org), nil)
	}
	return c
}

// create is the request for a new key. What a key may do and where is never
// guessed; a management key has a role instead, and is good everywhere unless
// it is limited.
func (k *keySettings) create(f *pflag.FlagSet, management bool) (wire.CreateKey, error) {
	var (
		body = wire.CreateKey{Name: k.name, Profile: k.profile, ExpiresIn: k.expiresIn}
		err  error
	)
	if body.Permissions, err = k.grant(f); err != nil {
		return body, err
	}
	if body.Scope, err = k.scope(f); err != nil {
		return body, err
	}
	if body.ExpiresAt, err = k.expiry(); err != nil {
		return body, err
	}
	if body.Metadata, err = pairs("metadata", k.metadata); err != nil {
		return body, err
	}
	switch {
	case management && body.Scope == nil:
		body.Scope = &wire.Scope{AllWorkspaces: true}
	case management:
	case body.Permissions == nil:
		return body, usage("what may the key do?", "Say --permissions all, read_only, or a list such as interview:start,report:*.")
	case body.Scope == nil:
		return body, usage("where may the key be used?", "Say --workspaces all, or a list of workspaces.")
	}
	return body, nil
}

// madeKey prints a new key, and its secret apart from everything else.
func (a *app) madeKey(got answer, document any, k wire.Key, secret, title string, more []field) error {
	switch {
	case got.dryRun:
		return a.rehearsed(got.rehearsal)
	case a.out.format == formatJSON:
		return a.out.json(document)
	case a.out.format == formatSecret && secret == "":
		return hinted(fmt.Errorf("key %s was made before, under the same idempotency key; its secret was shown then, and is kept nowhere", k.ID),
			"If it is lost, rotate the key: keyledger keys rotate %s.", k.ID)
	case a.out.format == formatSecret:
		return a.out.say("%s", secret)
	}
	if err := a.out.say("%s\n", title); err != nil {
		return err
	}
	fields := append([]field{
		{"id", k.ID},
		{"name", deref(k.Name)},
		{"kind", k.Kind},
		{"may", mayText(k.Role, k.Permissions)},
		{"in", scopeText(k.Scope)},
		{"profile", deref(k.Profile)},
		{"expires", expiryText(k.ExpiresAt, time.Now())},
	}, more...)
	if err := a.out.fields("  ", fields); err != nil {
		return err
	}
	if secret == "" {
		return a.out.say("\nThis was done before, under the same idempotency key. Its secret was shown then, and\nis kept nowhere; if it is lost, rotate the key.")
	}
	return a.out.say("\nThe key itself, shown this once and kept nowhere:\n\n  %s\n", a.out.bold(secret))
}

// keyFilters are the flags of which keys are wanted.
type keyFilters struct {
	status, workspace, search, unusedSince, externalID, kind string
	metadata                                                 []string
	rotationDue                                              bool
}

func (k *keyFilters) flags(f *pflag.FlagSet) {
	f.StringVar(&k.status, "status", "", "`status`: active, inactive, expired, revoked or all")
	f.StringVar(&k.workspace, "workspace", "", "only those good in this `workspace`")
	f.StringVar(&k.search, "search", "", "only those with this `text` in name, prefix, last four or an id")
	f.StringVar(&k.kind, "kind", "", "only those of this `kind`: api or management")
	f.StringVar(&k.unusedSince, "unused-since", "", "only those not used since this `time`")
	f.StringVar(&k.externalID, "external-id", "", "only those known by this `id` elsewhere")
	f.StringArrayVar(&k.metadata, "metadata", nil, "only those with this `key=value`, up to 5 times: all must hold")
	f.BoolVar(&k.rotationDue, "rotation-due", false, "only those that should be rotated by now")
}

// filter is what the flags ask for, and whether they ask for anything.
func (k *keyFilters) filter(f *pflag.FlagSet) (filter client.KeyFilter, asked bool, err error) {
	filter = client.KeyFilter{
		Status: k.status, Workspace: k.workspace, Query: k.search, ExternalID: k.externalID, Kind: k.kind, RotationDue: k.rotationDue,
	}
	if k.unusedSince != "" {
		if filter.UnusedSince, err = instant("unused-since", k.unusedSince); err != nil {
			return filter, false, err
		}
	}
	if filter.Metadata, err = pairs("metadata", k.metadata); err != nil {
		return filter, false, err
	}
	if k.status != "all" {
		filter.Status = strings.ToUpper(k.status)
	}
	asked = f.Changed("status") || k.workspace != "" || k.search != "" || k.unusedSince != "" || k.externalID != "" || k.kind != "" ||
		len(k.metadata) > 0 || k.rotationDue
	return filter, asked, nil
}

func (a *app) keysListCommand() *cobra.Command {
	var k keyFilters
	c := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List keys", Args: takes(),
		Long: "List keys, the newest first. Revoked ones are left out unless --status asks for\nthem.",
		Example: `  keyledger keys list
  keyledger keys list --status all --search interview
  keyledger keys list --metadata team=platform --rotation-due
  keyledger keys list --unused-since 2026-01-01 -q`,
	}
	f := c.Flags()
	k.flags(f)
	page := pageFlags(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		filter, asked, err := k.filter(f)
		if err != nil {
			return err
		}
		s, org, err := a.openOrg(cmd)
		if err != nil {
			return err
		}
		list, err := collect(page, func(p client.Page) (wire.List[wire.Key], error) {
			filter.Page = p
			return s.Keys(cmd.Context(), org, filter)
		})
		if err != nil {
			return err
		}
		none := "No keys. keyledger keys create makes one."
		if asked {
			none = "No key is like that."
		}
		return a.listed(list, list.NextCursor, a.keyGrid(list.Items, none))
	}
	return c
}

func (a *app) keysGetCommand() *cobra.Command {
	return &cobra.Command{
		Use: "get ID", Short: "Show a key", Args: takes("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, org, err := a.openOrg(cmd)
			if err != nil {
				return err
			}
			var got answer
			k, err := s.Key(cmd.Context(), org, args[0], got.meta())
			if err != nil {
				return err
			}
			return a.out.record(k, k.ID, a.keyFields(k, got.revision()))
		},
	}
}
