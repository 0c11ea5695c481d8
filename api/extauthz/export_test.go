package extauthz

import (
	"context"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/verify"
)

// Plain answers a question with the generated types alone.
func Plain(ctx context.Context, g *gate.Gate, r *authv3.CheckRequest) *authv3.CheckResponse {
	var a asked
	a.from(r)
	t := told{requestID: a.requested(), claimed: a.claimed}
	var q verify.Question
	a.ask(&q, a.secret(), t.requestID, false)
	d := g.Judge(ctx, gate.DoorExtAuthz, &q)
	t.d, t.position = &d, g.Position(d.Position)
	if !d.Valid() {
		t.deny()
	}
	return intended(&t)
}
