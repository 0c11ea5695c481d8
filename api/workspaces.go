package api

import (
	"context"
	"errors"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/workspace"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/catalog"
)

func (s *Server) workspaceEndpoints() []endpoint {
	const base, one = "/v1/organizations/{org}/workspaces", "/v1/organizations/{org}/workspaces/{workspace}"
	const tag = "Workspaces"
	return []endpoint{
		{
			method: "POST", path: base, id: "create-workspace", tag: tag, summary: "Create a workspace", who: "Role owner or admin of the whole organization.",
			takes: wire.CreateWorkspace{}, example: wire.CreateWorkspace{ID: "support", Name: "Support"}, change: true,
			answers: wire.Workspace{}, status: 201, codes: []string{"already_exists", "invalid_value", "ended", "limit_reached"}, handle: s.createWorkspace,
		},
		{
			method: "GET", path: base, id: "list-workspaces", tag: tag, summary: "List workspaces", description: "From the newest on.",
			who: "Role owner, admin, member or auditor; a key that is limited to workspaces sees those.", query: pageParameters(),
			answers: wire.List[wire.Workspace]{}, status: 200, codes: []string{"invalid_cursor"}, handle: s.listWorkspaces,
		},
		{
			method: "GET", path: one, id: "get-workspace", tag: tag, summary: "Get a workspace", who: "Role owner, admin, member or auditor.",
			answers: wire.Workspace{}, status: 200, handle: s.getWorkspace,
		},
		{
			method: "PATCH", path: one, id: "update-workspace", tag: tag, summary: "Rename a workspace", who: "Role owner or admin of the whole organization.",
			takes: wire.UpdateWorkspace{}, example: wire.UpdateWorkspace{Name: wire.Some("Customer support")}, change: true, match: true,
			answers: wire.Workspace{}, status: 200, codes: []string{"invalid_value", "ended"}, handle: s.updateWorkspace,
		},
		{
			method: "DELETE", path: one, id: "delete-workspace", tag: tag, summary: "End a workspace",
			description: "For ever. Keys whose last workspace it was are denied, never widened.", who: "Role owner or admin of the whole organization.",
			change: true, match: true, answers: wire.Deleted{}, status: 200, codes: []string{"ended"}, handle: s.deleteWorkspace,
		},
	}
}

// workspace reads the organization and workspace of the path.
func (c *call) workspace() (events.OrgID, events.WorkspaceID, error) {
	org, err := c.org()
	if err != nil {
		return "", "", err
	}
	id, err := events.ParseWorkspaceID(c.r.PathValue("workspace"))
	if err != nil {
		return "", "", missing("workspace")
	}
	return org, id, nil
}

func (s *Server) createWorkspace(ctx context.Context, c *call) (reply, error) {
	org, err := c.org()
	if err != nil {
		return reply{}, err
	}
	body, w, err := wished(c, func(b wire.CreateWorkspace) string { return b.Reason })
	if err != nil {
		return reply{}, err
	}
	id, err := parseID("id", body.ID, events.ParseWorkspaceID)
	if err != nil {
		return reply{}, err
	}
	out, err := s.cfg.Commands.CreateWorkspace(ctx, w, org, workspace.Create{ID: id, Name: events.ClearText(body.Name)})
	return s.workspaceChanged(ctx, w, out, err, org, id, "/v1/organizations/"+string(org)+"/workspaces/"+string(id))
}

func (s *Server) workspaceChanged(ctx context.Context, w commands.Wish, out commands.Outcome, err error,
	org events.OrgID, id events.WorkspaceID, location string,
) (reply, error) {
	return changed(ctx, s, w, out, err, location, func() (wire.Workspace, events.Revision, error) {
		row, err := s.cfg.Catalog.Workspace(ctx, org, id)
		return s.showWorkspace(row), row.Revision, err
	})
}

func (s *Server) listWorkspaces(ctx context.Context, c *call) (reply, error) {
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
	rows, next, err := s.cfg.Catalog.Workspaces(ctx, org, c.principal.Scope, catalog.Page{Cursor: c.query("cursor"), Limit: limit})
	return reply{body: list(rows, next, s.showWorkspace)}, err
}

func (s *Server) getWorkspace(ctx context.Context, c *call) (reply, error) {
	if _, err := c.look(); err != nil {
		return reply{}, err
	}
	org, id, err := c.workspace()
	if err != nil {
		return reply{}, err
	}
	if !c.principal.SeesWorkspace(id) {
		return reply{}, missing("workspace")
	}
	s.settle(ctx)
	if _, err := s.organization(ctx, org); err != nil {
		return reply{}, err
	}
	row, err := s.cfg.Catalog.Workspace(ctx, org, id)
	if err == nil && !row.DeletedAt.IsZero() || errors.Is(err, catalog.ErrNotFound) {
		return reply{}, missing("workspace")
	}
	return reply{body: s.showWorkspace(row), revision: row.Revision}, err
}

func (s *Server) updateWorkspace(ctx context.Context, c *call) (reply, error) {
	org, id, err := c.workspace()
	if err != nil {
		return reply{}, err
	}
	body, w, err := wished(c, func(b wire.UpdateWorkspace) string { return b.Reason })
	if err != nil {
		return reply{}, err
	}
	if err := needed("name", body.Name); err != nil {
		return reply{}, err
	}
	out, err := s.cfg.Commands.UpdateWorkspace(ctx, w, org, id, workspace.Update{
		Name: domain.Optional[events.Text]{Set: body.Name.Set, Value: events.ClearText(body.Name.Value)},
	})
	return s.workspaceChanged(ctx, w, out, err, org, id, "")
}

func (s *Server) deleteWorkspace(ctx context.Context, c *call) (reply, error) {
	org, id, err := c.workspace()
	if err != nil {
		return reply{}, err
	}
	w, err := c.wish("")
	if err != nil {
		return reply{}, err
	}
	out, err := s.cfg.Commands.DeleteWorkspace(ctx, w, org, id)
	return s.deleted(w, out, err)
}
