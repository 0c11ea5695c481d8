package commands

import (
	"context"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/catalog"
	"github.com/keyledger/keyledger/domain/organization"
	"github.com/keyledger/keyledger/domain/profile"
	"github.com/keyledger/keyledger/domain/quota"
	"github.com/keyledger/keyledger/domain/workspace"
	"github.com/keyledger/keyledger/events"
)

// load reads one subject and folds it. Facts that nobody here understands and
// that bear on verdicts refuse every decision.
func load[S any](ctx context.Context, s *Service, subject events.Subject, state S, evolve func(S, events.Event) S) (S, history, error) {
	h, err := s.cfg.Log.Load(ctx, subject, 0)
	if err != nil {
		return state, nil, err
	}
	for _, f := range h {
		switch f.Event.(type) {
		case events.Unknown, events.Malformed:
			if events.Bears(f.Event) {
				return state, nil, domain.Refuse(domain.ErrConflict, "",
					"a fact at %s is not understood by this version; update the server", subject.Aggregate)
			}
		}
		state = evolve(state, f.Event)
	}
	return state, h, nil
}

// single runs a wish whose facts all belong on one subject.
func single[S, C any](ctx context.Context, s *Service, w Wish, subject events.Subject, evolve func(S, events.Event) S,
	decide func(S, C) ([]events.Event, error), command C,
) (Outcome, error) {
	if _, err := events.ParseSubject(subject.String()); err != nil {
		// A wish that creates has had its id checked: there is no such thing.
		return Outcome{}, notFound(string(subject.Aggregate))
	}
	o, err := s.order(w, subject.String())
	if err != nil {
		return Outcome{}, err
	}
	switch subject.Aggregate {
	case events.AggregateCatalog, events.AggregateWorkspace, events.AggregateProfile:
		o.under = subject.Org
	default:
		// What is decided on its own facts alone.
	}
	return s.run(ctx, o, func(ctx context.Context) (attempt, error) {
		var zero S
		state, h, err := load(ctx, s, subject, zero, evolve)
		if err != nil {
			return attempt{}, err
		}
		a := attempt{histories: map[events.Subject]history{subject: h}, revision: h.revision(), position: h.last()}
		if a.done, err = h.own(o); err != nil || len(a.done) > 0 {
			return a, err
		}
		facts, err := decide(state, command)
		for _, e := range facts {
			a.facts = append(a.facts, placed{subject: subject, event: e})
		}
		a.config = s.cfg.Configuration.position()
		return a, err
	})
}

// unless lets a wish be refused for what its aggregate does not know, after it was
// looked up among those that are fulfilled already and found good by itself.
func unless[S, C any](refuse func() error, decide func(S, C) ([]events.Event, error)) func(S, C) ([]events.Event, error) {
	if refuse == nil {
		return decide
	}
	return func(s S, c C) ([]events.Event, error) {
		facts, err := decide(s, c)
		if err == nil {
			err = refuse()
		}
		return facts, err
	}
}

// requireOrg refuses wishes inside an organization that is not there.
func (s *Service) requireOrg(ctx context.Context, org events.OrgID) error {
	return s.confirmed(ctx, org, func() error { return s.refuseOrg(org) })
}

// refuseOrg is requireOrg as far as this server knows.
func (s *Service) refuseOrg(org events.OrgID) error {
	own, doubtful := s.cfg.Configuration.standing(org)
	switch {
	case !own.Exists:
		return notFound("organization")
	case own.Ended:
		return domain.Refuse(domain.ErrEnded, "", "the organization has ended")
	case doubtful:
		return domain.Refuse(domain.ErrConflict, "", "the organization's configuration holds a fact that this version does not understand; update the server")
	default:
		return nil
	}
}

// CreateOrganization begins an organization.
func (s *Service) CreateOrganization(ctx context.Context, w Wish, c organization.Create) (Outcome, error) {
	if err := w.Principal.authorizeInstallation("creating an organization"); err != nil {
		return Outcome{}, err
	}
	if c.ID == events.System {
		return Outcome{}, domain.Refuse(domain.ErrExists, "id", "is the installation's own")
	}
	if _, err := events.ParseOrgID(string(c.ID)); err != nil {
		return Outcome{}, domain.RefuseID("id")
	}
	if err := s.retain(c.Policy.UsesRetention); err != nil {
		return Outcome{}, err
	}
	return single(ctx, s, w, events.OrganizationSubject(c.ID), organization.Evolve, organization.Decide, organization.Command(c))
}

