package cli

import (
	"context"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/api/client"
	"github.com/keyledger/keyledger/api/wire"
)

// session is a client, and the way that led to its server.
type session struct {
	*client.Client
	link link
}

// open finds the server and makes a client for it.
func (a *app) open(cmd *cobra.Command) (*session, error) {
	l, err := a.findLink()
	if err != nil {
		return nil, err
	}
	a.link.found = l
	if err := knock(cmd.Context(), l); err != nil {
		return nil, err
	}
	a.warnCleartext(cmd.Context(), l)
	return a.dial(l)
}

func (a *app) dial(l link) (*session, error) {
	c, err := client.New(client.Config{URL: l.url, Key: l.key, UserAgent: "keyledger-cli/" + a.env.Version})
	return &session{Client: c, link: l}, err
}

// knock tells at once that no server runs on this machine. A client would try
// for some seconds, since elsewhere a server that refuses may be starting.
func knock(ctx context.Context, l link) error {
	u, err := url.Parse(l.url)
	if err != nil || !loopback(u.Hostname()) {
		return err
	}
	port := u.Port()
	if port == "" {
		port = u.Scheme
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return err
	}
	return conn.Close()
}

// openOrg opens a session, and says about which organization it is: the one
// that was named, else the key's own.
func (a *app) openOrg(cmd *cobra.Command) (*session, string, error) {
	s, err := a.open(cmd)
	if err != nil {
		return nil, "", err
	}
	if s.link.org != "" {
		return s, s.link.org, nil
	}
	who, err := s.Whoami(cmd.Context())
	if err != nil {
		return nil, "", err
	}
	if who.Organization == "_system" {
		return nil, "", usage("which organization?",
			"Say --org ID, or set KEYLEDGER_ORG. keyledger orgs list shows them; keyledger context set can remember one.")
	}
	return s, who.Organization, nil
}

// wish is what every change may be asked with.
type wish struct {
	reason         string
	ticket         string
	idempotencyKey string
	ifMatch        string
	dryRun         bool
}

// wishFlags gives a command the flags of a change.
func (a *app) wishFlags(c *cobra.Command, revisable bool) *wish {
	w := &wish{}
	f := c.Flags()
	f.StringVar(&w.reason, "reason", "", "`text` that says why, for the audit log")
	f.StringVar(&w.ticket, "ticket", "", "`name` of the ticket that asks for it, for the audit log")
	f.StringVar(&w.idempotencyKey, "idempotency-key", "", "`text` that names this wish: repeated, it is still done once")
	f.BoolVar(&w.dryRun, "dry-run", false, "show the events that would be appended, and append none")
	if revisable {
		f.StringVar(&w.ifMatch, "if-match", "", "change it only while it is of this `revision`, as get shows it")
	}
	return w
}

// answer is what an answer tells beside its document.
type answer struct {
	client.Answered
	// dryRun says that nothing was changed, and rehearsal what would have been.
	dryRun    bool
	rehearsal wire.DryRun
}

func (got *answer) meta() client.Option { return client.Meta(&got.Answered) }

// revision is the one that --if-match takes.
func (got *answer) revision() string { return strings.Trim(got.ETag, `"`) }

// options say to the API what a wish does. A wish gets a name where it has none,
// so that a person can repeat what even the client could not bring to an end.
func (a *app) options(w *wish, got *answer) []client.Option {
	if id, err := uuid.NewRandom(); w.idempotencyKey == "" && err == nil {
		w.idempotencyKey = id.String()
	}
	a.link.idempotencyKey = w.idempotencyKey
	options := []client.Option{got.meta()}
	if w.idempotencyKey != "" {
		options = append(options, client.IdempotencyKey(w.idempotencyKey))
	}
	if w.ticket != "" {
		options = append(options, client.Ticket(w.ticket))
	}
	if w.ifMatch != "" {
		options = append(options, client.IfMatch(strconv.Quote(w.ifMatch)))
	}
	if got.dryRun = w.dryRun; w.dryRun {
		options = append(options, client.DryRun(&got.rehearsal))
	}
	return options
}

// endOptions are the options of a request that has no body to give a reason in.
func (a *app) endOptions(w *wish, got *answer) []client.Option {
	return append(a.options(w, got), client.Reason(w.reason))
}

// rehearsed prints what a change would have done.
func (a *app) rehearsed(d wire.DryRun) error {
	if a.out.format == formatJSON {
		return a.out.json(d)
	}
	a.warn(d.Warnings)
	if len(d.Events) == 0 {
		return a.out.say("Nothing would change.")
	}
	if err := a.out.say("Nothing was changed. These events would be appended:\n"); err != nil {
		return err
	}
	for _, e := range d.Events {
		if err := a.out.say("  %s", a.out.bold(plain(e.Type))); err != nil {
			return err
		}
		if err := a.out.fields("    ", []field{{"subject", e.Subject}, {"data", string(e.Data)}}); err != nil {
			return err
		}
	}
	return nil
}
