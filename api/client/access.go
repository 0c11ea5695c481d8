package client

import (
	"context"
	"time"

	"github.com/keyledger/keyledger/api/wire"
)

// AccessFilter says which access records are wanted; its zero value wants all of the
// organization, from the newest on.
type AccessFilter struct {
	// Kind wants those of a kind, such as login.failed.
	Kind string
	// Actor wants what somebody did: key/<organization>/<key id>, or the id of a key
	// alone.
	Actor string
	// From and To want minutes that begin within [From, To).
	From, To time.Time
	// AllOrganizations wants those of every organization: ask it of _system.
	AllOrganizations bool
	Page
}

func (f AccessFilter) option(r *request) {
	set(r.query, "kind", f.Kind)
	set(r.query, "actor", f.Actor)
	period(r.query, f.From, f.To)
	flag(r.query, "all", f.AllOrganizations)
	f.apply(r.query)
}

// Accesses lists who read the audit log of an organization, who could not log in,
// and what was refused.
func (c *Client) Accesses(ctx context.Context, org string, f AccessFilter) (wire.List[wire.Access], error) {
	return call[wire.List[wire.Access]](ctx, c, "GET", path("organizations", org, "audit")+"/access", nil, f.option)
}
