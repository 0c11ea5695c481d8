package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/api/wire"
)

type session struct {
	link    link
	http    *http.Client
	version string
}

type query struct {
	limit                                                            int
	cursor, status, workspace, search, unusedSince, externalID, kind string
}

func (q query) values() url.Values {
	v := url.Values{}
	for name, value := range map[string]string{
		"cursor": q.cursor, "status": q.status, "workspace": q.workspace, "q": q.search,
		"unused_since": q.unusedSince, "external_id": q.externalID, "kind": q.kind,
	} {
		if value != "" {
			v.Set(name, value)
		}
	}
	if q.limit > 0 {
		v.Set("limit", strconv.Itoa(q.limit))
	}
	return v
}

type answer struct {
	revision string
	replayed bool
	dryRun   *wire.DryRun
}

type problemError struct{ wire.Problem }

func (p *problemError) Error() string { return p.Detail }

func newSession(l link, version string) *session {
	return &session{link: l, version: version, http: &http.Client{Timeout: 30 * time.Second}}
}

func (s *session) send(ctx context.Context, method, path string, q url.Values, w *wish, body, into any) (answer, error) {
	var got answer
	if q == nil {
		q = url.Values{}
	}
	var r io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return got, err
		}
		r = bytes.NewReader(text)
	}
	if w != nil && w.dryRun {
		q.Set("dry_run", "true")
	}
	u := s.link.url + path
	if len(q) > 0 {
		u += "?" + q.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, r)
	if err != nil {
		return got, err
	}
	if !s.link.key.IsZero() {
		req.Header.Set("Authorization", "Bearer "+s.link.key.Reveal())
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if w != nil {
		if !w.dryRun {
			req.Header.Set("Idempotency-Key", w.idempotencyKey)
		}
		if w.ifMatch != "" {
			req.Header.Set("If-Match", strconv.Quote(w.ifMatch))
		}
		if w.reason != "" && body == nil {
			req.Header.Set("Keyledger-Reason", w.reason)
		}
	}
	res, err := s.http.Do(req)
	if err != nil {
		return got, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return got, err
	}
	if res.StatusCode >= 400 {
		p := &problemError{}
		if json.Unmarshal(text, &p.Problem) != nil {
			p.Problem = wire.Problem{Status: res.StatusCode, Title: res.Status}
		}
		return got, p
	}
	got.revision = strings.Trim(res.Header.Get("ETag"), `"`)
	got.replayed = res.Header.Get("Idempotency-Replayed") == "true"
	if w != nil && w.dryRun {
		got.dryRun = &wire.DryRun{}
		into = got.dryRun
	}
	if err := json.Unmarshal(text, into); err != nil {
		return got, fmt.Errorf("the answer cannot be read: %w", err)
	}
	return got, nil
}

func orgPath(org string, parts ...string) string {
	p := "/v1/organizations/" + url.PathEscape(org)
	for _, s := range parts {
		p += "/" + url.PathEscape(s)
	}
	return p
}

func (s *session) whoami(ctx context.Context) (out wire.Whoami, err error) {
	_, err = s.send(ctx, "GET", "/v1/whoami", nil, nil, nil, &out)
	return
}

func (s *session) createOrganization(ctx context.Context, b wire.CreateOrganization, w wish) (out wire.Organization, a answer, err error) {
	a, err = s.send(ctx, "POST", "/v1/organizations", nil, &w, b, &out)
	return
}

func (s *session) organizations(ctx context.Context, q query) (out wire.List[wire.Organization], err error) {
	_, err = s.send(ctx, "GET", "/v1/organizations", q.values(), nil, nil, &out)
	return
}

func (s *session) organization(ctx context.Context, org string) (out wire.Organization, a answer, err error) {
	a, err = s.send(ctx, "GET", orgPath(org), nil, nil, nil, &out)
	return
}

func (s *session) updateOrganization(ctx context.Context, org string, b wire.UpdateOrganization, w wish) (out wire.Organization, a answer, err error) {
	a, err = s.send(ctx, "PATCH", orgPath(org), nil, &w, b, &out)
	return
}

func (s *session) deleteOrganization(ctx context.Context, org string, w wish) (out wire.Deleted, a answer, err error) {
	a, err = s.send(ctx, "DELETE", orgPath(org), nil, &w, nil, &out)
	return
}

func (s *session) createWorkspace(ctx context.Context, org string, b wire.CreateWorkspace, w wish) (out wire.Workspace, a answer, err error) {
	a, err = s.send(ctx, "POST", orgPath(org, "workspaces"), nil, &w, b, &out)
	return
}

func (s *session) workspaces(ctx context.Context, org string, q query) (out wire.List[wire.Workspace], err error) {
	_, err = s.send(ctx, "GET", orgPath(org, "workspaces"), q.values(), nil, nil, &out)
	return
}

