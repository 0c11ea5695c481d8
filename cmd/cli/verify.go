package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/domain/permission"
)

func (a *app) verifyCommand() *cobra.Command {
	var file string
	var batch bool
	var body wire.VerifyRequest
	c := &cobra.Command{
		Use: "verify", Short: "Ask whether a key may do something, here, now",
		Long: `Ask whether a key is good, and whether it may do something somewhere. The key is
read from standard input or a file, never from the command line, which every
user of the machine can read. With --batch there is a key on each line, and the
answer names them by their lines.

--permission is one permission or a query of several: AND binds tighter than OR,
and resource:* asks for everything that the catalog has of a resource.

The exit code is 0 when all are VALID and 3 when one is denied.`,
		Example: `  keyledger verify --permission interview:start --workspace hiring < service.key
  keyledger verify --permission 'report:* AND (a:read OR b:read)' < service.key
  keyledger verify --file service.key -o json
  keyledger verify --batch --file all.keys`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range []string{"permission", "workspace", "at-least"} {
				// A variable that was never set must not ask for less.
				if f := cmd.Flags().Lookup(name); f.Changed && f.Value.String() == "" {
					return usage("--"+name+" is empty; leave it out to ask for none", "")
				}
			}
			if err := askable(body.Permission); err != nil {
				return err
			}
			if batch {
				return a.verifyBatch(cmd, file, body)
			}
			key, err := a.keyToVerify(file)
			if err != nil {
				return err
			}
			s, err := a.open(cmd)
			if err != nil {
				return err
			}
			body.Secret = key.Reveal()
			v, err := s.Verify(cmd.Context(), body)
			if err != nil {
				return err
			}
			if err := a.out.record(v, v.KeyID, verdictFields(v, body)); err != nil {
				return err
			}
			if !v.Valid {
				return errNo
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&file, "file", "", "`file` that holds the key (default: standard input)")
	f.BoolVar(&batch, "batch", false, "ask about many keys, one on each line")
	f.StringVar(&body.Permission, "permission", "", "`permission` or query of permissions that it must have")
	f.StringVar(&body.Workspace, "workspace", "", "`workspace` where it must be good")
	f.StringVar(&body.AtLeast, "at-least", "", "`position` of a change that the verdict must know of")
	a.linked(c)
	return c
}

// askable refuses what is no permission and no query before anything is sent.
func askable(text string) error {
	var fault *permission.QueryError
	if permission.MayBeQuery(text) {
		if _, err := permission.ParseQuery(text); errors.As(err, &fault) {
			return usage("--permission is no query: "+fault.Detail(), "A query is such as 'interview:read AND (interview:start OR report:*)'.")
		}
		return nil
	}
	if _, err := permission.ParseName(text); text != "" && err != nil {
		return usage("--permission is one permission, such as interview:start, or a query such as 'a:read OR b:*'", "")
	}
	return nil
}

func (a *app) keyToVerify(file string) (keystring.Secret, error) {
	if file == "" || file == "-" {
		return a.keyFromStdin()
	}
	return readKeyFile(file)
}

func verdictFields(v wire.Verdict, asked wire.VerifyRequest) []field {
	fields := []field{
		{"verdict", v.Code},
		{"because", because(v, asked)},
		{"key", v.KeyID},
		{"organization", v.Organization},
		{"kind", v.Kind},
		{"may", mayText(v.Role, v.Permissions)},
	}
	if v.Scope != nil {
		in := scopeText(*v.Scope)
		if v.Valid && !v.ScopeChecked {
			in += "; no --workspace was asked about"
		}
		fields = append(fields, field{"in", in})
	}
	if v.KeyID != "" {
		var expires *time.Time
		if t, err := time.Parse(time.RFC3339, v.ExpiresAt); err == nil {
			expires = &t
		}
		fields = append(fields, field{"expires", expiryText(expires, time.Now())})
	}
	if v.Profile != nil {
		settings := v.Profile.Settings.Clone()
		if settings.Indent(jsontext.WithIndent("  ")) != nil {
			settings = v.Profile.Settings
		}
		fields = append(fields, field{"profile", v.Profile.ID}, field{"settings", string(settings)})
	}
	return append(fields, field{"known up to", fmt.Sprintf("%s, %.1f s ago", v.Position, v.Staleness)})
}

// because says in words why a verdict denies.
func because(v wire.Verdict, asked wire.VerifyRequest) string {
	switch v.Code {
	case "MALFORMED":
		return "it is no key of this ledger's form: cut off or mistyped?"
	case "NOT_FOUND":
		return "no key is like that"
	case "REVOKED":
		return "it was revoked, for ever"
	case "EXPIRED":
		return "its time has passed"
	case "INACTIVE":
		return "it is switched off"
	case "INSUFFICIENT_PERMISSIONS":
		if v.Kind != "" {
			return "it is a " + v.Kind + " key, which is for the ledger itself and grants no permission"
		}
		return "it does not grant " + plain(asked.Permission)
	case "OUT_OF_SCOPE":
		if asked.Workspace == "" {
			return "no workspace is left where it is good"
		}
		return "it is not good in workspace " + plain(asked.Workspace)
	case "STALE":
		return "this verifier does not know what happened lately, and does not guess"
	case "UNAVAILABLE":
		return "no verdict can be given just now; /readyz of the server says why"
	default:
		return ""
	}
}

func (a *app) whoamiCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "whoami", Short: "Tell which key is used, and what it may do", Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.open(cmd)
			if err != nil {
				return err
			}
			who, err := s.Whoami(cmd.Context())
			if err != nil {
				return err
			}
			return a.out.record(who, who.KeyID, []field{
				{"key", who.KeyID},
				{"from", s.link.keyFrom},
				{"organization", who.Organization},
				{"kind", who.Kind},
				{"may", mayText(who.Role, who.Permissions)},
				{"in", scopeText(who.Scope)},
				{"expires", expiryText(who.ExpiresAt, time.Now())},
				{"server", s.link.url},
			})
		},
	}
	a.linked(c)
	return c
}
