package api_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/api"
	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/seals"
)

const eraseRoute = "/v1/organizations/acme/audit/erase"

// sealing is an organization that has its texts sealed, with a key of a person.
func sealing(t testing.TB, s *apitest.Server) wire.Created {
	t.Helper()
	furnish(s, "acme")
	s.Must(200, s.Owner, "PATCH", "/v1/organizations/acme", `{"policy":{"sealing":"on"}}`)
	return as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys",
		`{"name":"Alice","external_id":"alice-1","metadata":{"mail":"a@example.com"},"data_subject":"person-1","permissions":["interview:read"],"scope":{"all_workspaces":true},"reason":"for Alice"}`))
}

func TestEraseDataSubject(t *testing.T) {
	s := apitest.Start(t)
	made := sealing(t, s)
	if made.Key.Name == nil || *made.Key.Name != "Alice" || made.Key.DataSubject != "person-1" {
		t.Errorf("%+v", made.Key)
	}
	erased := func(body string, headers ...string) wire.Erased {
		t.Helper()
		return as[wire.Erased](t, s.Must(200, s.Owner, "POST", eraseRoute, body, headers...))
	}
	first := erased(`{"subject":"person-1","reason":"asked"}`, "Idempotency-Key", "e-1")
	if first.Subject != "person-1" || first.KeysDestroyed != 1 || first.Position == "" {
		t.Errorf("%+v", first)
	}
	key := as[wire.Key](t, s.Must(200, s.Owner, "GET", "/v1/organizations/acme/keys/"+made.Key.ID, ""))
	if *key.Name != "(erased)" || key.ExternalID != "(erased)" || key.Metadata["mail"] != "(erased)" || key.Status != "ACTIVE" {
		t.Errorf("%+v", key)
	}
	if again := erased(`{"subject":"person-1","reason":"asked"}`, "Idempotency-Key", "e-1"); again != first {
		t.Errorf("repeated: %+v, then %+v", first, again)
	}
	if again := erased(`{"subject":"person-1"}`); again.KeysDestroyed != 0 || again.Position != first.Position {
		t.Errorf("again: %+v", again)
	}
	if code := verdict(t, s, s.Owner, made.Secret, "").Code; code != "VALID" {
		t.Errorf("the key of who was erased is %s", code)
	}
}

func TestEraseRefuses(t *testing.T) {
	s := apitest.Start(t)
	sealing(t, s)
	for body, want := range map[string]struct {
		status int
		code   string
	}{
		``:                                {400, "invalid_request"},
		`{}`:                              {422, "invalid_value"},
		`{"subject":""}`:                  {422, "invalid_value"},
		`{"subject":"Alice Example"}`:     {422, "invalid_value"},
		`{"subject":1}`:                   {400, "invalid_request"},
		`{"subject":"person-1","all":1}`:  {400, "invalid_request"},
		`{"subject":"nobody"}`:            {404, "not_found"},
		`{"subject":"person-1","x":null}`: {400, "invalid_request"},
		`{"subject":"person-1","reason":"` + strings.Repeat("x", 1001) + `"}`: {422, "invalid_value"},
	} {
		a := s.Do(s.Owner, "POST", eraseRoute, body)
		if p := problem(t, a); a.Status != want.status || p.Code != want.code || strings.Contains(a.Body, "Alice") {
			t.Errorf("%s: %d %s", body, a.Status, a.Body)
		}
	}
	if a := s.Do(s.Owner, "POST", "/v1/organizations/Nowhere/audit/erase", `{"subject":"person-1"}`); a.Status != 404 {
		t.Error(a.Body)
	}
	if a := s.Do(s.Owner, "PATCH", "/v1/organizations/acme", `{"policy":{"sealing":"off"}}`); a.Status != 422 || problem(t, a).Field != "policy.sealing" {
		t.Error(a.Body)
	}
	for _, policy := range []string{`null`, `{"sealing":null}`} {
		a := s.Do(s.Owner, "PATCH", "/v1/organizations/acme", fmt.Sprintf(`{"policy":%s}`, policy))
		if o := as[wire.Organization](t, s.Must(200, s.Owner, "GET", "/v1/organizations/acme", "")); o.Policy.Sealing != "on" {
			t.Errorf("%s: %s", policy, a.Body)
		}
	}
}

// stubborn is a place of seals where nothing is destroyed for a while.
type stubborn struct {
	seals.SubjectStore
	left int
}

func (s *stubborn) Destroy(ctx context.Context, name string, meant func([]byte) bool) (bool, error) {
	if s.left--; s.left >= 0 {
		return false, events.ErrUnavailable
	}
	return s.SubjectStore.Destroy(ctx, name, meant)
}

// An erasure that is recorded and not finished does not look like success; repeated
// it is told when it is.
func TestErasureNotFinished(t *testing.T) {
	s := apitest.Start(t)
	made := sealing(t, s).Key.ID
	store := &stubborn{SubjectStore: s.Ledger, left: 2}
	service, err := commands.New(commands.Config{
		Log: s.Ledger, Ledger: s.Positions.Ledger, Configuration: s.Config.Configuration, Await: s.Config.WaitForCatalog, Logger: s.Config.Logger,
		Holders:  func(context.Context, events.OrgID) ([]events.KeyID, error) { return nil, nil },
		Subjects: seals.NewSubjects(s.Keys, store, s.Positions.Ledger),
	})
	if err != nil {
		t.Fatal(err)
	}
	beside := apitest.Beside(t, s, func(c *api.Config) { c.Commands = service })
	for range 2 {
		a := beside.Do(s.Owner, "POST", eraseRoute, `{"subject":"person-1"}`, "Idempotency-Key", "e-1")
		if p := problem(t, a); a.Status != 503 || p.Code != "recorded_not_applied" || !strings.Contains(p.Detail, "repeat the request") {
			t.Errorf("%d %s", a.Status, a.Body)
		}
	}
	done := as[wire.Erased](t, beside.Must(200, s.Owner, "POST", eraseRoute, `{"subject":"person-1"}`, "Idempotency-Key", "e-1"))
	key := as[wire.Key](t, beside.Must(200, s.Owner, "GET", "/v1/organizations/acme/keys/"+made, ""))
	if done.KeysDestroyed != 1 || *key.Name != "(erased)" {
		t.Errorf("%+v, %s", done, *key.Name)
	}
}
