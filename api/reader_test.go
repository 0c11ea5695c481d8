package api_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/api"
	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/memory"
)

// patient makes streams of a server with bounds that a test can wait for.
func patient(heartbeat, patience time.Duration) func(*api.Config) {
	return func(c *api.Config) { c.Streams = api.StreamConfig{Heartbeat: heartbeat, Patience: patience} }
}

// connection opens a stream on a connection of its own, which takes little that
// is not read, and reads nothing of it.
func connection(t *testing.T, s *apitest.Server, key, query string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.(*net.TCPConn).SetReadBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "GET /v1/events%s HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer %s\r\n\r\n", query, key); err != nil {
		t.Fatal(err)
	}
	return conn
}

// rest reads what there is of a connection, until it ends.
func rest(t *testing.T, conn net.Conn) []map[string]string {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("the stream: %v, %v", res, err)
	}
	defer res.Body.Close()
	next := eventsOf(res.Body)
	var all []map[string]string
	for e := next(); e != nil; e = next() {
		all = append(all, e)
	}
	return all
}

// much makes events of which no socket of server and client holds all: 7 MB of
// them. It returns the positions.
func much(t *testing.T, s *apitest.Server) []string {
	t.Helper()
	var positions []string
	for n := range 130 {
		now := events.TimeOf(time.Now())
		stored, err := s.Ledger.Append(t.Context(), []events.Entry{{
			Subject: events.ProfileSubject("acme", "gold"),
			Event:   events.ProfileSettingsChanged{Settings: events.Document(fmt.Sprintf(`{"text":%q}`, strings.Repeat("x", 55_000)))},
			Meta: events.Meta{
				ID: events.EventID(uuid.New()), Ledger: s.Positions.Ledger, Time: now, Revision: events.Revision(n + 2),
				Actor: events.Actor{Type: events.ActorSystem, Name: "test"}, Command: events.CommandID(uuid.New()),
			},
		}})
		if err != nil {
			t.Fatal(err)
		}
		positions = append(positions, s.Positions.Format(events.StreamLedger, stored[0].Position))
	}
	return positions
}

func idsOf(all []map[string]string) []string {
	var ids []string
	for _, e := range all {
		ids = append(ids, e["id"])
	}
	return ids
}

// Who does not read is cut off, and costs neither a place nor memory from then
// on; and goes on where it was, with nothing left out and nothing twice.
//
// Breaking it: without a deadline for what is written the stream never ends.
func TestReaderThatDoesNotReadIsCutOff(t *testing.T) {
	s := apitest.Start(t, patient(time.Hour, 300*time.Millisecond))
	furnish(s, "acme")
	conn := connection(t, s, s.Owner, "?types=profile.settings_changed")
	for deadline := time.Now().Add(time.Minute); !strings.Contains(s.Must(200, "", "GET", "/metrics", "").Body, "keyledger_event_streams 1\n"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the stream does not begin")
		}
	}
	want := much(t, s)
	wantEnded(t, s, "slow_reader", 1)
	if log := s.Log.String(); !strings.Contains(log, `"reason":"slow_reader"`) {
		t.Errorf("the log does not say why:\n%s", log)
	}
	seen := rest(t, conn)
	if len(seen) == 0 || len(seen) >= len(want) {
		t.Fatalf("%d of %d events were seen: this proves little", len(seen), len(want))
	}
	next := stream(t, s, s.Owner, "?types=profile.settings_changed", "Last-Event-ID", seen[len(seen)-1]["id"])
	for len(seen) < len(want) {
		seen = append(seen, next())
	}
	if got := idsOf(seen); !slices.Equal(got, want) {
		t.Errorf("seen %v, want %v", got, want)
	}
	t.Run("over HTTP/2", func(t *testing.T) { readsNothingOverHTTP2(t, s, want) })
}

// Who reads late is cut off and told so.
//
// Breaking it: with one deadline for all there is nobody left to be told.
func TestReaderThatReadsLateIsTold(t *testing.T) {
	const patience = time.Second
	s := apitest.Start(t, patient(time.Hour, patience))
	furnish(s, "acme")
	much(t, s)
	// Late is a window in time, which a busy machine may miss: then it is cut off
	// without a word, and comes again.
	for try := 1; ; try++ {
		conn := connection(t, s, s.Owner, "?after=0")
		time.Sleep(patience + patience/2)
		all := rest(t, conn)
		if last := all[len(all)-1]; last["event"] == wire.EventEnd {
			wantEnd(t, last, "slow_reader", "come again with Last-Event-ID")
			if last["id"] != "" {
				t.Errorf("the end has a position: %v", last)
			}
			wantEnded(t, s, "slow_reader", try)
			return
		}
		if try == 5 {
			t.Fatal("nobody was told")
		}
	}
}

