package api

import (
	"context"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/domain/catalog"
	"github.com/keyledger/keyledger/events"
)

func (s *Server) permissionEndpoints() []endpoint {
	const path, tag = "/v1/organizations/{org}/permissions", "Permissions"
	example := wire.ReplacePermissions{Permissions: []wire.Permission{
		{Name: "interview:read", Access: "read", Routes: []string{"GET /api/v1/interviews/{id}"}},
		{Name: "interview:start", Access: "write", Description: "Start an interview", Routes: []string{"POST /api/v1/interviews/start"}},
	}}
	return []endpoint{
		{
			method: "PUT", path: path, id: "replace-permissions", tag: tag, summary: "Replace the permission catalog",
			description: "Which permissions exist, whether each reads or writes, and which routes of your API ask for it. It holds for every key from the next verdict on: a permission that is not in it is denied to all.",
			who:         "Role owner or admin of the whole organization.", takes: wire.ReplacePermissions{}, example: example, change: true, match: true,
			answers: wire.Permissions{}, status: 200, codes: []string{"invalid_value", "ended"}, handle: s.replacePermissions,
		},
		{
			method: "GET", path: path, id: "get-permissions", tag: tag, summary: "Get the permission catalog", who: "Role owner, admin, member or auditor.",
			answers: wire.Permissions{}, status: 200, handle: s.getPermissions,
		},
	}
}

func (s *Server) replacePermissions(ctx context.Context, c *call) (reply, error) {
	org, err := c.org()
	if err != nil {
		return reply{}, err
	}
	body, err := read[wire.ReplacePermissions](c)
	if err != nil {
		return reply{}, err
	}
	if body.Permissions == nil {
		return reply{}, refuse(errRequest, "permissions", "is needed; an empty list takes every permission away")
	}
	w, err := c.wish(body.Reason)
	if err != nil {
		return reply{}, err
	}
	next := catalog.Replace{}
	for _, p := range body.Permissions {
		next.Permissions = append(next.Permissions, events.CatalogPermission{
			Name: p.Name, Access: events.Access(p.Access), Description: p.Description, Routes: p.Routes,
		})
	}
	out, err := s.cfg.Commands.ReplaceCatalog(ctx, w, org, next)
	return changed(ctx, s, w, out, err, "", func() (wire.Permissions, events.Revision, error) {
		row, err := s.cfg.Catalog.Permissions(ctx, org)
		return s.showPermissions(row), row.Revision, err
	})
}

func (s *Server) getPermissions(ctx context.Context, c *call) (reply, error) {
	org, err := c.look()
	if err != nil {
		return reply{}, err
	}
	s.settle(ctx)
	if _, err := s.organization(ctx, org); err != nil {
		return reply{}, err
	}
	row, err := s.cfg.Catalog.Permissions(ctx, org)
	return reply{body: s.showPermissions(row), revision: row.Revision}, err
}
