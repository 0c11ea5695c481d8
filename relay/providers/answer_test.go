package providers

import (
	"net/http"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/events"
)

// FuzzAnswer: whatever is answered, it is read, comes to a result that goes with
// its status, and nothing of it is said.
func FuzzAnswer(f *testing.F) {
	for _, body := range []string{
		``, `[]`, `{}`, `null`, `{"data":[{"id":"a"}],"has_more":true,"last_id":"a"}`, `{"models":[{"name":"models/a"}],"nextPageToken":"x"}`,
		`{"valid":true}`, `{"valid":false}`, `{"data":null}`, `{"data":{}}`, `{"data":[{"id":1}]}`, `{"error":"no"}`, `{"error":{"code":401}}`, `[{"error":{"status":"UNAUTHENTICATED"}}]`,
		`{"error":{"code":"insufficient_quota"},"data":[]}`, `{"error":null,"data":[]}`, `{"detail":"x"}`, `{"error":{"details":[{"reason":"API_KEY_INVALID"}]}}`, `<html>`, "\xff",
	} {
		for _, status := range []int{200, 204, 302, 400, 401, 402, 403, 404, 429, 500} {
			f.Add(status, "application/json", []byte(body))
		}
	}
	f.Fuzz(func(t *testing.T, status int, kind string, body []byte) {
		const marked = "Zq7MARKEDz9"
		body = []byte(strings.ReplaceAll(string(body), "x", marked))
		l, out := answer{status: status, html: isPage(http.Header{"Content-Type": {kind}}, body), body: body}.read()
		if out.Result == "" {
			if status != http.StatusOK {
				t.Fatalf("status %d is a list of %d models", status, len(l.models))
			}
			return
		}
		if out.Works() || out.Result == events.ProviderMalformed || out.Result == events.ProviderMissingModels {
			t.Fatalf("status %d came to %s", status, out.Result)
		}
		if out.Message() == "" || strings.Contains(out.Message(), marked) {
			t.Fatalf("says %q", out.Message())
		}
	})
}

// TestLists: lists are read as those write them who imitate OpenAI.
func TestLists(t *testing.T) {
	for body, want := range map[string]int{
		`{"object":"list","data":[{"id":"a"},{"id":"b","name":"B"}]}`: 3,
		`{"data":[]}`:                         0,
		`{"data":null}`:                       0,
		`[{"id":"a"}]`:                        1,
		` [{"id":"a","created":"yesterday"}]`: 1,
		`{"data":[{"id":"a","name":7,"aliases":"x"}]}`: 1,
		`{"data":[{"id":"a"}],"error":null}`:           1,
		`{"valid":true}`:                               0,
		`{"valid":false}`:                              -1,
		`{"data":{"id":"a"}}`:                          -1,
		`{"data":["a"]}`:                               -1,
		`{"data":[{"id":"a"}],"error":{"code":"x"}}`:   -1,
		`{"data":[{"id":"a"`:                           -1,
		`{}`:                                           -1,
		`"a"`:                                          -1,
		``:                                             -1,
	} {
		l, ok := readListing([]byte(body))
		if ok != (want >= 0) || ok && len(l.models) != want {
			t.Errorf("%s: %v, %q", body, ok, l.models)
		}
	}
}

// TestPages: what people read is no answer of a provider, and what programs read is
// one whatever it is called.
func TestPages(t *testing.T) {
	for _, c := range []struct {
		kind, body string
		status     int
		want       events.ProviderResult
	}{
		{"text/html", `{"data":[{"id":"a"}]}`, 200, ""},
		{"text/html; charset=utf-8", `{"error":{"code":"invalid_api_key"}}`, 401, events.ProviderInvalid},
		{"text/html", "Sign in", 401, events.ProviderUnreachable},
		{"application/json", "\n <html>", 401, events.ProviderUnreachable},
		{"text/html", "<html>", 403, events.ProviderUnreachable},
		{"text/plain", "Unauthorized", 401, events.ProviderInvalid},
		{"", "", 401, events.ProviderInvalid},
	} {
		a := answer{status: c.status, body: []byte(c.body), html: isPage(http.Header{"Content-Type": {c.kind}}, []byte(c.body))}
		if _, out := a.read(); out.Result != c.want {
			t.Errorf("%d %s %q: %s, want %q", c.status, c.kind, c.body, out.Result, c.want)
		}
	}
}

// TestErrorsWithinLists: Google imitates OpenAI with its errors in a list.
func TestErrorsWithinLists(t *testing.T) {
	_, out := answer{status: 400, body: []byte(`[{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT"}}]`)}.read()
	if out.Result != events.ProviderInvalid {
		t.Errorf("came to %s", out.Result)
	}
}