// readsNothingOverHTTP2 is the same where one connection carries many streams.
func readsNothingOverHTTP2(t *testing.T, s *apitest.Server, want []string) {
	front := httptest.NewUnstartedServer(s.Handler)
	front.EnableHTTP2 = true
	front.StartTLS()
	t.Cleanup(front.Close)
	open := func(after string) *http.Response {
		req, err := http.NewRequestWithContext(t.Context(), "GET", front.URL+"/v1/events?types=profile.settings_changed&after="+after, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+s.Owner)
		res, err := front.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { res.Body.Close() })
		if res.StatusCode != 200 || res.ProtoMajor != 2 {
			t.Fatalf("%d over %s", res.StatusCode, res.Proto)
		}
		return res
	}
	res := open("0")
	wantEnded(t, s, "slow_reader", 2)
	var seen []map[string]string
	for next, e := eventsOf(res.Body), map[string]string(nil); ; seen = append(seen, e) {
		if e = next(); e == nil {
			break
		}
	}
	if len(seen) == 0 || len(seen) >= len(want) {
		t.Fatalf("%d of %d events were seen: this proves little", len(seen), len(want))
	}
	for next := eventsOf(open(seen[len(seen)-1]["id"]).Body); len(seen) < len(want); {
		seen = append(seen, next())
	}
	if got := idsOf(seen); !slices.Equal(got, want) {
		t.Errorf("seen %v, want %v", got, want)
	}
}

// A server that stops waits for nobody who does not read.
func TestReaderThatDoesNotReadDoesNotHoldUpTheStop(t *testing.T) {
	s := apitest.Start(t, patient(time.Hour, time.Hour))
	furnish(s, "acme")
	want := much(t, s)
	conn := connection(t, s, s.Owner, "?after=0")
	// It has begun, and soon waits for room.
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	s.API.EndStreams()
	wantEnded(t, s, "server_stops", 1)
	next := stream(t, apitest.Beside(t, s), s.Owner, "?types=profile.settings_changed&after=0")
	for _, id := range want {
		if e := next(); e["id"] != id {
			t.Fatalf("at another server: %q, want %s", e["id"], id)
		}
	}
}

// A quiet stream says that it is there, and how far it came, also past what is
// not for it: ticks, and what others do.
func TestHeartbeats(t *testing.T) {
	s := apitest.Start(t, patient(5*time.Millisecond, time.Minute))
	furnish(s, "acme")
	furnish(s, "other")
	auditor := managementKey(t, s, "acme", "auditor", everywhere)
	conn := connection(t, s, auditor, "")
	if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(conn)
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "id: ") {
	}
	last := as[wire.Organization](t, s.Must(200, s.Owner, "PATCH", "/v1/organizations/other", `{"name":"Another"}`)).Position
	pos, err := s.Positions.Parse(events.StreamLedger, last)
	if err != nil {
		t.Fatal(err)
	}
	tick := events.Entry{
		Subject: events.TickSubject(), Event: events.Tick{At: 1, Through: pos, Signature: "x"},
		Meta: events.Meta{
			ID: events.EventID(uuid.New()), Ledger: s.Positions.Ledger, Time: 1, Revision: 1,
			Actor: events.Actor{Type: events.ActorSystem, Name: "ticks"}, Command: events.CommandID(uuid.New()),
		},
	}
	if _, err := s.Ledger.Append(t.Context(), []events.Entry{tick}); err != nil {
		t.Fatal(err)
	}
	ticked := s.Positions.Format(events.StreamLedger, pos+1)
	beats := 0
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "data:") {
			t.Fatalf("an event that is not for it: %s", lines.Text())
		}
		if lines.Text() == ": still here" {
			beats++
		}
		if lines.Text() == "id: "+ticked {
			break
		}
	}
	if lines.Err() != nil || beats == 0 {
		t.Errorf("%d heartbeats, then %v", beats, lines.Err())
	}
	// A tick is in no stream and no history, and cannot be asked for.
	all := stream(t, s, s.Owner, "?after=0")
	s.Must(200, s.Owner, "PATCH", "/v1/organizations/acme", `{"name":"The end"}`)
	for e := all(); !strings.Contains(e["data"], "The end"); e = all() {
		if e == nil || e["event"] == "tick" {
			t.Fatalf("a tick is shown: %v", e)
		}
	}
	problem(t, s.Must(400, s.Owner, "GET", "/v1/events?types=tick", ""))
}

