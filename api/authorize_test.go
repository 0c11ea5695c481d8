package api_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/wire"
)

// A client adds headers and parameters to what the gateway asks. It may never
// choose the question, nor make the server take it for none.
func TestAuthorizeAsksOneThing(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "plain")
	// No routes: without a permission the key alone is judged.
	s.Must(200, s.Owner, "PUT", "/v1/organizations/plain/permissions", `{"permissions":[{"name":"a:r","access":"read"},{"name":"a:w","access":"write"}]}`)
	limited := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/plain/keys", `{"permissions":["a:r"],"scope":{"workspaces":["hiring"]}}`)).Secret
	anywhere := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/plain/keys", `{"permissions":{"level":"all"},"scope":{"all_workspaces":true}}`)).Secret
	const lacking, outside = "INSUFFICIENT_PERMISSIONS", "OUT_OF_SCOPE"
	for name, tt := range map[string]struct {
		query   string
		headers []string
		code    string
	}{
		"the same by header and query": {"?permission=a:r&workspace=hiring", []string{"X-Keyledger-Permission", "a:r", "X-Keyledger-Workspace", "hiring"}, "VALID"},
		"another permission":           {"?permission=a:w", []string{"X-Keyledger-Permission", "a:r"}, lacking},
		"another workspace":            {"?permission=a:r&workspace=support", []string{"X-Keyledger-Workspace", "hiring"}, outside},
		"no permission by query":       {"?permission=", nil, lacking},
		"no permission by header":      {"", []string{"X-Keyledger-Permission", ""}, lacking},
		"no workspace by query":        {"?permission=a:r&workspace=", nil, outside},
		"no workspace by header":       {"?permission=a:r", []string{"X-Keyledger-Workspace", ""}, outside},
		"a header to blank the query":  {"?permission=a:r", []string{"X-Keyledger-Permission", ""}, lacking},
	} {
		t.Run(name, func(t *testing.T) {
			for _, key := range []string{limited, anywhere} {
				a := s.Do(key, "GET", "/v1/authorize"+tt.query, "", tt.headers...)
				if got := a.Header.Get("X-Keyledger-Code"); got != tt.code || (a.Status == 200) != (tt.code == "VALID") {
					t.Errorf("%d %s, want %s", a.Status, got, tt.code)
				}
			}
		})
	}
	// A query that cannot be read asks for nothing that is known.
	for _, query := range []string{"?permission=a%zz", "?x=1;permission=a:w", "?permission=a:r;workspace=x"} {
		s.Must(400, anywhere, "GET", "/v1/authorize"+query, "")
	}
}

// A variable that is not set makes an empty text, and must not become a yes.
func TestVerifyRefusesEmptyQuestions(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	key := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", keyBody))
	for _, name := range []string{"permission", "workspace", "at_least"} {
		for _, value := range []string{`""`, `null`} {
			a := s.Must(400, s.Owner, "POST", "/v1/verify", `{"secret":"`+key.Secret+`","`+name+`":`+value+`}`)
			if p := problem(t, a); p.Code != "invalid_request" || p.Field != name {
				t.Errorf("%s %s: %s", name, value, a.Body)
			}
		}
	}
}

// A key that is limited to workspaces learns nothing about what lies elsewhere.
func TestVerifyKeepsTheCallersScope(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	s.Must(201, s.Owner, "POST", "/v1/organizations/acme/workspaces", `{"id":"payroll","name":"Payroll"}`)
	key := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", keyBody)).Secret
	caller := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys",
		`{"kind":"management","role":"verifier","scope":{"workspaces":["hiring"]}}`)).Secret
	if v := verdict(t, s, caller, key, `,"workspace":"hiring"`); !v.Valid {
		t.Errorf("within the scope: %+v", v)
	}
	for _, more := range []string{"", `,"workspace":"payroll"`, `,"workspace":"nowhere"`, `,"permission":"interview:read"`} {
		a := s.Must(403, caller, "POST", "/v1/verify", `{"secret":"`+key+`"`+more+`}`)
		if p := problem(t, a); p.Code != "forbidden" || !strings.Contains(p.Detail, "workspace") {
			t.Errorf("%s: %s", more, a.Body)
		}
	}
}

// begun sends a request but for the end of its body, and returns what sends the
// rest and reads the answer.
func begun(t *testing.T, s *apitest.Server, key, path, body string) func() *http.Response {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		path, key, len(body), body[:len(body)-1])
	return func() *http.Response {
		fmt.Fprint(c, body[len(body)-1:])
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { res.Body.Close() })
		return res
	}
}

// A caller whose key is revoked while its body is under way gets no verdict.
func TestVerifyJudgesItsCallerAfterTheBody(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	key := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", keyBody)).Secret
	caller := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", `{"kind":"management","role":"verifier","scope":{"all_workspaces":true}}`))
	// Only a request that was admitted before shows anything.
	uses := func() uint64 { return s.Recorder.Stats().Recorded }
	before := uses()
	end := begun(t, s, caller.Secret, "/v1/verify", `{"secret":"`+key+`"}`)
	for deadline := time.Now().Add(10 * time.Second); uses() == before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the request does not begin")
		}
	}
	s.Must(200, s.Owner, "DELETE", "/v1/organizations/acme/keys/"+caller.Key.ID, "")
	if res := end(); res.StatusCode != 401 {
		t.Errorf("answered %d", res.StatusCode)
	}
}
