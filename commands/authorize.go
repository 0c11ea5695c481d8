package commands

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
)

// Principal is who wishes: a management key that was verified, or a part of
// this program. Its zero value may do nothing.
type Principal struct {
	Actor events.Actor
	// Org is the organization that the key belongs to. Keys of
	// [events.System] reach every organization.
	Org   events.OrgID
	Role  events.Role
	Scope events.Scope
}

// rank orders the roles that manage: nobody gives away, or touches, more than
// they hold. Roles that do not manage rank below all of these.
func rank(r events.Role) int {
	switch r {
	case events.RoleOwner:
		return 3
	case events.RoleAdmin:
		return 2
	default:
		return 1
	}
}

// Reaches reports whether the principal's walls include an organization. What
// cannot be an organization's id is within nobody's.
func (p Principal) Reaches(org events.OrgID) bool {
	if _, err := events.ParseOrgID(string(org)); err != nil {
		return false
	}
	return p.Role != "" && (p.Org == events.System || p.Org == org)
}

// Installation reports whether the principal belongs to the installation.
func (p Principal) Installation() bool { return p.Org == events.System && p.Role != "" }

// MayLook reports whether the principal may see an organization's workspaces,
// catalog, profiles and keys, within its scope.
func (p Principal) MayLook(org events.OrgID) bool {
	if !p.Reaches(org) {
		return false
	}
	switch p.Role {
	case events.RoleOwner, events.RoleAdmin, events.RoleMember, events.RoleAuditor:
		return true
	default:
		return false
	}
}

// MayVerify reports whether the principal may ask for verdicts: every role may.
func (p Principal) MayVerify() bool { return p.Role != "" }

// manages reports whether the principal may change anything at all in an
// organization, within its scope.
func (p Principal) manages(org events.OrgID) bool {
	return p.Reaches(org) && (p.Role == events.RoleOwner || p.Role == events.RoleAdmin)
}

// Covers reports whether a key of that scope lies within the principal's.
func (p Principal) Covers(scope events.Scope) bool {
	if p.Scope.AllWorkspaces {
		return true
	}
	if scope.AllWorkspaces || len(scope.Workspaces) == 0 {
		return false
	}
	for _, w := range scope.Workspaces {
		if !slices.Contains(p.Scope.Workspaces, w) {
			return false
		}
	}
	return true
}

// SeesWorkspace reports whether a workspace lies within the principal's scope.
func (p Principal) SeesWorkspace(id events.WorkspaceID) bool {
	return p.Scope.AllWorkspaces || slices.Contains(p.Scope.Workspaces, id)
}

// scopeText is how a fact's envelope names the scope. A long list is cut: the
// key's own facts hold all of it.
func (p Principal) scopeText() string {
	const most = 8
	if p.Scope.AllWorkspaces {
		return "*"
	}
	var out []string
	for i, w := range p.Scope.Workspaces {
		if i == most {
			out = append(out, "+"+strconv.Itoa(len(p.Scope.Workspaces)-most))
			break
		}
		out = append(out, string(w))
	}
	return strings.Join(out, ",")
}

// discreet keeps how many keys the organization has from who does not see them
// all.
func (p Principal) discreet(err error) error {
	if errors.Is(err, domain.ErrKeyLimitReached) && !p.Scope.AllWorkspaces {
		return domain.Refuse(domain.ErrKeyLimitReached, "",
			"the organization has as many active keys as it may; revoke one, or ask who manages all of it")
	}
	return err
}

func notFound(what string) error {
	return domain.Refuse(domain.ErrNotFound, "", "there is no such %s", what)
}

func forbidden(format string, args ...any) error {
	return domain.Refuse(domain.ErrForbidden, "", format, args...)
}

// authorizeOrg checks that the principal may change what belongs to the whole
// organization: its catalog, profiles, workspaces.
func (p Principal) authorizeOrg(org events.OrgID) error {
	switch {
	case !p.Reaches(org):
		return notFound("organization")
	case !p.manages(org):
		return forbidden("this needs role admin or owner; the key has role %s", p.Role)
	case !p.Scope.AllWorkspaces:
		return forbidden("this concerns the whole organization; the key's scope is limited to workspaces")
	default:
		return nil
	}
}

// authorizeInstallation checks that the principal runs the installation:
// tenants do not raise their own plans and limits.
func (p Principal) authorizeInstallation(what string) error {
	switch {
	case !p.Installation():
		return forbidden("%s needs a management key of the installation", what)
	case rank(p.Role) < rank(events.RoleAdmin):
		return forbidden("%s needs role admin or owner; the key has role %s", what, p.Role)
	case !p.Scope.AllWorkspaces:
		return forbidden("%s concerns the whole installation; the key's scope is limited to workspaces", what)
	default:
		return nil
	}
}

// authorizeKeys checks that the principal may change keys in an organization,
// before the key is known.
func (p Principal) authorizeKeys(org events.OrgID) error {
	switch {
	case !p.Reaches(org):
		return notFound("organization")
	case !p.manages(org):
		return forbidden("keys are managed by role admin or owner; the key has role %s", p.Role)
	default:
		return nil
	}
}

// authorizeKey checks that the principal may touch a key of that kind, role and
// scope. What lies outside its scope it does not see.
func (p Principal) authorizeKey(kind events.KeyKind, role events.Role, scope events.Scope) error {
	if !p.Covers(scope) {
		return notFound("key")
	}
	return p.authorizeRole(kind, role)
}

// authorizeGrant checks that the principal may hold the secret of a key of that
// role and scope. A resolver's opens provider keys, which is beyond an admin.
func (p Principal) authorizeGrant(kind events.KeyKind, role events.Role, scope events.Scope) error {
	if kind == events.KindManagement && role == events.RoleResolver && p.Role != events.RoleOwner {
		return forbidden("a management key of role resolver opens provider keys, which is beyond role %s", p.Role)
	}
	if !p.Covers(scope) {
		return forbidden("the key's scope is limited to workspaces %s; the new scope must lie within it", p.scopeText())
	}
	return p.authorizeRole(kind, role)
}

func (p Principal) authorizeRole(kind events.KeyKind, role events.Role) error {
	if kind == events.KindManagement && rank(role) > rank(p.Role) {
		return forbidden("a management key of role %s is beyond role %s", role, p.Role)
	}
	return nil
}
