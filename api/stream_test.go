package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/wire"
)

// stream opens the stream of events and returns what it sends, event by event.
func stream(t *testing.T, s *apitest.Server, key, query string, headers ...string) func() map[string]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	req, err := http.NewRequestWithContext(ctx, "GET", s.URL+"/v1/events"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); res.Body.Close() })
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/event-stream" {
		body, _ := io.ReadAll(res.Body)
		t.Fatalf("%d %s", res.StatusCode, body)
	}
	return eventsOf(res.Body)
}

// eventsOf returns what reads a body event by event, as far as they are whole.
func eventsOf(body io.Reader) func() map[string]string {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 1<<20)
	return func() map[string]string {
		e := map[string]string{}
		for lines.Scan() {
			name, value, _ := strings.Cut(lines.Text(), ": ")
			if name == "" && value == "" && e["data"] != "" {
				return e
			}
			e[name] = value
		}
		return nil
	}
}

// wantEnd expects the last event of a stream.
func wantEnd(t *testing.T, e map[string]string, code, detail string) {
	t.Helper()
	var p wire.Problem
	if err := json.Unmarshal([]byte(e["data"]), &p); err != nil || e["event"] != "end" || p.Code != code || !strings.Contains(p.Detail, detail) || p.RequestID == "" {
		t.Errorf("the stream ended with %v, want %s: %s", e, code, detail)
	}
}

// wantEnded expects what the metric of ended streams tells of a reason. The
// client hears of an end before it is counted.
func wantEnded(t *testing.T, s *apitest.Server, reason string, want int) {
	t.Helper()
	line := fmt.Sprintf("keyledger_event_streams_ended_total{reason=%q} %d\n", reason, want)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		a := s.Must(200, "", "GET", "/metrics", "")
		if strings.Contains(a.Body, line) {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("metrics do not hold %s", line)
			return
		}
	}
}

func TestStream(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	furnish(s, "other")
	auditor := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", `{"kind":"management","role":"auditor","scope":{"all_workspaces":true}}`))

	// The past, within the walls, and then what comes.
	next := stream(t, s, auditor.Secret, "?after=0")
	var seen []string
	var last map[string]string
	for len(seen) == 0 || seen[len(seen)-1] != "key.created" {
		last = next()
		if last == nil {
			t.Fatal("the stream ended")
		}
		seen = append(seen, last["event"])
		if !strings.Contains(last["data"], ".acme.") {
			t.Errorf("an event of another organization: %s", last["data"])
		}
	}
	if seen[0] != "organization.created" || len(seen) != 6 {
		t.Errorf("seen %v", seen)
	}
	s.Must(201, s.Owner, "POST", "/v1/organizations/other/keys", keyBody)
	key := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", keyBody))
	if e := next(); e["event"] != "key.created" || e["id"] != key.Position || !strings.Contains(e["data"], key.Key.ID) {
		t.Errorf("live: %v", e)
	}

	// Again after the last one that was seen, of one type.
	again := stream(t, s, auditor.Secret, "?types=key.revoked", "Last-Event-ID", last["id"])
	s.Must(200, s.Owner, "POST", "/v1/organizations/acme/keys/"+key.Key.ID+"/revoke", `{"reason":"leaked"}`)
	if e := again(); e["event"] != "key.revoked" || !strings.Contains(e["data"], "leaked") {
		t.Errorf("by type: %v", e)
	}

	if a := s.Must(200, "", "GET", "/metrics", ""); !strings.Contains(a.Body, "keyledger_event_streams") || !strings.Contains(a.Body, "keyledger_http_request_duration_seconds") {
		t.Error("metrics are missing")
	}
}

// What happens after a key's revocation was answered is not for who holds it.
func TestStreamEndsWithItsKey(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	for range 10 {
		member := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", `{"kind":"management","role":"member","scope":{"all_workspaces":true}}`))
		next := stream(t, s, member.Secret, "")
		s.Must(200, s.Owner, "DELETE", "/v1/organizations/acme/keys/"+member.Key.ID, "")
		s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", `{"name":"unseen","permissions":["interview:read"],"scope":{"all_workspaces":true}}`)
		ended := false
		for e := next(); e != nil; e = next() {
			if strings.Contains(e["data"], "unseen") {
				t.Fatal("a revoked key went on reading")
			}
			ended = ended || e["event"] == "end"
			if ended {
				wantEnd(t, e, "unauthenticated", "the key is not accepted")
			}
		}
		if !ended {
			t.Error("the stream ended without a word")
		}
	}
	wantEnded(t, s, "key", 10)
}

// One key cannot take all the streams there are.
func TestStreamsOfAKeyAreBounded(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	greedy, other := managementKey(t, s, "acme", "member", everywhere), managementKey(t, s, "acme", "auditor", everywhere)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	open := func(ctx context.Context, key string) *http.Response {
		req, err := http.NewRequestWithContext(ctx, "GET", s.URL+"/v1/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+key)
		res, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { res.Body.Close() })
		return res
	}
	one, closeOne := context.WithCancel(ctx)
	if res := open(one, greedy); res.StatusCode != 200 {
		t.Fatal(res.StatusCode)
	}
	for range 15 {
		if res := open(ctx, greedy); res.StatusCode != 200 {
			t.Fatal(res.StatusCode)
		}
	}
	res := open(ctx, greedy)
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 429 {
		t.Errorf("one more: %d %s %v", res.StatusCode, body, err)
	}
	problem(t, apitest.Answer{Status: res.StatusCode, Header: res.Header, Body: string(body)})
	if res := open(ctx, other); res.StatusCode != 200 {
		t.Errorf("another key: %d", res.StatusCode)
	}
	closeOne()
	for deadline := time.Now().Add(10 * time.Second); open(ctx, greedy).StatusCode != 200; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a stream that was closed still counts")
		}
	}
}

// Streams end when the server stops; other requests are answered as ever.
func TestEndStreams(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	next := stream(t, s, s.Owner, "")
	s.API.EndStreams()
	wantEnd(t, next(), "unavailable", "the server stops")
	if e := next(); e != nil {
		t.Errorf("after the end: %v", e)
	}
	wantEnded(t, s, "server_stops", 1)
	if p := problem(t, s.Must(503, s.Owner, "GET", "/v1/events", "")); p.Code != "unavailable" {
		t.Errorf("a new stream: %+v", p)
	}
	s.Must(200, s.Owner, "GET", "/v1/organizations/acme", "")
}
