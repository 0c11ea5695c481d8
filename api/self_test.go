package api_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/wire"
)

const selfPath = "/v1/whoami/revoke"

// Whoever holds a key ends it, whatever its status, and is told the same again.
func TestHoldersRevokeTheirOwnKeys(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	const keys = "/v1/organizations/acme/keys"
	for name, prepare := range map[string]func(id string){
		"active":   func(string) {},
		"inactive": func(id string) { s.Must(200, s.Owner, "PATCH", keys+"/"+id, `{"status":"INACTIVE"}`) },
		"rotated":  func(id string) { s.Must(201, s.Owner, "POST", keys+"/"+id+"/rotate", `{"grace":"0"}`) },
		"revoked":  func(id string) { s.Must(200, s.Owner, "POST", keys+"/"+id+"/revoke", "") },
	} {
		t.Run(name, func(t *testing.T) {
			k := as[wire.Created](t, s.Must(201, s.Owner, "POST", keys, keyBody))
			prepare(k.Key.ID)
			dry := as[wire.DryRun](t, s.Must(200, k.Secret, "POST", selfPath+"?dry_run=true", ""))
			if want := 1; name != "revoked" && len(dry.Events) != want {
				t.Errorf("dry run: %+v", dry)
			}
			first := as[wire.RevokedSelf](t, s.Must(200, k.Secret, "POST", selfPath, `{"reason":"pushed to a repository"}`, "Idempotency-Key", "once"))
			if first.KeyID != k.Key.ID || first.Organization != "acme" || first.Status != "REVOKED" || first.Position == "" {
				t.Errorf("%+v", first)
			}
			if v := verdict(t, s, s.Owner, k.Secret, ""); v.Code != "REVOKED" {
				t.Errorf("%+v", v)
			}
			for _, header := range [][]string{nil, {"Idempotency-Key", "once"}} {
				body := `{"reason":"pushed to a repository"}`
				if again := as[wire.RevokedSelf](t, s.Must(200, k.Secret, "POST", selfPath, body, header...)); again != first {
					t.Errorf("again: %+v, want %+v", again, first)
				}
			}
			history := s.Must(200, s.Owner, "GET", keys+"/"+k.Key.ID+"/history", "").Body
			if by := `"actor":"key/acme/` + k.Key.ID + `"`; name != "revoked" && (!strings.Contains(history, by) || !strings.Contains(history, "pushed to a repository")) {
				t.Errorf("nobody can tell that the key did it: %s", history)
			}
			// It can do nothing else by that.
			s.Must(401, k.Secret, "GET", keys, "")
		})
	}
	s.Must(401, "", "POST", selfPath, "")
	s.Must(401, "kl_live_nonsense", "POST", selfPath, "")
	s.Must(401, "kl_live_nonsense", "POST", selfPath+"?dry_run=true", "")
	k := as[wire.Created](t, s.Must(201, s.Owner, "POST", keys, keyBody))
	s.Must(http.StatusUnprocessableEntity, k.Secret, "POST", selfPath, `{"reason":"`+k.Secret+`"}`)
	s.Must(400, k.Secret, "POST", selfPath, `{"key_id":"another"}`)
	s.Must(200, k.Secret, "GET", "/v1/whoami", "")
}

// An owner's key that leaked locks nobody out; another manager's ends.
func TestManagersRevokeTheirOwnKeysButOwnersDoNot(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	for _, owner := range []string{s.Owner, managementKey(t, s, "acme", "owner", everywhere)} {
		if p := problem(t, s.Must(409, owner, "POST", selfPath, "")); p.Code != "last_owner" {
			t.Errorf("%+v", p)
		}
		s.Must(200, owner, "GET", "/v1/whoami", "")
	}
	admin := managementKey(t, s, "acme", "admin", `{"workspaces":["hiring"]}`)
	s.Must(200, admin, "POST", selfPath, "")
	s.Must(401, admin, "GET", "/v1/organizations/acme/keys", "")
}
