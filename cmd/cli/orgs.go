package cli

import (
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keyledger/keyledger/api/client"
	"github.com/keyledger/keyledger/api/wire"
)

func (a *app) orgsCommand() *cobra.Command {
	c := a.under("orgs", "Organizations: the tenants, with their limits",
		"An organization is a tenant: it has workspaces, a catalog of permissions, keys, and limits on them.",
		a.orgsCreateCommand(), a.orgsListCommand(), a.orgsGetCommand(), a.orgsUpdateCommand(), a.orgsDeleteCommand())
	c.Aliases = []string{"org", "organizations"}
	a.linked(c)
	return c
}

// orgSettings are the flags of what an organization is set up with.
type orgSettings struct {
	name, plan, lifetime, prefix, expiresIn, rotation string
	notices                                           []string
	maxKeys                                           int

	policyLifetime, newSource, denialsSpike string
	choices                                 []string
	expiryRequired, nameRequired            bool
	denialsPerMinute, resolvesPerMinute     int
	sealing, usesRetention                  string
}

func (o *orgSettings) flags(f *pflag.FlagSet) {
	f.StringVar(&o.name, "name", "", "display `name`")
	f.StringVar(&o.plan, "plan", "", "`plan`: starter, growth or enterprise")
	f.IntVar(&o.maxKeys, "max-active-keys", 0, "most `keys` that may be active at once, 0 for no limit")
	f.StringVar(&o.lifetime, "max-key-lifetime", "", "longest `period` until a new key expires, such as 90d, 6mo, 1y or never")
	f.StringVar(&o.prefix, "default-prefix", "", "`prefix` of keys that are created without one")
	f.StringVar(&o.expiresIn, "default-expires-in", "", "`period` until keys expire that are created without one")
	f.StringVar(&o.rotation, "rotation-due-after", "", "`age` at which a key should be rotated")
	f.StringSliceVar(&o.notices, "expiry-notices", nil, "`periods` before a key's end at which key.expiring tells of it, such as 14d,1d")
	f.StringVar(&o.policyLifetime, "policy-max-key-lifetime", "", "the organization's own longest `period` until a new key expires")
	f.BoolVar(&o.expiryRequired, "expiry-required", false, "forbid keys that never expire")
	f.StringSliceVar(&o.choices, "expiry-choices", nil, "the only `periods` that a key may be given, such as 30d,90d,1y")
	f.BoolVar(&o.nameRequired, "name-required", false, "forbid keys without a name")
	f.StringVar(&o.newSource, "signal-new-source", "", "`on` or off: whether key.new_source tells of uses from a new source")
	f.StringVar(&o.denialsSpike, "signal-denials-spike", "", "`on` or off: whether key.denials_spike tells of a burst of denials")
	f.IntVar(&o.denialsPerMinute, "denials-per-minute", 0, "how many `denials` of a key within a minute are a burst")
	f.IntVar(&o.resolvesPerMinute, "resolves-per-minute", 0, "how many `resolves` of a provider key within a minute are a burst")
	f.StringVar(&o.sealing, "sealing", "", "`on` has texts that may name a person stored sealed, so that they can be erased; it stays on")
	f.StringVar(&o.usesRetention, "uses-retention", "", "`period` for which single uses are kept, such as 90d, 1y or never; counts outlive them")
}

// policy is what the flags say of a new organization's policy.
func (o *orgSettings) policy() wire.Policy {
	return wire.Policy{
		DefaultPrefix: o.prefix, DefaultExpiresIn: o.expiresIn, MaxKeyLifetime: o.policyLifetime, ExpiryRequired: o.expiryRequired,
		ExpiryChoices: o.choices, NameRequired: o.nameRequired, RotationDueAfter: o.rotation, ExpiryNotices: o.notices,
		Signals: wire.Signals{NewSource: o.newSource, DenialsSpike: o.denialsSpike, DenialsPerMinute: o.denialsPerMinute, ResolvesPerMinute: o.resolvesPerMinute},
		Sealing: o.sealing, UsesRetention: o.usesRetention,
	}
}

