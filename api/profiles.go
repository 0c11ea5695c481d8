package api

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/domain/profile"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/catalog"
)

func (s *Server) profileEndpoints() []endpoint {
	const base, one = "/v1/organizations/{org}/profiles", "/v1/organizations/{org}/profiles/{profile}"
	const tag = "Profiles"
	force := parameter{name: "force", description: "Detach the profile from every key that has it, and then end it.", of: false}
	return []endpoint{
		{
			method: "POST", path: base, id: "create-profile", tag: tag, summary: "Create a profile",
			description: "A named settings document of your own, which comes back with every verdict on a key that has it.",
			who:         "Role owner or admin of the whole organization.", takes: wire.CreateProfile{},
			example: wire.CreateProfile{ID: "gold", Name: "Gold", Settings: jsontext.Value(`{"model":"large","max_minutes":60}`)},
			change:  true, answers: wire.Profile{}, status: 201, codes: []string{"already_exists", "invalid_value", "ended", "limit_reached"}, handle: s.createProfile,
		},
		{
			method: "GET", path: base, id: "list-profiles", tag: tag, summary: "List profiles", description: "From the newest on.",
			who: "Role owner, admin, member or auditor.", query: pageParameters(), answers: wire.List[wire.Profile]{}, status: 200,
			codes: []string{"invalid_cursor"}, handle: s.listProfiles,
		},
		{
			method: "GET", path: one, id: "get-profile", tag: tag, summary: "Get a profile", who: "Role owner, admin, member or auditor.",
			answers: wire.Profile{}, status: 200, handle: s.getProfile,
		},
		{
			method: "PATCH", path: one, id: "update-profile", tag: tag, summary: "Change a profile",
			description: "A merge patch, down into the settings. It holds from the next verdict on.", who: "Role owner or admin of the whole organization.",
			takes: wire.UpdateProfile{}, example: wire.UpdateProfile{Settings: jsontext.Value(`{"max_minutes":90}`)}, change: true, match: true,
			answers: wire.Profile{}, status: 200, codes: []string{"invalid_value", "ended"}, handle: s.updateProfile,
		},
		{
			method: "DELETE", path: one, id: "delete-profile", tag: tag, summary: "End a profile",
			description: "For ever. A profile that keys have is refused with in_use, unless force=true detaches it from each of them first.",
			who:         "Role owner or admin of the whole organization.", query: []parameter{force}, change: true, match: true,
			answers: wire.Deleted{}, status: 200, codes: []string{"in_use"}, handle: s.deleteProfile,
		},
	}
}

// profile reads the organization and profile of the path.
func (c *call) profile() (events.OrgID, events.ProfileID, error) {
	org, err := c.org()
	if err != nil {
		return "", "", err
	}
	id, err := events.ParseProfileID(c.r.PathValue("profile"))
	if err != nil {
		return "", "", missing("profile")
	}
	return org, id, nil
}

func (s *Server) createProfile(ctx context.Context, c *call) (reply, error) {
	org, err := c.org()
	if err != nil {
		return reply{}, err
	}
	body, w, err := wished(c, func(b wire.CreateProfile) string { return b.Reason })
	if err != nil {
		return reply{}, err
	}
	id, err := parseID("id", body.ID, events.ParseProfileID)
	if err != nil {
		return reply{}, err
	}
	if body.Settings.Kind() == jsontext.KindNull {
		body.Settings = nil
	}
	out, err := s.cfg.Commands.CreateProfile(ctx, w, org, profile.Create{ID: id, Name: events.ClearText(body.Name), Settings: body.Settings})
	return s.profileChanged(ctx, w, out, err, org, id, "/v1/organizations/"+string(org)+"/profiles/"+string(id))
}

func (s *Server) profileChanged(ctx context.Context, w commands.Wish, out commands.Outcome, err error,
	org events.OrgID, id events.ProfileID, location string,
) (reply, error) {
	return changed(ctx, s, w, out, err, location, func() (wire.Profile, events.Revision, error) {
		row, err := s.cfg.Catalog.Profile(ctx, org, id)
		return s.showProfile(row), row.Revision, err
	})
}

func (s *Server) listProfiles(ctx context.Context, c *call) (reply, error) {
	org, err := c.look()
	if err != nil {
		return reply{}, err
	}
	limit, err := c.limit()
	if err != nil {
		return reply{}, err
	}
	s.settle(ctx)
	if _, err := s.organization(ctx, org); err != nil {
		return reply{}, err
	}
	rows, next, err := s.cfg.Catalog.Profiles(ctx, org, catalog.Page{Cursor: c.query("cursor"), Limit: limit})
	return reply{body: list(rows, next, s.showProfile)}, err
}

