package client

import (
	"context"
	"time"

	"github.com/keyledger/keyledger/api/wire"
)

// VerifierFilter says which verifiers are wanted; its zero value wants all that the
// key may see.
type VerifierFilter struct {
	// Organization wants those that answer for its keys.
	Organization string
	// State is live, lost, silent or ended.
	State string
	Page
}

func (f VerifierFilter) option(r *request) {
	set(r.query, "organization", f.Organization)
	set(r.query, "state", f.State)
	f.apply(r.query)
}

// Verifiers lists who gives verdicts, by name.
func (c *Client) Verifiers(ctx context.Context, f VerifierFilter) (wire.List[wire.Verifier], error) {
	return call[wire.List[wire.Verifier]](ctx, c, "GET", path("verifiers"), nil, f.option)
}

// Receipt tells what became of a key's revocation. With a time to wait, 30 seconds at
// most, the answer comes when every live verifier has applied it, or when the time is
// up.
func (c *Client) Receipt(ctx context.Context, org, id string, wait time.Duration, o ...Option) (wire.Receipt, error) {
	return call[wire.Receipt](ctx, c, "GET", path("organizations", org, "keys", id)+"/receipt", nil, append(o, func(r *request) {
		if wait > 0 {
			r.query.Set("wait", wait.String())
		}
	})...)
}
