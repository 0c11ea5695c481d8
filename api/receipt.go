package api

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
	"github.com/keyledger/keyledger/projections/audit"
	"github.com/keyledger/keyledger/projections/catalog"
	"github.com/keyledger/keyledger/projections/fleet"
	"github.com/keyledger/keyledger/projections/usage"
)

var errNotRevoked = errors.New("api: key is not revoked")

func (s *Server) receiptEndpoint() endpoint {
	return endpoint{
		method: "GET", path: "/v1/organizations/{org}/keys/{key}/receipt", id: "get-key-receipt", tag: "Keys",
		summary: "Get the receipt of a key's revocation",
		description: "By which verifiers it is applied and since when, the last use that was accepted, and by when those deny the key that are not heard of. " +
			"With wait the answer comes as soon as the receipt is complete, and its uses too where that takes no longer than a moment more, and after that time at the latest. " +
			"When a verifier came to apply it is known while the server runs, and for some minutes after its start: ask when you revoke, and keep the receipt.",
		who: "Role owner, admin, member or auditor, within the key's own scope.",
		query: []parameter{
			{name: "wait", description: "How long to wait until it is complete: a time such as 10s, 30s at most. None unless given.", of: "", example: "10s"},
		},
		answers: wire.Receipt{}, status: 200, codes: []string{"not_revoked"}, handle: s.keyReceipt, reads: access.AuditRead,
	}
}

// revocation is what ended a key.
type revocation struct {
	fleet.Revocation
	event audit.Event
}

func (s *Server) keyReceipt(ctx context.Context, c *call) (reply, error) {
	wait, err := c.wait()
	if err != nil {
		return reply{}, err
	}
	k, err := s.seen(ctx, c)
	if err != nil {
		return reply{}, err
	}
	rev, err := s.revocationOf(ctx, k)
	if err != nil {
		return reply{}, err
	}
	if err := s.fleetRead(ctx); err != nil {
		return reply{}, err
	}
	if wait > 0 {
		leave, err := s.waiting.sit(ctx, c.principal.Org)
		if err != nil {
			return reply{}, err
		}
		defer leave()
		// It may last longer than a request may otherwise.
		longer, cancel := context.WithTimeout(c.r.Context(), wait+commandTimeout)
		defer cancel()
		ctx = longer
	}
	standings := s.arrived(ctx, rev.Revocation, wait)
	if wait > 0 {
		if err := c.still(); err != nil {
			return reply{}, err
		}
	}
	out := s.receipt(ctx, c, k, rev, standings)
	if out.UsesComplete {
		out.UsesComplete = s.usesArrived(ctx)
	}
	out.LastAcceptedUse, err = s.lastAccepted(ctx, k)
	return reply{body: out}, err
}

// wait reads how long the caller wants to wait.
func (c *call) wait() (time.Duration, error) {
	text := c.query("wait")
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 || d > maxReceiptWait {
		return 0, refuse(errRequest, "wait", "must be a time such as 10s, %s at most", maxReceiptWait)
	}
	return d, nil
}

// revocationOf finds the event that ended a key: its revocation, or the end of its
// organization where that came first.
func (s *Server) revocationOf(ctx context.Context, k catalog.Key) (revocation, error) {
	s.settleAudit(ctx)
	var found []audit.Event
	for _, f := range []audit.Filter{
		{Org: k.Org, Key: k.ID, Kinds: []events.Kind{events.KindKeyRevoked}},
		{Org: k.Org, Kinds: []events.Kind{events.KindOrganizationDeleted}},
	} {
		f.OldestFirst, f.Limit = true, 1
		rows, _, err := s.cfg.Audit.Events(ctx, f)
		if err != nil {
			return revocation{}, err
		}
		found = append(found, rows...)
	}
	switch {
	case len(found) > 0:
		e := slices.MinFunc(found, func(a, b audit.Event) int { return cmp.Compare(a.Position, b.Position) })
		return revocation{fleet.Revocation{Org: k.Org, Position: e.Position, At: e.Stored}, e}, nil
	case k.Status == events.StatusRevoked:
		return revocation{}, refuse(events.ErrUnavailable, "", "the revocation is recorded, and the audit log's view has not come to it yet; try again")
	default:
		return revocation{}, refuse(errNotRevoked, "", "the key is %s; a receipt is for a key that was revoked", k.Status)
	}
}