// UpdateOrganization changes an organization. Its plan and limits are the
// installation's to change, its name and policy its own as well.
func (s *Service) UpdateOrganization(ctx context.Context, w Wish, org events.OrgID, c organization.Update) (Outcome, error) {
	if err := w.Principal.authorizeOrg(org); err != nil {
		return Outcome{}, err
	}
	if c.Plan.Set || c.ChangesLimits() {
		if err := w.Principal.authorizeInstallation("changing plan or limits"); err != nil {
			return Outcome{}, err
		}
	}
	if err := s.retain(c.UsesRetention.Or(c.Policy.Value.UsesRetention)); err != nil {
		return Outcome{}, err
	}
	c.Insist = w.insists()
	o, err := s.order(w, events.OrganizationSubject(org).String())
	if err != nil {
		return Outcome{}, err
	}
	if c.ChangesLimits() {
		leave, err := s.lanes.enter(ctx, org)
		if err != nil {
			return Outcome{}, err
		}
		defer leave()
	}
	return s.run(ctx, o, func(ctx context.Context) (attempt, error) {
		subject := events.OrganizationSubject(org)
		state, h, _, err := s.loadOrganization(ctx, org)
		if err != nil {
			return attempt{}, err
		}
		// Read before the holders are: the guard covers every key up to here.
		a := attempt{
			histories: map[events.Subject]history{subject: h}, revision: h.revision(), position: h.last(),
			config: s.cfg.Configuration.position(),
		}
		if a.done, err = h.own(o); err != nil || len(a.done) > 0 {
			return a, err
		}
		facts, err := organization.Decide(state, c)
		if err != nil {
			return a, err
		}
		for _, e := range facts {
			a.facts = append(a.facts, placed{subject: subject, event: e})
			if e, ok := e.(events.OrganizationLimitsChanged); ok && e.Limits.MaxActiveKeys > 0 && state.Limits.MaxActiveKeys == 0 {
				if err := s.resetQuota(ctx, org, e.Limits.MaxActiveKeys, &a); err != nil {
					return a, err
				}
			}
		}
		return a, nil
	})
}

// loadOrganization folds an organization with its end, and returns the histories
// of its own subject and of its end's.
func (s *Service) loadOrganization(ctx context.Context, org events.OrgID) (state organization.State, own, end history, err error) {
	if state, own, err = load(ctx, s, events.OrganizationSubject(org), state, organization.Evolve); err != nil {
		return state, nil, nil, err
	}
	state, end, err = load(ctx, s, events.EndSubject(org), state, organization.Evolve)
	return state, own, end, err
}

// resetQuota writes the holders as they are, for a limit where there was none.
func (s *Service) resetQuota(ctx context.Context, org events.OrgID, limit int, a *attempt) error {
	subject := events.QuotaSubject(org)
	guard, h, err := s.loadQuota(ctx, org)
	if err != nil {
		return err
	}
	holders, err := s.cfg.Holders(ctx, org)
	if err != nil {
		return err
	}
	facts, err := quota.Decide(guard, quota.Reset{Limit: limit, Holders: holders})
	a.histories[subject] = h
	for _, e := range facts {
		a.facts = append(a.facts, placed{subject: subject, event: e})
	}
	return err
}

// DeleteOrganization ends an organization: one fact that denies all its keys.
func (s *Service) DeleteOrganization(ctx context.Context, w Wish, org events.OrgID) (Outcome, error) {
	if err := w.Principal.authorizeOrg(org); err != nil {
		return Outcome{}, err
	}
	if w.Principal.Role != events.RoleOwner {
		return Outcome{}, forbidden("deleting an organization needs role owner; the key has role %s", w.Principal.Role)
	}
	o, err := s.order(w, events.EndSubject(org).String())
	if err != nil {
		return Outcome{}, err
	}
	return s.run(ctx, o, func(ctx context.Context) (attempt, error) {
		subject := events.EndSubject(org)
		state, h, end, err := s.loadOrganization(ctx, org)
		if err != nil {
			return attempt{}, err
		}
		a := attempt{
			histories: map[events.Subject]history{subject: end},
			revision:  h.revision() + end.revision(), position: max(h.last(), end.last()), absorbing: true,
		}
		if a.done, err = end.own(o); err != nil || len(a.done) > 0 {
			return a, err
		}
		facts, err := organization.Decide(state, organization.Delete{})
		for _, e := range facts {
			a.facts = append(a.facts, placed{subject: subject, event: e})
		}
		a.config = s.cfg.Configuration.position()
		return a, err
	})
}

