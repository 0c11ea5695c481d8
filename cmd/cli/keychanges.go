package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/api/client"
	"github.com/keyledger/keyledger/api/wire"
)

func (a *app) keysUpdateCommand() *cobra.Command {
	var (
		k     keySettings
		grace string
		drop  []string
	)
	c := &cobra.Command{
		Use: "update ID", Short: "Change what a key may do, where, or until when", Args: takes("ID"),
		Long: `Change a key; it holds from the next verdict on. What no flag names stays as it
is. Permissions and workspaces are given whole; metadata is merged. An empty
--name or --profile takes it away. keys disable and keys enable switch a key off
and on.`,
		Example: `  keyledger keys update 0198c0de-… --permissions interview:read
  keyledger keys update 0198c0de-… --expires-in 30d --metadata team=platform`,
	}
	f := c.Flags()
	k.flags(f)
	f.StringArrayVar(&drop, "drop-metadata", nil, "`key` of metadata to remove, once for each")
	f.StringVar(&grace, "grace", "", "end the grace of a rotated key sooner: `time` from now, such as 15m or 0")
	w := a.wishFlags(c, true)
	c.MarkFlagsMutuallyExclusive("expires-in", "expires-at")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		patch := wire.UpdateKey{
			Name: given(f, "name", k.name), Profile: given(f, "profile", k.profile),
			ExpiresIn: unlessEmpty(k.expiresIn), Grace: unlessEmpty(grace), Reason: w.reason,
		}
		permissions, err := k.grant(f)
		if err != nil {
			return err
		}
		scope, err := k.scope(f)
		if err != nil {
			return err
		}
		expires, err := k.expiry()
		if err != nil {
			return err
		}
		patch.Permissions, patch.Scope, patch.ExpiresAt = some(permissions), some(scope), some(expires)
		if patch.Metadata, err = metadataPatch(k.metadata, drop); err != nil {
			return err
		}
		if patch.Name.IsZero() && patch.Profile.IsZero() && patch.ExpiresAt.IsZero() && patch.Metadata.IsZero() &&
			patch.Permissions.IsZero() && patch.Scope.IsZero() && k.expiresIn == "" && grace == "" {
			return errNothingToChange(cmd)
		}
		return a.updateKey(cmd, args[0], patch, w)
	}
	return c
}

// some is a member of a merge patch, left out for nil.
func some[T any](v *T) wire.Optional[T] {
	if v == nil {
		return wire.Optional[T]{}
	}
	return wire.Some(*v)
}

func metadataPatch(set, drop []string) (wire.Optional[map[string]*string], error) {
	var none wire.Optional[map[string]*string]
	values, err := pairs("metadata", set)
	if err != nil || len(set)+len(drop) == 0 {
		return none, err
	}
	merge := map[string]*string{}
	for name, v := range values {
		merge[name] = &v
	}
	for _, name := range drop {
		if _, both := merge[name]; both {
			return none, usage(fmt.Sprintf("metadata %q is both set and dropped", name), "")
		}
		merge[name] = nil
	}
	return wire.Some(merge), nil
}

// updateKey changes a key and shows it as it is then.
func (a *app) updateKey(cmd *cobra.Command, id string, patch wire.UpdateKey, w *wish) error {
	s, org, err := a.openOrg(cmd)
	if err != nil {
		return err
	}
	var got answer
	k, err := s.UpdateKey(cmd.Context(), org, id, patch, a.options(w, &got)...)
	return a.changed(err, got, k, k.ID, func() error { return a.out.fields("", a.keyFields(k, got.revision())) })
}

func (a *app) keysRenameCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "rename ID NAME", Short: "Give a key another name", Args: takes("ID", "NAME"),
		Example: `  keyledger keys rename 0198c0de-… "interview service, Berlin"`,
	}
	w := a.wishFlags(c, true)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		patch := wire.UpdateKey{Name: wire.Some(args[1]), Reason: w.reason}
		if args[1] == "" {
			patch.Name = wire.Null[string]()
		}
		return a.updateKey(cmd, args[0], patch, w)
	}
	return c
}

func (a *app) keysEnableCommand() *cobra.Command {
	c := &cobra.Command{Use: "enable ID", Short: "Switch a key on again", Args: takes("ID")}
	w := a.wishFlags(c, true)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return a.updateKey(cmd, args[0], wire.UpdateKey{Status: wire.Some("ACTIVE"), Reason: w.reason}, w)
	}
	return c
}

