package client

import (
	"context"
	"net/url"
	"time"

	"github.com/keyledger/keyledger/api/wire"
)

// UseFilter says which uses are wanted; its zero value wants all, from the newest
// on.
type UseFilter struct {
	// Key wants those of one key.
	Key string
	// From and To want those from then on, and before then.
	From, To time.Time
	// Code wants those with a verdict, such as EXPIRED.
	Code string
	// Permission and Workspace want those that asked for them.
	Permission, Workspace string
	// Order is desc, asc, or stored: those that are stored from now on, with a
	// cursor that always goes on.
	Order string
	Page
}

func (f UseFilter) option(r *request) {
	f.asked(r.query)
	set(r.query, "permission", f.Permission)
	set(r.query, "workspace", f.Workspace)
	set(r.query, "order", f.Order)
}

func (f UseFilter) asked(q url.Values) {
	set(q, "from", instant(f.From))
	set(q, "to", instant(f.To))
	set(q, "code", f.Code)
	f.apply(q)
}

// KeyUses lists the uses of a key.
func (c *Client) KeyUses(ctx context.Context, org, id string, f UseFilter) (wire.KeptList[wire.Use], error) {
	return call[wire.KeptList[wire.Use]](ctx, c, "GET", path("organizations", org, "keys", id)+"/uses", nil, f.option)
}

// Uses lists the uses of an organization's keys, or of the one that the filter
// names.
func (c *Client) Uses(ctx context.Context, org string, f UseFilter) (wire.KeptList[wire.Use], error) {
	return call[wire.KeptList[wire.Use]](ctx, c, "GET", path("organizations", org, "audit")+"/uses", nil, f.option, func(r *request) { set(r.query, "key", f.Key) })
}

// UseCounts counts uses by minute, hour or day. Of the filter it takes the key, the
// times and the code.
func (c *Client) UseCounts(ctx context.Context, org, unit string, f UseFilter) (wire.KeptList[wire.UseCount], error) {
	return call[wire.KeptList[wire.UseCount]](ctx, c, "GET", path("organizations", org, "audit")+"/uses/counts", nil, func(r *request) {
		f.asked(r.query)
		set(r.query, "key", f.Key)
		set(r.query, "unit", unit)
	})
}

// KeySources lists where a key was used from.
func (c *Client) KeySources(ctx context.Context, org, id string) (wire.List[wire.KeySource], error) {
	return call[wire.List[wire.KeySource]](ctx, c, "GET", path("organizations", org, "keys", id)+"/sources", nil)
}

// UsesFindings lists what is missing in the record of uses.
func (c *Client) UsesFindings(ctx context.Context, org string, p Page) (wire.List[wire.UsesFinding], error) {
	return call[wire.List[wire.UsesFinding]](ctx, c, "GET", path("organizations", org, "audit")+"/uses/findings", nil, paged(p))
}
