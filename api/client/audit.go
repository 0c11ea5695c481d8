package client

import (
	"context"
	"net/url"
	"strings"
	"time"

	"github.com/keyledger/keyledger/api/wire"
)

// ChangeFilter says which changes are wanted; its zero value wants all of the
// organization, from the newest on.
type ChangeFilter struct {
	// Key wants what happened to a key.
	Key string
	// Actor wants what somebody did: key/<organization>/<key id>, the id of a key
	// alone, system/<part> or verifier/<id>.
	Actor string
	// Types are kinds such as key.revoked; none is all.
	Types []string
	// Workspace wants what concerns a workspace.
	Workspace string
	// Ticket wants what was done for exactly this ticket.
	Ticket string
	// From and To want what was stored within [From, To).
	From, To time.Time
	// After wants what came after a position.
	After string
	// Query wants this text in reason, ticket, a name or an id.
	Query string
	// OldestFirst turns the list around.
	OldestFirst bool
	// AllOrganizations wants those of every organization: ask it of _system.
	AllOrganizations bool
	// Raw wants the stored documents, too.
	Raw bool
	Page
}

func (f ChangeFilter) option(r *request) {
	f.ask(r.query)
	f.apply(r.query)
}

func (f ChangeFilter) ask(q url.Values) {
	set(q, "key", f.Key)
	set(q, "actor", f.Actor)
	set(q, "type", joined(f.Types))
	set(q, "workspace", f.Workspace)
	set(q, "ticket", f.Ticket)
	set(q, "from", instant(f.From))
	set(q, "to", instant(f.To))
	set(q, "after", f.After)
	set(q, "q", f.Query)
	flag(q, "raw", f.Raw)
	flag(q, "all", f.AllOrganizations)
	if f.OldestFirst {
		q.Set("order", "asc")
	}
}

// Changes lists what was changed in an organization.
func (c *Client) Changes(ctx context.Context, org string, f ChangeFilter) (wire.List[wire.Change], error) {
	return call[wire.List[wire.Change]](ctx, c, "GET", path("organizations", org, "audit")+"/events", nil, f.option)
}

// set writes a parameter that says something.
func set(q url.Values, name, value string) {
	if value != "" {
		q.Set(name, value)
	}
}

func flag(q url.Values, name string, on bool) {
	if on {
		q.Set(name, "true")
	}
}

func joined(list []string) string { return strings.Join(list, ",") }

// instant writes a time, empty for none.
func instant(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}
