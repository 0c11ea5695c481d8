package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/api/client"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/cmd/serve"
	"github.com/keyledger/keyledger/domain/keystring"
)

func (a *app) quickstartCommand() *cobra.Command {
	return &cobra.Command{
		Use: "quickstart", Short: "See all of it in one minute, in a temporary folder", Args: takes(),
		Long: `See all of it in one minute: an empty ledger in a temporary folder, a server in
this process, and every step by its HTTP API. A key is created, verified,
changed and revoked; then come its audit lines, and the curl line of each step.
The folder is removed at the end, and nothing else is touched.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.quickstart(cmd.Context()) },
	}
}

// quickstart runs a server of its own around the tour.
func (a *app) quickstart(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "keyledger-quickstart-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	ctx, cancel := context.WithCancel(ctx)
	var (
		began   = time.Now()
		ready   = make(chan string, 1)
		stopped = make(chan error, 1)
		owner   string
	)
	go func() {
		stopped <- serve.Run(ctx, serve.Config{
			Listen: "127.0.0.1:0", Data: dir, Version: a.env.Version,
			Began: func(path string) { owner = path },
			Ready: func(url string) { ready <- url },
			// The tour itself says what fails.
			Logger: slog.New(slog.NewTextHandler(a.env.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
		})
	}()
	select {
	case err := <-stopped:
		cancel()
		if err == nil {
			err = ctx.Err()
		}
		return err
	case url := <-ready:
		t := &tour{a: a, out: a.out}
		if err = t.connect(ctx, url, owner); err == nil {
			err = t.run(ctx, time.Since(began))
		}
	}
	// The folder is removed when nobody writes to it any more.
	cancel()
	if stopErr := <-stopped; err == nil {
		err = stopErr
	}
	if err == nil {
		err = a.tellNext()
	}
	return err
}

// What the tour is about. The curl lines at its end name the same things.
const (
	tourOrg       = "acme"
	tourWorkspace = "hiring"
	tourReason    = "laptop lost"
)

func tourCatalog() []wire.Permission {
	return []wire.Permission{
		{Name: "interview:start", Access: "write", Routes: []string{"POST /interviews"}},
		{Name: "interview:read", Access: "read", Routes: []string{"GET /interviews/{id}"}},
		{Name: "interview:complete", Access: "write", Routes: []string{"POST /interviews/{id}/complete"}},
	}
}

// tour is one walk through a key's life.
type tour struct {
	a     *app
	out   *printer
	s     *session
	owner string
	steps int

	key    wire.Key
	secret keystring.Secret
}

func (t *tour) connect(ctx context.Context, url, owner string) error {
	key, err := readKeyFile(owner)
	if err != nil {
		return err
	}
	if t.s, err = t.a.dial(link{url: url, urlFrom: "the tour", key: key, keyFrom: "the tour"}); err != nil {
		return err
	}
	who, err := t.s.Whoami(ctx)
	t.owner = who.KeyID
	return err
}

// step prints a numbered step and what came of it, further lines below it.
func (t *tour) step(title string, results ...string) error {
	t.steps++
	head := fmt.Sprintf("%2d  %-31s", t.steps, title)
	for i, r := range results {
		if i > 0 {
			head = strings.Repeat(" ", 35)
		}
		if err := t.out.say("%s%s", head, r); err != nil {
			return err
		}
	}
	return nil
}

func (t *tour) run(ctx context.Context, started time.Duration) error {
	if err := t.out.say("%s\n\nAn empty ledger in a temporary folder, and a server in this process. Every step\ngoes through its HTTP API.\n",
		t.out.bold("keyledger quickstart")); err != nil {
		return err
	}
	if err := t.step("Start a server", fmt.Sprintf("%s, ready in %.1f s", t.s.link.url, started.Seconds())); err != nil {
		return err
	}
	for _, part := range []func(context.Context) error{t.furnish, t.create, t.ask, t.revoke, t.audit} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

// furnish makes the organization with its workspace and catalog.
func (t *tour) furnish(ctx context.Context) error {
	if _, err := t.s.CreateOrganization(ctx, wire.CreateOrganization{ID: tourOrg, Name: "Acme Inc."}); err != nil {
		return err
	}
	if err := t.step("Create an organization", tourOrg); err != nil {
		return err
	}
	if _, err := t.s.CreateWorkspace(ctx, tourOrg, wire.CreateWorkspace{ID: tourWorkspace, Name: "Hiring"}); err != nil {
		return err
	}
	if err := t.step("Create a workspace in it", tourWorkspace); err != nil {
		return err
	}
	catalog := tourCatalog()
	if _, err := t.s.ReplacePermissions(ctx, tourOrg, wire.ReplacePermissions{Permissions: catalog}); err != nil {
		return err
	}
	lines := make([]string, 0, len(catalog))
	for _, p := range catalog {
		lines = append(lines, fmt.Sprintf("%-18s  %-5s  %s", p.Name, p.Access, p.Routes[0]))
	}
	return t.step("Say which permissions exist", lines...)
}

// create makes the key, and shows its secret this once.
func (t *tour) create(ctx context.Context) error {
	made, err := t.s.CreateKey(ctx, tourOrg, wire.CreateKey{
		Name: "interview service", ExpiresIn: "90d", Reason: "first key",
		Permissions: &wire.GrantWish{Level: "restricted", Grants: []string{"interview:start", "interview:read"}},
		Scope:       &wire.Scope{Workspaces: []string{tourWorkspace}},
	})
	if err != nil {
		return err
	}
	t.key, t.secret = made.Key, keystring.Conceal(made.Secret)
	return t.step("Create a key", t.out.bold(made.Secret), "shown this once; from here on it is "+made.Key.Masked,
		"may "+grantText(made.Key.Permissions)+" in "+scopeText(made.Key.Scope), "expires "+expiryText(made.Key.ExpiresAt, time.Now()))
}

// ask verifies the key, and changes what it may do in between.
func (t *tour) ask(ctx context.Context) error {
	if err := t.verdict(ctx, "May it start an interview?", "interview:start", "VALID"); err != nil {
		return err
	}
	if err := t.verdict(ctx, "May it complete one?", "interview:complete", "INSUFFICIENT_PERMISSIONS"); err != nil {
		return err
	}
	k, err := t.s.UpdateKey(ctx, tourOrg, t.key.ID, wire.UpdateKey{
		Permissions: wire.Some(wire.GrantWish{Level: "restricted", Grants: []string{"interview:*"}}), Reason: "needs it now",
	})
	if err != nil {
		return err
	}
	if err := t.step("Allow it", "may "+grantText(k.Permissions)); err != nil {
		return err
	}
	return t.verdict(ctx, "May it complete one now?", "interview:complete", "VALID")
}

// verdict asks one question, and insists on the answer that the tour is about.
func (t *tour) verdict(ctx context.Context, question, permission, want string) error {
	v, err := t.verify(ctx, permission)
	if err != nil {
		return err
	}
	if v.Code != want {
		return fmt.Errorf("the verdict is %s, and not %s", v.Code, want)
	}
	return t.step(question, t.out.status(v.Code))
}

func (t *tour) verify(ctx context.Context, permission string) (wire.Verdict, error) {
	return t.s.Verify(ctx, wire.VerifyRequest{Secret: t.secret.Reveal(), Permission: permission, Workspace: tourWorkspace})
}

// revoke ends the key, and measures until it is denied.
func (t *tour) revoke(ctx context.Context) error {
	sent := time.Now()
	if _, err := t.s.RevokeKey(ctx, tourOrg, t.key.ID, wire.RevokeKey{Reason: tourReason}); err != nil {
		return err
	}
	answered := time.Now()
	v, err := t.verify(ctx, "interview:start")
	for err == nil && v.Valid {
		v, err = t.verify(ctx, "interview:start")
	}
	if err != nil {
		return err
	}
	denied := time.Now()
	if v.Code != "REVOKED" {
		return fmt.Errorf("the verdict is %s, and not REVOKED", v.Code)
	}
	if err := t.step("Revoke it: "+tourReason, fmt.Sprintf("on disk and answered in %s", milliseconds(answered.Sub(sent)))); err != nil {
		return err
	}
	if err := t.step("May it start an interview?", fmt.Sprintf("%s, %s after that answer", t.out.status(v.Code), milliseconds(denied.Sub(answered)))); err != nil {
		return err
	}
	status, err := t.authorize(ctx)
	if err != nil {
		return err
	}
	return t.step("Knock at a gateway with it", "/v1/authorize answers "+t.out.bad(status))
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}

// authorize asks as a gateway does: with the caller's own key.
func (t *tour) authorize(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.s.link.url+"/v1/authorize?permission=interview:start", nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+t.secret.Reveal())
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(io.Discard, res.Body)
	if err = errors.Join(err, res.Body.Close()); err == nil && res.StatusCode != http.StatusUnauthorized {
		err = fmt.Errorf("/v1/authorize answered %s, and not 401", res.Status)
	}
	return res.Status, err
}

// audit shows what the ledger keeps of the key.
func (t *tour) audit(ctx context.Context) error {
	list, err := t.s.KeyHistory(ctx, tourOrg, t.key.ID, client.Page{Limit: pageSize})
	if err != nil {
		return err
	}
	g := grid{head: []string{"WHEN (UTC)", "WHAT", "BY", "WHY"}}
	// The oldest first: it is a story.
	for _, e := range slices.Backward(list.Items) {
		s := tellChange(e)
		// When it ends was said above.
		s.what, _, _ = strings.Cut(s.what, ", until")
		by := s.who
		if strings.Contains(by, shortID(t.owner)) {
			by = "owner"
		}
		g.add(e.Position, s.at.UTC().Format("15:04:05.000"), s.what, by, s.why)
	}
	if err := t.out.say("\nWhat the ledger keeps of it. It only grows; nothing in it is changed or deleted:\n"); err != nil {
		return err
	}
	return t.out.grid("  ", g)
}

// tellNext prints the same steps for a server of one's own.
func (a *app) tellNext() error {
	return a.out.say(`
That server is stopped and its folder is gone. The same on a server of your own:

  keyledger serve

and in a second terminal in the same folder, with bash or zsh, curl and jq:

%s
or with this program: keyledger orgs create, keys create, verify, keys revoke.
keyledger --help lists everything.`, indented(tourScript))
}

// tourScript is the tour as curl lines. The helper hands the key over in a
// file descriptor, since arguments show in ps.
const tourScript = `export KEYLEDGER_KEY=$(cat data/owner.key)
api=http://127.0.0.1:8080/v1
kl() { curl -sS -H @<(echo "Authorization: Bearer $KEYLEDGER_KEY") "$@"; echo; }

# an organization, a workspace in it, and which permissions exist
kl $api/organizations --json '{"id":"acme","name":"Acme Inc."}'
kl $api/organizations/acme/workspaces --json '{"id":"hiring","name":"Hiring"}'
kl $api/organizations/acme/permissions -X PUT --json '{"permissions":[
  {"name":"interview:start","access":"write","routes":["POST /interviews"]},
  {"name":"interview:read","access":"read","routes":["GET /interviews/{id}"]},
  {"name":"interview:complete","access":"write"}]}'

