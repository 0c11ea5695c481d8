package api_test

import (
	"testing"
	"time"

	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/wire"
)

// A request that is held open is no insurance: a key that ended while its body
// was on the way changes nothing any more.
func TestAKeyThatEndsWhileItsBodyIsReadChangesNothing(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	const keys = "/v1/organizations/acme/keys"
	for name, end := range map[string]func(path string){
		"revoked":  func(path string) { s.Must(200, s.Owner, "DELETE", path, "") },
		"inactive": func(path string) { s.Must(200, s.Owner, "PATCH", path, `{"status":"INACTIVE"}`) },
		"narrowed": func(path string) { s.Must(200, s.Owner, "PATCH", path, `{"scope":{"workspaces":["support"]}}`) },
	} {
		t.Run(name, func(t *testing.T) {
			stolen := as[wire.Created](t, s.Must(201, s.Owner, "POST", keys, `{"kind":"management","role":"owner","scope":{"all_workspaces":true}}`))
			before := s.Recorder.Stats().Recorded
			finish := begun(t, s, stolen.Secret, keys, `{"kind":"management","role":"owner","scope":{"all_workspaces":true}}`)
			for deadline := time.Now().Add(10 * time.Second); s.Recorder.Stats().Recorded == before; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("the request does not begin")
				}
			}
			end(keys + "/" + stolen.Key.ID)
			if res := finish(); res.StatusCode != 401 || res.Header.Get("Www-Authenticate") == "" {
				t.Errorf("answered %d", res.StatusCode)
			}
		})
	}
}