// arrived returns where verifiers stand with a revocation: at once, or as soon as all
// that are live have applied it, or when the time is up. Once they have, it waits a
// moment more for their uses.
func (s *Server) arrived(ctx context.Context, rev fleet.Revocation, wait time.Duration) []fleet.Standing {
	now := time.Now()
	end := now.Add(wait)
	complete := false
	for {
		changed := s.cfg.Fleet.Changed()
		standings := s.cfg.Fleet.Standings(rev, now)
		n, looked := count(standings), time.Since(now)
		if !complete && n.complete() {
			complete = true
			end = earlier(end, now.Add(usesPatience))
		}
		if n.stored() || !now.Before(end) {
			return standings
		}
		// Leases run out without a word.
		pause := time.NewTimer(min(end.Sub(now), leaseCheck))
		select {
		case <-changed:
			// Many verifiers announce themselves at once, and to look at them all
			// shall take no processor of its own.
			time.Sleep(max(announcedTogether, 4*looked))
		case <-pause.C:
		case <-s.streaming.Done():
			end = now
		case <-ctx.Done():
			end = now
		}
		pause.Stop()
		now = time.Now()
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// tally counts the verifiers that are live.
type tally struct {
	live, applied, usesStored int
	// last is when the last of them had applied it, 0 where that is not
	// known of all.
	last events.Time
}

func count(standings []fleet.Standing) tally {
	var n tally
	known := true
	for _, v := range standings {
		if v.State != fleet.Live {
			continue
		}
		n.live++
		if v.Applied {
			n.applied++
		}
		if v.UsesStored {
			n.usesStored++
		}
		known = known && v.AppliedAt != 0
		n.last = max(n.last, v.AppliedAt)
	}
	if !known {
		n.last = 0
	}
	return n
}

// complete says that all have applied it. Of nobody nothing is known.
func (n tally) complete() bool { return n.live > 0 && n.applied == n.live }

func (n tally) stored() bool { return n.complete() && n.usesStored == n.live }

func (s *Server) receipt(ctx context.Context, c *call, k catalog.Key, rev revocation, standings []fleet.Standing) wire.Receipt {
	n := count(standings)
	names := s.changes(ctx, c.principal, false)
	out := wire.Receipt{
		KeyID: k.ID.String(), Organization: string(k.Org), Complete: n.complete(), AppliedBy: n.applied, Verifiers: n.live,
		LastAppliedAt: instant(n.last), UsesComplete: n.stored(), Items: make([]wire.ReceiptVerifier, 0, len(standings)),
		Revoked: wire.ReceiptRevoked{
			Position: s.position(rev.Position), At: rev.At.Std(), Type: rev.event.Kind.Name(), By: rev.event.Actor.String(),
			ByName: names.nameOf(rev.event.Actor), Reason: s.text(ctx, c.principal, k.Org, rev.event.Reason),
		},
	}
	slices.SortStableFunc(standings, func(a, b fleet.Standing) int { return cmp.Compare(truth(a.Applied), truth(b.Applied)) })
	everywhere, bounded := rev.At, true
	for _, v := range standings {
		out.Items = append(out.Items, s.showStanding(v))
		bounded = bounded && (v.Applied || v.DeniesBy != 0)
		everywhere = max(everywhere, v.AppliedBy, v.DeniesBy)
	}
	if bounded && len(standings) > 0 {
		out.DeniedEverywhereBy = instant(everywhere)
	}
	return out
}

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (s *Server) showStanding(v fleet.Standing) wire.ReceiptVerifier {
	out := wire.ReceiptVerifier{
		Verifier: string(v.Verifier), Kind: string(v.Kind), State: string(v.State), Since: instant(v.Since), Applied: v.Applied,
		AppliedAt: instant(v.AppliedAt), LastHeardAt: instant(v.HeardAt), MaxStaleness: v.MaxStaleness.Seconds(),
		ServesStale: v.ServesStale, DeniesBy: instant(v.DeniesBy),
	}
	if !v.Boot.IsZero() {
		out.Boot, out.Position = v.Boot.String(), s.position(v.Position)
	}
	return out
}

// usesArrived waits a moment until the view of uses has read what is stored by now.
func (s *Server) usesArrived(ctx context.Context) bool {
	if s.cfg.LastUses == nil || s.usesRead(ctx) != nil {
		return false
	}
	last, err := s.cfg.LastUses(ctx)
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, readWait)
	defer cancel()
	for {
		at, err := s.cfg.Usage.Position(ctx)
		if err != nil || at >= last {
			return err == nil
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// lastAccepted finds the last VALID use of a key. Where single uses are not kept any
// more, the time of it is.
func (s *Server) lastAccepted(ctx context.Context, k catalog.Key) (*wire.AcceptedUse, error) {
	f := usage.Filter{Org: k.Org, Key: k.ID, Code: events.CodeValid}
	f.Limit = 1
	rows, _, err := s.cfg.Usage.Uses(ctx, f)
	if err != nil {
		return nil, err
	}
	if len(rows) > 0 {
		u := rows[0]
		return &wire.AcceptedUse{At: u.At.Std(), Verifier: string(u.Verifier), Position: s.usesPosition(u.Position), Number: u.Number}, nil
	}
	last, err := s.cfg.Usage.LastUsed(ctx, k.Org, []events.KeyID{k.ID})
	if err != nil || last[k.ID].At == 0 {
		return nil, err
	}
	return &wire.AcceptedUse{At: last[k.ID].At.Std()}, nil
}