# a key; its secret is in this answer alone
made=$(kl $api/organizations/acme/keys --json '{"name":"interview service",
  "permissions":["interview:start","interview:read"],
  "scope":{"workspaces":["hiring"]},"expires_in":"90d"}')
id=$(jq -r .key.id <<<"$made") secret=$(jq -r .secret <<<"$made")

# may it?
ask() { jq -n --arg p "$1" '{secret:env.secret,permission:$p,workspace:"hiring"}' |
  kl $api/verify --json @- | jq -r .code; }
export secret
ask interview:start
ask interview:complete

# change it, ask again
kl $api/organizations/acme/keys/$id -X PATCH --json '{"permissions":["interview:*"]}'
ask interview:complete

# revoke it, ask again, and knock as its user would
kl $api/organizations/acme/keys/$id/revoke --json '{"reason":"laptop lost"}'
ask interview:start
curl -si -H @<(echo "Authorization: Bearer $secret") "$api/authorize?permission=interview:start" | head -1

# what the ledger keeps of it
kl $api/organizations/acme/keys/$id/history | jq -r '.items[] | [.claimed_at,.type,.actor,.reason] | @tsv'
`

func indented(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if line != "\n" {
			b.WriteString("  ")
		}
		b.WriteString(line)
	}
	return b.String()
}
