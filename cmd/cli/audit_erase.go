package cli

import (
	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/api/wire"
)

func (a *app) auditEraseCommand() *cobra.Command {
	var subject string
	c := &cobra.Command{
		Use: "erase", Short: "Erase what is known of a data subject, for ever", Args: takes(),
		Long: `Destroy the key that sealed what is stored of a data subject: names, external
ids, metadata and reasons of its keys, and what came with their uses. From then
on it reads (erased), everywhere. Events, verdicts and proofs stay as they are.

A key's data subject is what keys create --data-subject said, or else the key's
own id; keys get shows it. Of reasons that somebody gave for changes of anything
but keys it is the id of the management key that they used.

It erases what was stored sealed, which begins with orgs update --sealing on.`,
		Example: `  keyledger audit erase --org acme --subject user-4711 \
    --reason "request of 3 November"`,
	}
	c.Flags().StringVar(&subject, "subject", "", "`pseudonym` of the data subject")
	a.yesFlag(c)
	w := a.wishFlags(c, false)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if subject == "" {
			return usage("--subject says whom to erase; it is needed", "keyledger keys get shows the data subject of a key.")
		}
		s, org, err := a.openOrg(cmd)
		if err != nil {
			return err
		}
		if err := a.ask(cmd, w, "Erase what is known of data subject "+subject+" in organization "+org+", for ever?"); err != nil {
			return err
		}
		var got answer
		done, err := s.EraseSubject(cmd.Context(), org, wire.Erase{Subject: subject, Reason: w.reason}, a.options(w, &got)...)
		return a.changed(err, got, done, done.Subject, func() error {
			if done.KeysDestroyed == 0 {
				return a.out.say("Data subject %s was erased before; nothing was sealed since.", subject)
			}
			return a.out.say("Data subject %s is erased: the key to what is stored of it is destroyed.", subject)
		})
	}
	return c
}