func (a *app) orgsCreateCommand() *cobra.Command {
	var o orgSettings
	c := &cobra.Command{
		Use: "create ID", Short: "Begin an organization", Args: takes("ID"),
		Long: "Begin an organization. Its id is for ever and never used again; its name can change.",
		Example: `  keyledger orgs create acme --name "Acme Inc."
  keyledger orgs create acme --plan enterprise --max-active-keys 100`,
	}
	o.flags(c.Flags())
	w := a.wishFlags(c, false)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := a.open(cmd)
		if err != nil {
			return err
		}
		if o.name == "" {
			o.name = args[0]
		}
		var got answer
		org, err := s.CreateOrganization(cmd.Context(), wire.CreateOrganization{
			ID: args[0], Name: o.name, Plan: o.plan, Reason: w.reason,
			Limits: wire.Limits{MaxActiveKeys: o.maxKeys, MaxKeyLifetime: o.lifetime},
			Policy: o.policy(),
		}, a.options(w, &got)...)
		return a.changed(err, got, org, org.ID, func() error {
			return a.out.say("Created organization %s, plan %s.", titled(org.ID, org.Name), org.Plan)
		})
	}
	return c
}

// changed prints the answer to a change: what would have happened, the
// document, the id, or a sentence.
func (a *app) changed(err error, got answer, document any, id string, sentence func() error) error {
	switch {
	case err != nil:
		return err
	case got.dryRun:
		return a.rehearsed(got.rehearsal)
	case a.out.format == formatJSON:
		return a.out.json(document)
	case a.out.format == formatID:
		return a.out.say("%s", id)
	}
	if got.Replayed {
		fmt.Fprintln(a.env.Stderr, "Note: this was done before, under the same idempotency key; here is what became of it.")
	}
	return sentence()
}

func (a *app) orgsListCommand() *cobra.Command {
	c := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List organizations", Args: takes()}
	page := pageFlags(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := a.open(cmd)
		if err != nil {
			return err
		}
		orgs, err := collect(page, func(p client.Page) (wire.List[wire.Organization], error) {
			return s.Organizations(cmd.Context(), p)
		})
		if err != nil {
			return err
		}
		g := grid{
			head: []string{"ID", "NAME", "PLAN", "KEYS AT MOST", "CREATED"},
			none: "No organizations. keyledger orgs create ID begins one.", whole: map[string]bool{"ID": true},
		}
		for _, o := range orgs.Items {
			limit := "no limit"
			if o.Limits.MaxActiveKeys > 0 {
				limit = fmt.Sprint(o.Limits.MaxActiveKeys)
			}
			g.add(o.ID, o.ID, o.Name, o.Plan, limit, day(o.CreatedAt))
		}
		return a.listed(orgs, orgs.NextCursor, g)
	}
	return c
}

func (a *app) orgsGetCommand() *cobra.Command {
	return &cobra.Command{
		Use: "get ID", Short: "Show an organization", Args: takes("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.open(cmd)
			if err != nil {
				return err
			}
			var got answer
			org, err := s.Organization(cmd.Context(), args[0], got.meta())
			if err != nil {
				return err
			}
			return a.out.record(org, org.ID, a.orgFields(org, got.revision()))
		},
	}
}

func (a *app) orgsUpdateCommand() *cobra.Command {
	var o orgSettings
	c := &cobra.Command{
		Use: "update ID", Short: "Change an organization", Args: takes("ID"),
		Long: "Change an organization. What no flag names stays as it is; an empty text clears\na setting.",
		Example: `  keyledger orgs update acme --max-active-keys 200
  keyledger orgs update acme --default-expires-in 90d --reason "new policy"
  keyledger orgs update acme --expiry-required --expiry-choices 30d,90d
  keyledger orgs update acme --expiry-choices "" --name-required=false`,
	}
	o.flags(c.Flags())
	w := a.wishFlags(c, true)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := a.open(cmd)
		if err != nil {
			return err
		}
		patch := o.patch(cmd.Flags())
		if patch.Name.IsZero() && patch.Plan.IsZero() && patch.Limits.IsZero() && patch.Policy.IsZero() {
			return errNothingToChange(cmd)
		}
		patch.Reason = w.reason
		var got answer
		org, err := s.UpdateOrganization(cmd.Context(), args[0], patch, a.options(w, &got)...)
		return a.changed(err, got, org, org.ID, func() error {
			return a.out.fields("", a.orgFields(org, got.revision()))
		})
	}
	return c
}