func (a *app) keysDisableCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "disable ID", Short: "Switch a key off for a while", Args: takes("ID"),
		Long: "Switch a key off. It is INACTIVE until keys enable switches it on again; to end it for ever, revoke it.",
	}
	w := a.wishFlags(c, true)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return a.updateKey(cmd, args[0], wire.UpdateKey{Status: wire.Some("INACTIVE"), Reason: w.reason}, w)
	}
	return c
}

func (a *app) keysRotateCommand() *cobra.Command {
	var k keySettings
	var grace string
	c := &cobra.Command{
		Use: "rotate ID", Short: "Replace a key by a new one, and show its secret once", Args: takes("ID"),
		Long: `Replace a key by a new one that may do the same. The old key lives on for the
grace, so that whoever uses it can change over without a gap.`,
		Example: `  keyledger keys rotate 0198c0de-… --grace 24h
  keyledger keys rotate 0198c0de-… --grace 0 -o secret > service.key`,
		Annotations: map[string]string{showsSecret: ""},
	}
	f := c.Flags()
	f.StringVar(&grace, "grace", "24h", "how long the old key lives on: 0, or a `time` such as 15m, 1h, 24h, 7d")
	f.StringVar(&k.expiresIn, "expires-in", "", "`period` until the new key expires (default: the lifetime of the old one)")
	f.StringVar(&k.expiresAt, "expires-at", "", "`time` when the new key expires")
	w := a.wishFlags(c, true)
	c.MarkFlagsMutuallyExclusive("expires-in", "expires-at")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		body := wire.RotateKey{Grace: grace, ExpiresIn: k.expiresIn, Reason: w.reason}
		var err error
		if body.ExpiresAt, err = k.expiry(); err != nil {
			return err
		}
		s, org, err := a.openOrg(cmd)
		if err != nil {
			return err
		}
		var got answer
		made, err := s.RotateKey(cmd.Context(), org, args[0], body, a.options(w, &got)...)
		if err != nil {
			return err
		}
		old := "ended at once"
		if end := made.Previous.GraceEndsAt; end != nil && end.After(time.Now()) {
			old = "lives on until " + expiryText(end, time.Now())
		}
		return a.madeKey(got, made, made.Key, made.Secret, "Rotated key "+args[0]+".", []field{{"old key", old}})
	}
	return c
}

func (a *app) keysRevokeCommand() *cobra.Command {
	var (
		cascade bool
		wait    time.Duration
	)
	c := &cobra.Command{
		Use: "revoke ID", Aliases: []string{"delete"}, Short: "End a key for ever", Args: takes("[ID]"),
		Long: `End a key for ever: from the answer on every verdict denies it, and nothing
brings it back. A key that succeeded it by rotation lives on, unless --cascade.

With --wait it waits until every live verifier has applied it, shows the receipt,
and exits with 3 when the time is up before: it says then who has not, and by when
that one denies the key because of its bound. The key is revoked either way.

Whoever holds a key needs no other one to end it: with --self the key itself is
read from a file or standard input, as verify does it, and is the one to end.`,
		Example: `  keyledger keys revoke 0198c0de-… --reason "laptop lost"
  keyledger keys revoke 0198c0de-… --cascade --yes
  keyledger keys revoke 0198c0de-… --wait=10s
  keyledger keys revoke --self leaked.key`,
	}
	self := c.Flags().Bool("self", false, "end the key that a file, or standard input, holds")
	c.Flags().BoolVar(&cascade, "cascade", false, "revoke the keys that succeed it as well")
	c.Flags().DurationVar(&wait, "wait", 0, "`time` to wait until every verifier has applied it (--wait alone: 10s)")
	c.Flags().Lookup("wait").NoOptDefVal = receiptWait.String()
	a.yesFlag(c)
	w := a.wishFlags(c, false)
	c.MarkFlagsMutuallyExclusive("self", "cascade")
	c.MarkFlagsMutuallyExclusive("self", "wait")
	c.MarkFlagsMutuallyExclusive("dry-run", "wait")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case *self:
			return a.revokeSelf(cmd, append(args, "")[0], w)
		case len(args) == 0:
			return usage(cmd.CommandPath()+" needs ID", "Usage: %s", cmd.UseLine())
		}
		if err := checkWait(wait); err != nil {
			return err
		}
		s, org, err := a.openOrg(cmd)
		if err != nil {
			return err
		}
		body := wire.RevokeKey{Reason: w.reason, Cascade: cascade}
		warned, err := a.askRevoke(cmd, s, org, args[0], body, w)
		if err != nil {
			return err
		}
		var got answer
		done, err := s.RevokeKey(cmd.Context(), org, args[0], body, a.options(w, &got)...)
		if !warned && err == nil {
			a.warn(done.Warnings)
		}
		if wait > 0 && err == nil {
			return a.revokedEverywhere(cmd, s, org, done, wait)
		}
		return a.changed(err, got, done, args[0], func() error {
			return a.out.say("Revoked key %s (%s). It is denied from now on, for ever.", done.Key.ID, plain(nameOf(done.Key)))
		})
	}
	return c
}

