package commands_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/catalog"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/domain/organization"
	"github.com/keyledger/keyledger/domain/profile"
	"github.com/keyledger/keyledger/domain/workspace"
	"github.com/keyledger/keyledger/events"
)

var name = events.ClearText("N")

// outcomes of an attempt, as one letter each in the table below.
func letter(err error) string {
	switch {
	case err == nil:
		return "y"
	case errors.Is(err, domain.ErrForbidden):
		return "f"
	case errors.Is(err, domain.ErrNotFound):
		return "n"
	default:
		return "? " + err.Error()
	}
}

// TestWhoMay is the whole matrix: one line per action, one column per principal.
// y is done, f is forbidden, n is "there is no such thing".
func TestWhoMay(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	w.acme(s, events.Limits{})
	w.organization(s, "beta", events.Limits{})
	principals := []commands.Principal{
		principal(events.System, events.RoleOwner), principal(events.System, events.RoleAdmin), principal(events.System, events.RoleAuditor),
		principal(acme, events.RoleOwner), principal(acme, events.RoleAdmin), principal(acme, events.RoleAdmin, "a"),
		principal(acme, events.RoleMember), principal(acme, events.RoleAuditor), principal(acme, events.RoleVerifier), principal(acme, events.RoleResolver),
		principal("beta", events.RoleOwner),
		{Org: acme, Actor: w.owner.Actor, Scope: w.owner.Scope},
		{},
	}
	// Fresh for each cell: what is done here must not decide another cell.
	fresh := func(c commands.CreateKey) events.KeyID { return w.create(s, acme, c).Key.ID }
	create := func(c commands.CreateKey) func(commands.Wish) error {
		return func(wish commands.Wish) error {
			_, err := s.CreateKey(w.ctx, wish, acme, c)
			return err
		}
	}
	update := func(c commands.CreateKey, u key.Update) func(commands.Wish) error {
		return func(wish commands.Wish) error {
			_, err := s.UpdateKey(w.ctx, wish, acme, fresh(c), u)
			return err
		}
	}
	rotate := func(c commands.CreateKey) func(commands.Wish) error {
		return func(wish commands.Wish) error {
			_, err := s.RotateKey(w.ctx, wish, acme, fresh(c), commands.RotateKey{})
			return err
		}
	}
	revoke := func(c commands.CreateKey) func(commands.Wish) error {
		return func(wish commands.Wish) error {
			_, err := s.RevokeKey(w.ctx, wish, acme, fresh(c), false)
			return err
		}
	}
	rename := key.Update{Name: domain.Some(name)}
	n := 0
	id := func() string { n++; return "x" + strings.Repeat("x", n) }
	fatal := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		action string
		may    string // installation owner, admin, auditor; acme's owner, admin, admin of a, member, auditor, verifier, resolver; beta's owner; no role; nobody
		do     func(commands.Wish) error
	}{
		{"create an organization", "yyfffffffffff", func(wish commands.Wish) error {
			_, err := s.CreateOrganization(w.ctx, wish, organization.Create{ID: events.OrgID(id()), Name: name})
			return err
		}},
		{"rename the organization", "yyfyyfffffnnn", func(wish commands.Wish) error {
			_, err := s.UpdateOrganization(w.ctx, wish, acme, organization.Update{Name: domain.Some(events.ClearText(id()))})
			return err
		}},
		{"change its limits", "yyffffffffnnn", func(wish commands.Wish) error {
			_, err := s.UpdateOrganization(w.ctx, wish, acme, organization.Update{Limits: domain.Some(events.Limits{MaxKeyLifetime: "100y"})})
			return err
		}},
		{"change its plan", "yyffffffffnnn", func(wish commands.Wish) error {
			_, err := s.UpdateOrganization(w.ctx, wish, acme, organization.Update{Plan: domain.Some(events.PlanEnterprise)})
			return err
		}},
		{"create a workspace", "yyfyyfffffnnn", func(wish commands.Wish) error {
			_, err := s.CreateWorkspace(w.ctx, wish, acme, workspace.Create{ID: events.WorkspaceID(id()[:min(n, 60)]), Name: name})
			return err
		}},
		{"delete a workspace", "yyfyyfffffnnn", func(wish commands.Wish) error {
			gone := events.WorkspaceID(id()[:min(n, 60)])
			_, err := s.CreateWorkspace(w.ctx, w.by(w.owner), acme, workspace.Create{ID: gone, Name: name})
			fatal(err)
			_, err = s.DeleteWorkspace(w.ctx, wish, acme, gone)
			return err
		}},
		{"replace the catalog", "yyfyyfffffnnn", func(wish commands.Wish) error {
			_, err := s.ReplaceCatalog(w.ctx, wish, acme, catalog.Replace{Permissions: []events.CatalogPermission{{Name: "a:b", Access: events.AccessRead}}})
			return err
		}},
		{"create a profile", "yyfyyfffffnnn", func(wish commands.Wish) error {
			_, err := s.CreateProfile(w.ctx, wish, acme, profile.Create{ID: events.ProfileID(id()[:min(n, 60)]), Name: name})
			return err
		}},

		{"create a key everywhere", "yyfyyfffffnnn", create(plain())},
		{"create a key in a", "yyfyyyffffnnn", create(plain("a"))},
		{"create a key in a and b", "yyfyyfffffnnn", create(plain("a", "b"))},
		{"create an owner", "yffyffffffnnn", create(management(events.RoleOwner))},
		{"create an admin", "yyfyyfffffnnn", create(management(events.RoleAdmin))},
		{"create an admin of a", "yyfyyyffffnnn", create(management(events.RoleAdmin, "a"))},
		{"create an auditor", "yyfyyfffffnnn", create(management(events.RoleAuditor))},
		{"create a resolver", "yffyffffffnnn", create(management(events.RoleResolver))},

		{"edit a key everywhere", "yyfyynffffnnn", update(plain(), rename)},
		{"edit a key in a", "yyfyyyffffnnn", update(plain("a"), rename)},
		{"edit a key in a and b", "yyfyynffffnnn", update(plain("a", "b"), rename)},
		{"move a key from a to b", "yyfyyfffffnnn", update(plain("a"), key.Update{Scope: domain.Some(events.Scope{Workspaces: []events.WorkspaceID{"b"}})})},
		{"widen a key in a", "yyfyyfffffnnn", update(plain("a"), key.Update{Scope: domain.Some(events.Scope{AllWorkspaces: true})})},
		{"edit an owner", "yffyfnffffnnn", update(management(events.RoleOwner), rename)},
		{"edit an owner of a", "yffyffffffnnn", update(management(events.RoleOwner, "a"), rename)},
		{"edit an admin", "yyfyynffffnnn", update(management(events.RoleAdmin), rename)},

		{"rotate a key everywhere", "yyfyynffffnnn", rotate(plain())},
		{"rotate a key in a", "yyfyyyffffnnn", rotate(plain("a"))},
		{"rotate an owner", "yffyfnffffnnn", rotate(management(events.RoleOwner))},
		{"rotate an admin", "yyfyynffffnnn", rotate(management(events.RoleAdmin))},
		{"rotate a resolver", "yffyfnffffnnn", rotate(management(events.RoleResolver))},

		{"revoke a key everywhere", "yyfyynffffnnn", revoke(plain())},
		{"revoke a key in a", "yyfyyyffffnnn", revoke(plain("a"))},
		{"revoke an owner", "yffyfnffffnnn", revoke(management(events.RoleOwner))},
		{"revoke an admin", "yyfyynffffnnn", revoke(management(events.RoleAdmin))},
		{"revoke a resolver", "yyfyynffffnnn", revoke(management(events.RoleResolver))},

		{"delete the organization", "y", func(wish commands.Wish) error {
			_, err := s.DeleteOrganization(w.ctx, wish, acme)
			return err
		}},
	} {
		t.Run(c.action, func(t *testing.T) {
			// The end of the organization is tried by those who may not, last by one who may.
			who := principals
			if c.action == "delete the organization" {
				c.may = "ffffffffnnny"
				who = append(append([]commands.Principal{}, principals[1:3]...), principals[4:]...)
				who = append(who, principals[3])
			}
			for i, p := range who {
				before := w.last()
				err := c.do(w.by(p))
				if got, want := letter(err), c.may[i:i+1]; got != want {
					t.Errorf("role %q of %q in %v: %s, want %s (%v)", p.Role, p.Org, p.Scope.Workspaces, got, want, err)
				}
				if err == nil {
					continue
				}
				for _, f := range w.all()[before:] {
					if f.Meta.Actor != w.owner.Actor {
						t.Errorf("role %q of %q: refused, and position %d appended", p.Role, p.Org, f.Position)
					}
				}
			}
		})
	}
}

