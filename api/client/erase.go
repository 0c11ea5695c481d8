package client

import (
	"context"

	"github.com/keyledger/keyledger/api/wire"
)

// EraseSubject erases what was sealed of a data subject, for ever.
func (c *Client) EraseSubject(ctx context.Context, org string, body wire.Erase, o ...Option) (wire.Erased, error) {
	return call[wire.Erased](ctx, c, "POST", path("organizations", org, "audit")+"/erase", body, o...)
}