// CreateWorkspace begins a workspace.
func (s *Service) CreateWorkspace(ctx context.Context, w Wish, org events.OrgID, c workspace.Create) (Outcome, error) {
	if _, err := events.ParseWorkspaceID(string(c.ID)); err != nil {
		return Outcome{}, domain.RefuseID("id")
	}
	return s.workspace(ctx, w, org, c.ID, c, func() error {
		workspaces, _ := s.cfg.Configuration.sizes(org)
		return refuseFull(workspaces, events.MaxWorkspaces, "workspaces")
	})
}

// refuseFull refuses one more of what an organization has in bounded number. How
// many there are is followed and not loaded: creates that race may pass the
// bound by as many.
func refuseFull(has, limit int, what string) error {
	if has < limit {
		return nil
	}
	return domain.Refuse(domain.ErrLimitReached, "", "the organization has %d %s, as many as one may have; delete one that is not needed any more", has, what)
}

// UpdateWorkspace changes a workspace.
func (s *Service) UpdateWorkspace(ctx context.Context, w Wish, org events.OrgID, id events.WorkspaceID, c workspace.Update) (Outcome, error) {
	c.Insist = w.insists()
	return s.workspace(ctx, w, org, id, c, nil)
}

// DeleteWorkspace ends a workspace for ever.
func (s *Service) DeleteWorkspace(ctx context.Context, w Wish, org events.OrgID, id events.WorkspaceID) (Outcome, error) {
	return s.workspace(ctx, w, org, id, workspace.Delete{}, nil)
}

func (s *Service) workspace(ctx context.Context, w Wish, org events.OrgID, id events.WorkspaceID, c workspace.Command, refuse func() error) (Outcome, error) {
	if err := s.authorizeWithin(ctx, w, org); err != nil {
		return Outcome{}, err
	}
	return single(ctx, s, w, events.WorkspaceSubject(org, id), workspace.Evolve, unless(refuse, workspace.Decide), c)
}

// ReplaceCatalog puts a whole permission catalog in the place of the one before.
func (s *Service) ReplaceCatalog(ctx context.Context, w Wish, org events.OrgID, c catalog.Replace) (Outcome, error) {
	if err := s.authorizeWithin(ctx, w, org); err != nil {
		return Outcome{}, err
	}
	c.Insist = w.insists()
	return single(ctx, s, w, events.CatalogSubject(org), catalog.Evolve, catalog.Decide, catalog.Command(c))
}

// CreateProfile begins a profile.
func (s *Service) CreateProfile(ctx context.Context, w Wish, org events.OrgID, c profile.Create) (Outcome, error) {
	if _, err := events.ParseProfileID(string(c.ID)); err != nil {
		return Outcome{}, domain.RefuseID("id")
	}
	return s.profile(ctx, w, org, c.ID, c, func() error {
		_, profiles := s.cfg.Configuration.sizes(org)
		return refuseFull(profiles, events.MaxProfiles, "profiles")
	})
}

// UpdateProfile changes a profile.
func (s *Service) UpdateProfile(ctx context.Context, w Wish, org events.OrgID, id events.ProfileID, c profile.Update) (Outcome, error) {
	c.Insist = w.insists()
	return s.profile(ctx, w, org, id, c, nil)
}

// DeleteProfile ends a profile for ever. Whether keys use it is the caller's to
// ask first: the answer of a view is advisory.
func (s *Service) DeleteProfile(ctx context.Context, w Wish, org events.OrgID, id events.ProfileID) (Outcome, error) {
	return s.profile(ctx, w, org, id, profile.Delete{}, nil)
}

func (s *Service) profile(ctx context.Context, w Wish, org events.OrgID, id events.ProfileID, c profile.Command, refuse func() error) (Outcome, error) {
	if err := s.authorizeWithin(ctx, w, org); err != nil {
		return Outcome{}, err
	}
	return single(ctx, s, w, events.ProfileSubject(org, id), profile.Evolve, unless(refuse, profile.Decide), c)
}

// authorizeWithin checks that the principal may change what belongs to the
// whole of a live organization other than the installation's own.
func (s *Service) authorizeWithin(ctx context.Context, w Wish, org events.OrgID) error {
	if err := w.Principal.authorizeOrg(org); err != nil {
		return err
	}
	if org == events.System {
		return domain.Refuse(domain.ErrInvalid, "", "the installation's own organization has management keys only")
	}
	return s.requireOrg(ctx, org)
}