func TestAManagementKeyDoesNotLockItselfOut(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	w.acme(s, events.Limits{})
	k := w.create(s, acme, management(events.RoleOwner)).Key
	self := principal(acme, events.RoleOwner)
	self.Actor.Key = k.ID
	if _, err := s.RevokeKey(w.ctx, w.by(self), acme, k.ID, false); !errors.Is(err, domain.ErrForbidden) {
		t.Error(err)
	}
	if _, err := s.UpdateKey(w.ctx, w.by(self), acme, k.ID, key.Update{Status: domain.Some(events.StatusInactive)}); !errors.Is(err, domain.ErrForbidden) {
		t.Error(err)
	}
	// Nor by way of a predecessor.
	next, err := s.RotateKey(w.ctx, w.by(self), acme, k.ID, commands.RotateKey{Grace: 1 << 40})
	if err != nil {
		t.Fatal(err)
	}
	self.Actor.Key = next.Key.ID
	if _, err := s.RevokeKey(w.ctx, w.by(self), acme, k.ID, true); !errors.Is(err, domain.ErrForbidden) {
		t.Error(err)
	}
	if _, err := s.RevokeKey(w.ctx, w.by(self), acme, k.ID, false); err != nil {
		t.Error(err)
	}
}

func TestWhatAPrincipalSees(t *testing.T) {
	nobody := commands.Principal{}
	if nobody.MayVerify() || nobody.MayLook("") || nobody.MayLook(acme) || nobody.Reaches("") || nobody.Installation() || nobody.SeesWorkspace("a") || nobody.Covers(events.Scope{}) {
		t.Error("nobody sees something")
	}
	for role, looks := range map[events.Role]bool{
		events.RoleOwner: true, events.RoleAdmin: true, events.RoleMember: true, events.RoleAuditor: true,
		events.RoleVerifier: false, events.RoleResolver: false, "": false, "root": false,
	} {
		for _, org := range []events.OrgID{acme, events.System} {
			p := principal(org, role)
			if p.MayLook(acme) != looks || p.MayLook("beta") != (looks && org == events.System) || p.MayLook("no.org") || p.MayVerify() != (role != "") {
				t.Errorf("role %q of %q", role, org)
			}
		}
	}
	scoped := principal(acme, events.RoleAdmin, "a", "b")
	for _, c := range []struct {
		scope events.Scope
		want  bool
	}{
		{events.Scope{Workspaces: []events.WorkspaceID{"a"}}, true},
		{events.Scope{Workspaces: []events.WorkspaceID{"b", "a"}}, true},
		{events.Scope{Workspaces: []events.WorkspaceID{"a", "c"}}, false},
		{events.Scope{AllWorkspaces: true}, false},
		{events.Scope{AllWorkspaces: true, Workspaces: []events.WorkspaceID{"a"}}, false},
		{events.Scope{}, false},
	} {
		if scoped.Covers(c.scope) != c.want {
			t.Errorf("covers %+v", c.scope)
		}
	}
	if !scoped.SeesWorkspace("a") || scoped.SeesWorkspace("c") {
		t.Error("workspaces")
	}
}