// revokedEverywhere waits for the receipt of a revocation, and shows it.
func (a *app) revokedEverywhere(cmd *cobra.Command, s *session, org string, done wire.Changed, wait time.Duration) error {
	r, err := receiptOf(cmd.Context(), s, org, done.Key.ID, wait)
	if err != nil {
		return hinted(fmt.Errorf("key %s is revoked, and its receipt could not be had: %w", done.Key.ID, err),
			"keyledger keys receipt %s asks for it again.", done.Key.ID)
	}
	if a.out.format == formatTable {
		if err := a.out.say("Revoked key %s (%s).\n", done.Key.ID, plain(nameOf(done.Key))); err != nil {
			return err
		}
	}
	if err := a.out.record(r, r.KeyID, receiptFields(r, time.Now())); err != nil {
		return err
	}
	return a.receiptVerdict(r)
}

// revokeSelf ends the key that a file holds, by that key alone.
func (a *app) revokeSelf(cmd *cobra.Command, file string, w *wish) error {
	key, err := a.keyToVerify(file)
	if err != nil {
		return err
	}
	l, err := a.findLink()
	if err != nil {
		return err
	}
	l.key, l.keyFrom = key, "the key that is to end"
	a.link.found = l
	if err := knock(cmd.Context(), l); err != nil {
		return err
	}
	a.warnCleartext(cmd.Context(), l)
	s, err := a.dial(l)
	if err != nil {
		return err
	}
	if err := a.ask(cmd, w, "Revoke the key "+key.String()+", for ever?"); err != nil {
		return err
	}
	var got answer
	done, err := s.RevokeSelf(cmd.Context(), wire.RevokeSelf{Reason: w.reason}, a.options(w, &got)...)
	return a.changed(err, got, done, done.KeyID, func() error {
		return a.out.say("Revoked key %s of organization %s. It is denied from now on, for ever.", done.KeyID, done.Organization)
	})
}

// askRevoke asks by the key's name, since ids look alike, and with what the
// server warns of. It tells whether it has warned.
func (a *app) askRevoke(cmd *cobra.Command, s *session, org, id string, body wire.RevokeKey, w *wish) (warned bool, err error) {
	question := "Revoke key " + id + ", for ever?"
	if _, ok := terminalOf(a.env.Stdin); ok && !w.dryRun {
		if yes, err := cmd.Flags().GetBool("yes"); err == nil && !yes {
			k, err := s.Key(cmd.Context(), org, id)
			if err != nil {
				return false, err
			}
			question = fmt.Sprintf("Revoke key %s (%s), for ever?", id, plain(nameOf(k)))
			if k.RotatedTo != "" {
				var dry wire.DryRun
				if _, err := s.RevokeKey(cmd.Context(), org, id, body, client.DryRun(&dry)); err != nil {
					return false, err
				}
				for _, warning := range dry.Warnings {
					question, warned = warningText(warning)+"\n"+question, true
				}
			}
		}
	}
	return warned, a.ask(cmd, w, question)
}

func warningText(w wire.Warning) string { return "Warning: " + plain(w.Detail) + "." }

// warn tells what may not have been meant, beside the answer. A document holds it
// itself.
func (a *app) warn(warnings []wire.Warning) {
	if a.out.format == formatJSON {
		return
	}
	for _, w := range warnings {
		fmt.Fprintln(a.env.Stderr, warningText(w))
	}
}

// nameOf is what people call a key.
func nameOf(k wire.Key) string {
	if name := deref(k.Name); name != "" {
		return name
	}
	return k.Masked
}

// unlessEmpty is a member of a patch that an empty flag leaves out.
func unlessEmpty(text string) wire.Optional[string] {
	return wire.Optional[string]{Set: text != "", Value: text}
}