func (s *Server) getProfile(ctx context.Context, c *call) (reply, error) {
	if _, err := c.look(); err != nil {
		return reply{}, err
	}
	org, id, err := c.profile()
	if err != nil {
		return reply{}, err
	}
	s.settle(ctx)
	if _, err := s.organization(ctx, org); err != nil {
		return reply{}, err
	}
	row, err := s.cfg.Catalog.Profile(ctx, org, id)
	if err == nil && !row.DeletedAt.IsZero() || errors.Is(err, catalog.ErrNotFound) {
		return reply{}, missing("profile")
	}
	return reply{body: s.showProfile(row), revision: row.Revision}, err
}

func (s *Server) updateProfile(ctx context.Context, c *call) (reply, error) {
	org, id, err := c.profile()
	if err != nil {
		return reply{}, err
	}
	body, w, err := wished(c, func(b wire.UpdateProfile) string { return b.Reason })
	if err != nil {
		return reply{}, err
	}
	if err := needed("name", body.Name); err != nil {
		return reply{}, err
	}
	change := profile.Update{Name: domain.Optional[events.Text]{Set: body.Name.Set, Value: events.ClearText(body.Name.Value)}}
	switch body.Settings.Kind() {
	case jsontext.KindInvalid:
	case jsontext.KindNull:
		change.Settings = domain.Some(events.Document("{}"))
	case jsontext.KindBeginObject:
		change.Patch = domain.Some(body.Settings)
	default:
		return reply{}, refuse(errRequest, "settings", "must be an object")
	}
	out, err := s.cfg.Commands.UpdateProfile(ctx, w, org, id, change)
	return s.profileChanged(ctx, w, out, err, org, id, "")
}

func (s *Server) deleteProfile(ctx context.Context, c *call) (reply, error) {
	org, id, err := c.profile()
	if err != nil {
		return reply{}, err
	}
	force, err := c.flag("force")
	if err != nil {
		return reply{}, err
	}
	w, err := c.wish("")
	if err != nil {
		return reply{}, err
	}
	// Tried first: who may not, or comes too late, learns nothing of its keys
	// and detaches none.
	try := w
	try.DryRun = true
	tried, err := s.cfg.Commands.DeleteProfile(ctx, try, org, id)
	if err != nil {
		return reply{}, err
	}
	// A profile that has gone is nobody's to be in use, unless what is left of
	// it shall be taken off the keys.
	if !tried.Replayed && (len(tried.Facts) > 0 || force) {
		detached, err := s.detach(ctx, w, org, id, force)
		if err != nil || w.DryRun {
			return detached.and(tried.Facts, err)
		}
	}
	out, err := s.cfg.Commands.DeleteProfile(ctx, w, org, id)
	return s.deleted(w, out, err)
}

// previews are the events of several changes that were only tried.
type previews []events.Recorded

func (p previews) and(facts []events.Recorded, err error) (reply, error) {
	if err != nil {
		return reply{}, err
	}
	return preview(append(p, facts...))
}

// detach takes a profile off every key that has it, or refuses when there are
// any and force is not given. Who has it is a view's answer and advisory: a key
// that gets it in the same moment keeps the name of a profile that has gone.
func (s *Server) detach(ctx context.Context, w commands.Wish, org events.OrgID, id events.ProfileID, force bool) (previews, error) {
	var tried previews
	w.IfMatch, w.IdempotencyKey = 0, ""
	for range detachRounds {
		s.settle(ctx)
		now := events.TimeOf(time.Now())
		if !force {
			users, err := s.cfg.Catalog.KeysUsingProfile(ctx, org, id, now)
			if err == nil && users.Count > 0 {
				err = inUse(users)
			}
			return nil, err
		}
		users, err := s.cfg.Catalog.KeysWithProfile(ctx, org, id, now)
		if err != nil || len(users) == 0 {
			return tried, err
		}
		for _, user := range users {
			out, err := s.cfg.Commands.UpdateKey(ctx, w, org, user, key.Update{Profile: domain.Some(events.ProfileID(""))})
			if err != nil && !errors.Is(err, domain.ErrEnded) {
				return nil, err
			}
			if err == nil {
				s.remember(out.Position)
				tried = append(tried, out.Facts...)
			}
		}
		if w.DryRun {
			return tried, nil
		}
	}
	return nil, domain.Refuse(domain.ErrInUse, "", "keys keep getting the profile while it is detached; try again")
}

func inUse(users catalog.Users) error {
	names := make([]string, 0, namedUsers)
	for _, id := range users.First[:min(len(users.First), namedUsers)] {
		names = append(names, id.String())
	}
	more := ""
	if n := users.Count - len(names); n > 0 {
		more = fmt.Sprintf(" and %d more", n)
	}
	have, them := "keys have", "them"
	if users.Count == 1 {
		have, them = "key has", "it"
	}
	return domain.Refuse(domain.ErrInUse, "", "%d %s the profile: %s%s; detach it from %s, or ask with force=true",
		users.Count, have, strings.Join(names, ", "), more, them)
}