// The walls of organizations and workspaces stand before the stream begins.
func TestStreamsHaveWalls(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	furnish(s, "other")
	member := managementKey(t, s, "acme", "member", everywhere)
	for name, tt := range map[string]struct {
		key, query string
		want       int
	}{
		"another organization":          {member, "?organization=other", 404},
		"one that does not exist":       {member, "?organization=nobody", 404},
		"the installation":              {member, "?organization=_system", 404},
		"limited to workspaces":         {managementKey(t, s, "acme", "admin", `{"workspaces":["hiring"]}`), "", 403},
		"may verify alone":              {managementKey(t, s, "acme", "verifier", everywhere), "", 403},
		"a key of a customer":           {as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", keyBody)).Secret, "", 403},
		"nobody":                        {"", "", 401},
		"a key in the address":          {member, "?key=" + member, 422},
		"an owner of another one still": {managementKey(t, s, "other", "owner", everywhere), "?organization=acme", 404},
	} {
		t.Run(name, func(t *testing.T) {
			a := s.Must(tt.want, tt.key, "GET", "/v1/events"+tt.query, "")
			problem(t, a)
		})
	}
	// And within them, from the beginning on.
	next := stream(t, s, member, "?after=0")
	mine := as[wire.Organization](t, s.Must(200, s.Owner, "PATCH", "/v1/organizations/acme", `{"name":"Mine"}`)).Position
	for e := next(); e["id"] != mine; e = next() {
		if e == nil || !strings.Contains(e["data"], ".acme.") {
			t.Fatalf("not an event of acme: %v", e)
		}
	}
}

// A position that is none, or not of this ledger, or not there yet, is refused:
// a stream that waits in silence for it would leave events out.
func TestStreamsBeginAtPositionsThatExist(t *testing.T) {
	t.Parallel()
	s := apitest.Start(t)
	furnish(s, "acme")
	last, err := s.Ledger.Last(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	another := events.Positions{Ledger: events.LedgerID(uuid.New()), Epoch: 1}
	restored := events.Positions{Ledger: s.Positions.Ledger, Epoch: 2}
	for name, tt := range map[string]struct{ text, detail string }{
		"garbage":        {"17", "not a position"},
		"cut":            {s.Positions.Format(events.StreamLedger, last)[:20], "not a position"},
		"another ledger": {another.Format(events.StreamLedger, 1), "another ledger"},
		"another stream": {s.Positions.Format(events.StreamUses, 1), "another stream"},
		"another epoch":  {restored.Format(events.StreamLedger, 1), "epoch 2"},
		"to come":        {s.Positions.Format(events.StreamLedger, last+1), "beyond the ledger's end"},
	} {
		for field, ask := range map[string]func() apitest.Answer{
			"Last-Event-ID": func() apitest.Answer {
				return s.Do(s.Owner, "GET", "/v1/events?after=0", "", "Last-Event-ID", tt.text)
			},
			"after": func() apitest.Answer { return s.Do(s.Owner, "GET", "/v1/events?after="+tt.text, "") },
		} {
			t.Run(name+" in "+field, func(t *testing.T) {
				t.Parallel()
				if p := problem(t, ask()); p.Status != 400 || p.Code != "invalid_position" || p.Field != field || !strings.Contains(p.Detail, tt.detail) {
					t.Errorf("%+v", p)
				}
			})
		}
	}
	// Whoever comes again sends the header, to the address of the beginning.
	next := stream(t, s, s.Owner, "?after=0", "Last-Event-ID", s.Positions.Format(events.StreamLedger, last-1))
	if e := next(); e["id"] != s.Positions.Format(events.StreamLedger, last) {
		t.Errorf("the header does not win: %v", e)
	}
}

// A stream goes on at another server of the ledger, while the ledger does.
func TestStreamsGoOnElsewhere(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	servers := []*apitest.Server{s, apitest.Beside(t, s), apitest.Beside(t, s)}
	writing, stop := context.WithCancel(t.Context())
	written := make(chan []string)
	go func() {
		var positions []string
		for n := 0; writing.Err() == nil || n < 50; n++ {
			a := s.Must(200, s.Owner, "PATCH", "/v1/organizations/acme/workspaces/hiring", fmt.Sprintf(`{"name":"Hiring %d"}`, n))
			positions = append(positions, as[wire.Workspace](t, a).Position)
		}
		written <- positions
	}()
	var seen []string
	// The header names a position of another server, which this one may not have
	// reached yet.
	last := s.Positions.Format(events.StreamLedger, 1)
	for turn := range 9 {
		next := stream(t, servers[turn%3], s.Owner, "?types=workspace.renamed", "Last-Event-ID", last)
		for range 3 {
			last = next()["id"]
			seen = append(seen, last)
		}
	}
	stop()
	want := <-written
	if !slices.Equal(seen, want[:len(seen)]) {
		t.Errorf("seen %v, want %v", seen, want[:len(seen)])
	}
}

// Where events cannot be read on, the streams end and say so.
func TestStreamsEndWithTheirView(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	next := stream(t, s, s.Owner, "")
	s.Ledger.(*memory.Ledger).Plant(events.OrganizationSubject("other").String(), []byte("poison"))
	wantEnd(t, next(), "unavailable", "cannot be read on this server")
	wantEnded(t, s, "unreadable", 1)
	if log := s.Log.String(); !strings.Contains(log, `"reason":"unreadable"`) || !strings.Contains(log, "view has stopped") {
		t.Errorf("the log does not say why:\n%s", log)
	}
}
