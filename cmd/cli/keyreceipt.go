package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/api/wire"
)

const (
	// receiptWait is how long a receipt is waited for unless something else is said.
	receiptWait = 10 * time.Second
	// maxReceiptWait is how long a server waits with one answer; longer waits ask
	// again.
	maxReceiptWait = 30 * time.Second
	// mostWait is longer than anybody looks at a terminal.
	mostWait = time.Hour
)

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }

func (a *app) keysReceiptCommand() *cobra.Command {
	var wait time.Duration
	c := &cobra.Command{
		Use: "receipt ID", Short: "Tell by whom a key's revocation is applied", Args: takes("ID"),
		Long: `Tell what became of a key's revocation: how many verifiers have applied it and
since when, the last use that was accepted, and by when those deny the key that
are not heard of. It exits with 3 while not every live verifier has applied it.

When a verifier came to apply it is its first announcement that says so, by the
broker's clock. It is known while the server runs, and for some minutes after its
start: ask when you revoke, and keep the receipt.`,
		Example: `  keyledger keys receipt 0198c0de-… --wait 10s
  keyledger keys receipt 0198c0de-… -o json > receipt.json`,
	}
	c.Flags().DurationVar(&wait, "wait", 0, "`time` to wait until it is complete, such as 10s")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkWait(wait); err != nil {
			return err
		}
		s, org, err := a.openOrg(cmd)
		if err != nil {
			return err
		}
		r, err := receiptOf(cmd.Context(), s, org, args[0], wait)
		if err != nil {
			return err
		}
		if err := a.out.record(r, r.KeyID, receiptFields(r, time.Now())); err != nil {
			return err
		}
		return a.receiptVerdict(r)
	}
	return c
}

func checkWait(wait time.Duration) error {
	if wait < 0 || wait > mostWait {
		return usage(fmt.Sprintf("--wait is a time such as 10s, %s at most", mostWait), "")
	}
	return nil
}

// receiptOf asks for a receipt until it is complete, or the time is up.
func receiptOf(ctx context.Context, s *session, org, id string, wait time.Duration) (wire.Receipt, error) {
	for end := time.Now().Add(wait); ; {
		left := min(max(time.Until(end), 0), maxReceiptWait).Round(time.Millisecond)
		r, err := s.Receipt(ctx, org, id, left)
		if err != nil || r.Complete || left <= 0 || !time.Now().Before(end) {
			return r, err
		}
	}
}

// receiptVerdict says who is missing, and answers no while anybody is.
func (a *app) receiptVerdict(r wire.Receipt) error {
	if a.out.format == formatTable {
		if err := a.absent(r); err != nil {
			return err
		}
	}
	if !r.Complete {
		return errNo
	}
	return nil
}

// absent lists the verifiers that have not applied a revocation.
func (a *app) absent(r wire.Receipt) error {
	g := grid{
		head:  []string{"NOT APPLIED BY", "STATE", "LAST HEARD", "DENIES BY"},
		whole: map[string]bool{"NOT APPLIED BY": true, "DENIES BY": true},
	}
	for _, v := range r.Items {
		if v.Applied {
			continue
		}
		heard := "never"
		if v.LastHeardAt != nil {
			heard = at(*v.LastHeardAt)
		}
		by := "nothing bounds it: it serves stale"
		if v.DeniesBy != nil {
			by = at(*v.DeniesBy)
		}
		g.add(v.Verifier, v.Verifier, v.State, heard, by)
	}
	if len(g.rows) == 0 {
		return nil
	}
	if err := a.out.say(""); err != nil {
		return err
	}
	return a.out.grid("", g)
}

// precisely writes an instant by the millisecond.
func precisely(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000 UTC") }

// receiptFields is a receipt as a person reads it.
func receiptFields(r wire.Receipt, now time.Time) []field {
	who := actorText(r.Revoked.By)
	if r.Revoked.ByName != "" {
		who = r.Revoked.ByName + " (" + who + ")"
	}
	revoked := precisely(r.Revoked.At)
	if r.Revoked.Type == "organization.deleted" {
		revoked += ", with its organization"
	}
	fields := []field{
		{"key", r.KeyID},
		{"revoked", revoked},
		{"by", who},
		{"because", r.Revoked.Reason},
		{"applied by", appliedText(r)},
		{"last accepted use", acceptedText(r)},
	}
	return append(fields, field{"denied", deniedText(r, now)})
}

// deniedText says where the key is denied, and by when elsewhere.
func deniedText(r wire.Receipt, now time.Time) string {
	all := !slices.ContainsFunc(r.Items, func(v wire.ReceiptVerifier) bool { return !v.Applied })
	if r.Complete && all {
		return "everywhere"
	}
	text := "everywhere "
	if r.Complete {
		text = "by all that are live, and by the others, should they still answer, "
	}
	by := r.DeniedEverywhereBy
	if by == nil {
		return strings.TrimSuffix(text, " ") + " at no time that is known: one that has not applied it serves past its bound, or none is heard of"
	}
	text += "by " + precisely(*by)
	if by.After(now) {
		text += ", " + distance(*by, now)
	}
	return text
}

func appliedText(r wire.Receipt) string {
	text := fmt.Sprintf("%d of %s that %s live", r.AppliedBy, plural(r.Verifiers, "verifier"), map[bool]string{true: "is", false: "are"}[r.Verifiers == 1])
	if t := r.LastAppliedAt; t != nil {
		text += fmt.Sprintf(", the last by %s (%s after)", precisely(*t), max(t.Sub(r.Revoked.At), 0).Round(100*time.Microsecond))
	}
	return text
}

func acceptedText(r wire.Receipt) string {
	text := "none"
	if u := r.LastAcceptedUse; u != nil {
		text = precisely(u.At)
		if u.Verifier != "" {
			text += fmt.Sprintf(" by %s, number %d of its run", u.Verifier, u.Number)
		}
	}
	lost := slices.ContainsFunc(r.Items, func(v wire.ReceiptVerifier) bool { return v.State == "lost" && !v.Applied })
	switch {
	case !r.UsesComplete:
		text += "; later ones may still turn up"
	case lost:
		text += "; one that is lost may have accepted it later"
	}
	return text
}
