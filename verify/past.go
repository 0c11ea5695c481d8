package verify

import (
	"context"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/index"
)

// Judge answers a question about the key with a digest, whatever the question's
// Secret, as it would have been answered at an instant by a verifier whose index
// was this one. It records nothing, waits for nothing and is never STALE:
// AtLeast is passed over. That no key has the digest is NOT_FOUND.
//
// It is for looking back, on an index that was fed with what there was then; see
// package asof. A verdict that is to be honoured is [Verifier.Verify]'s.
func Judge(x *index.Index, digest events.Digest, q *Question, at events.Time) (d Decision) {
	d.At, d.Position = at, x.Applied()
	value := index.DigestOf(digest)
	var hit index.Hit
	if !x.Lookup(&value, &hit) || q.Within != "" && q.Within != hit.Org() {
		d.Code = events.CodeNotFound
		return d
	}
	d.Key, d.Org, d.Kind, d.Role = hit.Key(), hit.Org(), hit.Kind(), hit.Role()
	d.Profile, d.Permissions, d.Scope, d.ExpiresAt = hit.Profile(), hit.Permissions(), hit.Scope(), hit.ExpiresAt()
	d.Code = judge(&hit, q, &d, false, nil)
	return d
}

// Reached reports whether the index has applied a position. It waits for that as
// long as a verdict does.
func (v *Verifier) Reached(ctx context.Context, pos events.Position) bool {
	if v.index.Applied() >= pos {
		return true
	}
	_, behind := v.catchUp(ctx, pos)
	return !behind
}

// Leads tells which key a digest leads to, if to any: the first that came with
// it, whatever became of that one since.
func (v *Verifier) Leads(d events.Digest) (events.OrgID, events.KeyID, bool) { return v.index.Taken(d) }