func errNothingToChange(cmd *cobra.Command) error {
	return usage("nothing to change", "%s --help lists what can be.", cmd.CommandPath())
}

// patch is the merge patch of the flags that were given.
func (o *orgSettings) patch(f *pflag.FlagSet) wire.UpdateOrganization {
	var (
		p      wire.UpdateOrganization
		limits wire.UpdateLimits
	)
	if f.Changed("name") {
		p.Name = wire.Some(o.name)
	}
	if f.Changed("plan") {
		p.Plan = wire.Some(o.plan)
	}
	limits.MaxActiveKeys = givenValue(f, "max-active-keys", o.maxKeys, o.maxKeys == 0)
	limits.MaxKeyLifetime = given(f, "max-key-lifetime", o.lifetime)
	if limits != (wire.UpdateLimits{}) {
		p.Limits = wire.Some(limits)
	}
	if policy := o.patchPolicy(f); !policy.IsZero() {
		p.Policy = wire.Some(policy)
	}
	return p
}

func (o *orgSettings) patchPolicy(f *pflag.FlagSet) wire.UpdatePolicy {
	p := wire.UpdatePolicy{
		DefaultPrefix:    given(f, "default-prefix", o.prefix),
		DefaultExpiresIn: given(f, "default-expires-in", o.expiresIn),
		MaxKeyLifetime:   given(f, "policy-max-key-lifetime", o.policyLifetime),
		ExpiryRequired:   givenValue(f, "expiry-required", o.expiryRequired, false),
		ExpiryChoices:    givenValue(f, "expiry-choices", o.choices, len(o.choices) == 0),
		NameRequired:     givenValue(f, "name-required", o.nameRequired, false),
		RotationDueAfter: given(f, "rotation-due-after", o.rotation),
		ExpiryNotices:    givenValue(f, "expiry-notices", o.notices, len(o.notices) == 0),
		Sealing:          given(f, "sealing", o.sealing),
		UsesRetention:    given(f, "uses-retention", o.usesRetention),
	}
	signals := wire.UpdateSignals{
		NewSource:         given(f, "signal-new-source", o.newSource),
		DenialsSpike:      given(f, "signal-denials-spike", o.denialsSpike),
		DenialsPerMinute:  givenValue(f, "denials-per-minute", o.denialsPerMinute, o.denialsPerMinute == 0),
		ResolvesPerMinute: givenValue(f, "resolves-per-minute", o.resolvesPerMinute, o.resolvesPerMinute == 0),
	}
	if signals != (wire.UpdateSignals{}) {
		p.Signals = wire.Some(signals)
	}
	return p
}

// givenValue is a member of a merge patch: left out without its flag, null when
// it is none.
func givenValue[T any](f *pflag.FlagSet, flag string, value T, none bool) wire.Optional[T] {
	switch {
	case !f.Changed(flag):
		return wire.Optional[T]{}
	case none:
		return wire.Null[T]()
	default:
		return wire.Some(value)
	}
}

// given is a text of a merge patch; an empty one is none.
func given(f *pflag.FlagSet, flag, value string) wire.Optional[string] {
	return givenValue(f, flag, value, value == "")
}

func (a *app) orgsDeleteCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "delete ID", Short: "End an organization for ever", Args: takes("ID"),
		Long: "End an organization. All its keys are denied from that moment on, and its id is never used again.",
	}
	a.yesFlag(c)
	w := a.wishFlags(c, true)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := a.open(cmd)
		if err != nil {
			return err
		}
		if err := a.ask(cmd, w, "End organization "+args[0]+" and deny all its keys, for ever?"); err != nil {
			return err
		}
		var got answer
		gone, err := s.DeleteOrganization(cmd.Context(), args[0], a.endOptions(w, &got)...)
		return a.changed(err, got, gone, args[0], func() error {
			return a.out.say("Organization %s has ended; all its keys are denied.", args[0])
		})
	}
	return c
}

// ask confirms a change that cannot be undone, unless it is only rehearsed.
func (a *app) ask(cmd *cobra.Command, w *wish, question string) error {
	if w.dryRun {
		return nil
	}
	return a.confirm(cmd, question)
}
