package client

import (
	"context"
	"net/url"

	"github.com/keyledger/keyledger/api/wire"
)

// AsOf is what is asked about the past.
type AsOf struct {
	// At is an RFC 3339 time or a position.
	At string
	// Permission and Workspace ask for the verdict on them, Verdict for one on
	// nothing in particular.
	Permission, Workspace string
	Verdict               bool
}

// KeyAsOf reads a key as it was, with the event that made it so, and the verdict on
// it if one is asked for. It is not found when there was no such key yet.
func (c *Client) KeyAsOf(ctx context.Context, org, id string, then AsOf) (wire.Key, error) {
	return call[wire.Key](ctx, c, "GET", path("organizations", org, "keys", id), nil, func(r *request) {
		set(r.query, "as_of", then.At)
		set(r.query, "permission", then.Permission)
		set(r.query, "workspace", then.Workspace)
		flag(r.query, "verdict", then.Verdict)
	})
}

// CouldFilter says what keys could do, where and when.
type CouldFilter struct {
	// Permission and Workspace are what is asked about; empty asks about none.
	Permission, Workspace string
	// At is an RFC 3339 time or a position; empty is now.
	At string
	Page
}

func (f CouldFilter) option(r *request) {
	f.ask(r.query)
	f.apply(r.query)
}

func (f CouldFilter) ask(q url.Values) {
	set(q, "permission", f.Permission)
	set(q, "workspace", f.Workspace)
	set(q, "at", f.At)
}

// WhoCould lists the keys whose verdict on a question was VALID, from the oldest
// on. A page may be short, or empty, while it has a NextCursor.
func (c *Client) WhoCould(ctx context.Context, org string, f CouldFilter) (wire.WhoCould, error) {
	return call[wire.WhoCould](ctx, c, "GET", path("organizations", org, "audit")+"/who-could", nil, f.option)
}