func (s *session) workspace(ctx context.Context, org, id string) (out wire.Workspace, a answer, err error) {
	a, err = s.send(ctx, "GET", orgPath(org, "workspaces", id), nil, nil, nil, &out)
	return
}

func (s *session) updateWorkspace(ctx context.Context, org, id string, b wire.UpdateWorkspace, w wish) (out wire.Workspace, a answer, err error) {
	a, err = s.send(ctx, "PATCH", orgPath(org, "workspaces", id), nil, &w, b, &out)
	return
}

func (s *session) deleteWorkspace(ctx context.Context, org, id string, w wish) (out wire.Deleted, a answer, err error) {
	a, err = s.send(ctx, "DELETE", orgPath(org, "workspaces", id), nil, &w, nil, &out)
	return
}

func (s *session) permissions(ctx context.Context, org string) (out wire.Permissions, a answer, err error) {
	a, err = s.send(ctx, "GET", orgPath(org, "permissions"), nil, nil, nil, &out)
	return
}

func (s *session) replacePermissions(ctx context.Context, org string, b wire.ReplacePermissions, w wish) (out wire.Permissions, a answer, err error) {
	a, err = s.send(ctx, "PUT", orgPath(org, "permissions"), nil, &w, b, &out)
	return
}

func (s *session) createProfile(ctx context.Context, org string, b wire.CreateProfile, w wish) (out wire.Profile, a answer, err error) {
	a, err = s.send(ctx, "POST", orgPath(org, "profiles"), nil, &w, b, &out)
	return
}

func (s *session) profiles(ctx context.Context, org string, q query) (out wire.List[wire.Profile], err error) {
	_, err = s.send(ctx, "GET", orgPath(org, "profiles"), q.values(), nil, nil, &out)
	return
}

func (s *session) profile(ctx context.Context, org, id string) (out wire.Profile, a answer, err error) {
	a, err = s.send(ctx, "GET", orgPath(org, "profiles", id), nil, nil, nil, &out)
	return
}

func (s *session) updateProfile(ctx context.Context, org, id string, b wire.UpdateProfile, w wish) (out wire.Profile, a answer, err error) {
	a, err = s.send(ctx, "PATCH", orgPath(org, "profiles", id), nil, &w, b, &out)
	return
}

func (s *session) deleteProfile(ctx context.Context, org, id string, force bool, w wish) (out wire.Deleted, a answer, err error) {
	q := url.Values{}
	if force {
		q.Set("force", "true")
	}
	a, err = s.send(ctx, "DELETE", orgPath(org, "profiles", id), q, &w, nil, &out)
	return
}

func (s *session) createKey(ctx context.Context, org string, b wire.CreateKey, w wish) (out wire.Created, a answer, err error) {
	a, err = s.send(ctx, "POST", orgPath(org, "keys"), nil, &w, b, &out)
	return
}

func (s *session) keys(ctx context.Context, org string, q query) (out wire.List[wire.Key], err error) {
	_, err = s.send(ctx, "GET", orgPath(org, "keys"), q.values(), nil, nil, &out)
	return
}

func (s *session) key(ctx context.Context, org, id string) (out wire.Key, a answer, err error) {
	a, err = s.send(ctx, "GET", orgPath(org, "keys", id), nil, nil, nil, &out)
	return
}

func (s *session) updateKey(ctx context.Context, org, id string, b wire.UpdateKey, w wish) (out wire.Key, a answer, err error) {
	a, err = s.send(ctx, "PATCH", orgPath(org, "keys", id), nil, &w, b, &out)
	return
}

func (s *session) rotateKey(ctx context.Context, org, id string, b wire.RotateKey, w wish) (out wire.Rotated, a answer, err error) {
	a, err = s.send(ctx, "POST", orgPath(org, "keys", id, "rotate"), nil, &w, b, &out)
	return
}

func (s *session) revokeKey(ctx context.Context, org, id string, b wire.RevokeKey, w wish) (out wire.Changed, a answer, err error) {
	a, err = s.send(ctx, "POST", orgPath(org, "keys", id, "revoke"), nil, &w, b, &out)
	return
}

func (s *session) history(ctx context.Context, org, id string, q query) (out wire.List[wire.Event], err error) {
	_, err = s.send(ctx, "GET", orgPath(org, "keys", id, "history"), q.values(), nil, nil, &out)
	return
}

func (s *session) verify(ctx context.Context, b wire.VerifyRequest) (out wire.Verdict, err error) {
	_, err = s.send(ctx, "POST", "/v1/verify", nil, nil, b, &out)
	return
}

func (s *session) follow(ctx context.Context, types []string, after string, each func(wire.Event) error) error {
	return fmt.Errorf("not yet")
}
