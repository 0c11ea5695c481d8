package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/api/client"
	"github.com/keyledger/keyledger/api/wire"
)

func (a *app) keysHistoryCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "history ID", Short: "Show all that was ever done to a key", Args: takes("ID"),
		Long: `Show all that was ever done to a key, from the newest on: when, what, from what to
what, by whom in which role, and why. For all keys of an organization together:
keyledger audit log.`,
		Annotations: map[string]string{showsRecords: ""},
	}
	page := pageFlags(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		s, org, err := a.openOrg(cmd)
		if err != nil {
			return err
		}
		list, err := collect(page, func(p client.Page) (wire.List[wire.Change], error) {
			return s.KeyHistory(cmd.Context(), org, args[0], p)
		})
		if err != nil {
			return err
		}
		switch a.out.format {
		case formatTable:
			if err := a.timeline(list.Items); err != nil {
				return err
			}
			a.tellMore(list.NextCursor)
			return nil
		case formatCSV:
			rows, err := changeRows(list.Items)
			if err != nil {
				return err
			}
			return a.out.csv(changeColumns[:], rows)
		default:
			return a.listed(list, list.NextCursor, changeGrid(list.Items, false))
		}
	}
	return c
}

// timeline prints changes one below the other.
func (a *app) timeline(changes []wire.Change) error {
	for i, c := range changes {
		if i > 0 {
			if err := a.out.say(""); err != nil {
				return err
			}
		}
		if err := a.out.say("%s  %s", a.out.dim(at(c.ClaimedAt)), a.out.bold(cell(headline(c)))); err != nil {
			return err
		}
		by := whoDid(c)
		if c.Role != "" {
			by += ", role " + c.Role
		}
		if c.Scope != "" && c.Scope != "*" {
			by += " in " + strings.ReplaceAll(c.Scope, ",", ", ")
		}
		fields := []field{{"by", by}}
		if c.Type == "key.created" {
			fields = append(fields, bornFields(c)...)
		} else {
			for _, f := range c.Changes {
				fields = append(fields, field{fieldText(f.Field), moved(f)})
			}
		}
		fields = append(fields, field{"why", c.Reason}, field{"ticket", c.Ticket}, field{"request", c.RequestID})
		if err := a.out.fields("  ", fields); err != nil {
			return err
		}
	}
	if len(changes) == 0 {
		return a.out.say("No history.")
	}
	return nil
}

// moved says from what to what.
func moved(f wire.FieldChange) string {
	if f.Before == nil {
		return valueText(f.Field, f.After)
	}
	return valueText(f.Field, f.Before) + " → " + valueText(f.Field, f.After)
}

// bornFields are what the headline does not say of a new key.
func bornFields(c wire.Change) []field {
	var fields []field
	for _, f := range c.Changes {
		switch f.Field {
		case "name", "profile", "external_id", "rotated_from", "data_subject":
			fields = append(fields, field{fieldText(f.Field), valueText(f.Field, f.After)})
		default:
			if strings.HasPrefix(f.Field, "metadata.") {
				fields = append(fields, field{f.Field, valueText(f.Field, f.After)})
			}
		}
	}
	return fields
}
