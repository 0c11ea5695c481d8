package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/projections/usage"
)

// message is one that no server of ours writes.
type message struct {
	subject string
	body    []byte
}

// poisoner makes messages for a ledger with two organizations: acme with the
// keys first and second, and other with a key of that name. Each key has had one
// event, and so has each organization.
type poisoner struct {
	t      *testing.T
	ledger events.LedgerID
	ids    map[string]events.KeyID
}

// fact is the stored form of an event that a server could have written.
func (p *poisoner) fact(s events.Subject, revision events.Revision, e events.Event) message {
	return p.factOf(p.ledger, s, revision, e, 0, 0)
}

func (p *poisoner) factOf(ledger events.LedgerID, s events.Subject, revision events.Revision, e events.Event, index, size int) message {
	p.t.Helper()
	now := events.TimeOf(time.Now())
	body, err := events.Encode(s, e, events.Meta{
		ID: events.EventID(uuid.New()), Ledger: ledger, Time: now, RecordedTime: now, Revision: revision,
		Actor: events.Actor{Type: events.ActorSystem, Name: "intruder"}, Command: events.CommandID(uuid.New()),
		BatchIndex: index, BatchSize: size,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return message{s.String(), body}
}

// with replaces a part of the body, which must be there.
func (p *poisoner) with(m message, old, replacement string) message {
	p.t.Helper()
	if !bytes.Contains(m.body, []byte(old)) {
		p.t.Fatalf("%s is not in %s", old, m.body)
	}
	m.body = bytes.Replace(m.body, []byte(old), []byte(replacement), 1)
	return m
}

// unknown is an event of a kind that this program does not know.
func (p *poisoner) unknown(s events.Subject, revision events.Revision, kind string, bears bool) message {
	p.t.Helper()
	// A known one lends its form, on a subject of its own.
	on := events.KeySubject(s.Org, p.ids["first"])
	m := p.with(p.fact(on, revision, events.KeyDisabled{}), "keyledger.key.disabled.v1", "keyledger."+kind)
	m = p.with(m, on.String(), s.String())
	m.subject = s.String()
	return p.with(m, `"bearsonverdict":true`, fmt.Sprintf(`"bearsonverdict":%t`, bears))
}

// plant stores messages in a data folder that no server has.
func plant(t *testing.T, data string, messages ...message) {
	t.Helper()
	broker, err := embedded.Start(t.Context(), embedded.Config{Dir: data})
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Shutdown()
	err = broker.Setup(t.Context(), func(conn *nats.Conn) error {
		for _, m := range messages {
			answer, err := conn.Request(m.subject, m.body, 10*time.Second)
			if err != nil {
				return err
			}
			var stored struct {
				Sequence uint64 `json:"seq"`
			}
			if err := json.Unmarshal(answer.Data, &stored); err != nil || stored.Sequence == 0 {
				return fmt.Errorf("not stored: %s", answer.Data)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// condition is what a server is in: what it answers about three keys, which
// checks fail, which views have stopped, and which problems the index has.
type condition struct {
	first, second, other string
	failing              string
	stopped              string
	problems             string
}

// conditionOf asks until the views are where they will stay.
func conditionOf(s *server, owner string, secrets map[string]string, want condition) condition {
	s.t.Helper()
	var got condition
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		ready, err := s.ask("", "GET", "/readyz", "")
		if err != nil {
			s.t.Fatal(err)
		}
		checks, _ := ready.Get("checks").(map[string]any)
		got = condition{
			first: s.verdict(owner, secrets["first"], "interview:read"), second: s.verdict(owner, secrets["second"], "interview:read"),
			other:    s.verdict(owner, secrets["other"], "interview:read"),
			failing:  strings.Join(slices.Sorted(maps.Keys(checks)), " "),
			stopped:  strings.Join(s.metric("keyledger_view_stopped", "view"), " "),
			problems: strings.Join(s.metric("keyledger_index_problems_total", "trouble"), " "),
		}
		if got == want || time.Now().After(deadline) {
			return got
		}
	}
}

// metric returns the values of a label for which a metric is not 0, sorted.
func (s *server) metric(name, label string) []string {
	s.t.Helper()
	var found []string
	for line := range strings.Lines(string(s.must(200, "", "GET", "/metrics", "").Body)) {
		rest, ok := strings.CutPrefix(line, name+"{"+label+`="`)
		if value, count, _ := strings.Cut(rest, `"} `); ok && strings.TrimSpace(count) != "0" {
			found = append(found, value)
		}
	}
	slices.Sort(found)
	return found
}

// What a ledger holds that this program cannot apply closes what it is about and
// nothing else, and is loud; the views of SQL stop there and say where. The
// program goes on, and is the same after a restart.
//
// Breaking it: an index that passes over unknown kinds answers VALID for the
// keys of the first cases; a catalog that does is not among the stopped views.
func TestPoison(t *testing.T) {
	t.Parallel()
	template := start(t, t.TempDir())
	owner := template.owner()
	p := &poisoner{t: t, ids: map[string]events.KeyID{}}
	secrets := map[string]string{}
	for _, k := range []struct{ org, name string }{{"acme", "first"}, {"acme", "second"}, {"other", "other"}} {
		if len(secrets) != 1 {
			template.organization(owner, k.org, "")
		}
		created := template.must(201, owner, "POST", "/v1/organizations/"+k.org+"/keys", keyBody)
		id, err := events.ParseKeyID(created.Text("key.id"))
		if err != nil {
			t.Fatal(err)
		}
		p.ids[k.name], secrets[k.name] = id, created.Text("secret")
	}
	template.Stop()
	p.ledger = positions(t, template.data).Ledger
	for name, c := range poisons(p) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data := t.TempDir()
			if err := os.CopyFS(data, os.DirFS(template.data)); err != nil {
				t.Fatal(err)
			}
			plant(t, data, c.messages...)
			for round := range 2 {
				s := start(t, data)
				if got := conditionOf(s, owner, secrets, c.want); got != c.want {
					t.Errorf("the server is in\n%+v, want\n%+v\n%s", got, c.want, s.Logged())
				}
				said(t, s.Logged(), c.says...)
				if c.more != nil {
					c.more(t, s, owner)
				}
				if round == 1 && c.want.first == closed && c.want.second == valid {
					// What is closed can still be ended, and that holds.
					s.must(200, owner, "POST", "/v1/organizations/acme/keys/"+p.ids["first"].String()+"/revoke", `{"reason":"poisoned"}`)
					if got := s.verdict(owner, secrets["first"], "interview:read"); got != "REVOKED" {
						t.Errorf("revoked, the closed key is %s", got)
					}
				}
				s.Stop()
			}
			if c.after != nil {
				c.after(t, data)
			}
		})
	}
}

// foundUnreadable shows that what is no block is told of, with its place and who
// wrote it.
func foundUnreadable(t *testing.T, data string) {
	t.Helper()
	view, err := usage.Open(t.Context(), usage.Config{Path: filepath.Join(data, "usage.db"), Of: positions(t, data)})
	if err != nil {
		t.Fatal(err)
	}
	defer view.Close()
	found, err := view.Findings(t.Context(), 0, 100)
	if err != nil || len(found) != 1 || found[0].Kind != usage.FindingUnreadable || found[0].Verifier != "intruder" || found[0].Org != "acme" || found[0].Position == 0 {
		t.Errorf("findings: %+v, %v", found, err)
	}
}

// poison is what is planted, and what must become of it.
type poison struct {
	messages []message
	want     condition
	// says is what stands in the log.
	says []string
	more func(t *testing.T, s *server, owner string)
	// after looks at the folder when the server has stopped.
	after func(t *testing.T, data string)
}

const (
	valid, closed = "VALID", "UNAVAILABLE"

	both       = "audit catalog"
	allFailing = "audit catalog problems"
)

// poisons are the cases.
func poisons(p *poisoner) map[string]poison {
	first := events.KeySubject("acme", p.ids["first"])
	acme := events.OrganizationSubject("acme")
	strange := events.Subject{Org: "acme", Aggregate: "lockdown", ID: "all"}
	foreign := events.LedgerID(uuid.New())
	at := "position="
	return map[string]poison{
		"unknown and bearing, on a key": {
			messages: []message{p.unknown(first, 2, "key.locked.v1", true)},
			want:     condition{closed, valid, valid, "catalog problems", "catalog", "unknown"},
			says:     []string{"fact could not be applied", "trouble=unknown", "closed=key", at, "view has stopped", "key.locked.v1"},
			more:     p.goesOn,
		},
		"unknown and bearing, on an organization": {
			messages: []message{p.unknown(acme, 2, "organization.frozen.v1", true)},
			want:     condition{closed, closed, valid, "catalog problems", "catalog", "unknown"},
			says:     []string{"closed=organization", "view has stopped"},
		},
		"unknown and bearing, on something unknown": {
			messages: []message{p.unknown(strange, 1, "lockdown.begun.v1", true)},
			want:     condition{closed, closed, valid, "catalog problems", "catalog", "unknown"},
		},
		"unknown and not bearing, on a key": {
			messages: []message{p.unknown(first, 2, "key.praised.v1", false)},
			want:     condition{valid, valid, valid, "", "", ""},
			more:     p.shownRaw("key.praised.v1"),
		},
		"unknown and not bearing, on something unknown": {
			messages: []message{p.unknown(strange, 1, "lockdown.considered.v1", false)},
			want:     condition{valid, valid, valid, "", "", ""},
		},
		"a broken body": {
			messages: []message{{first.String(), []byte(`{"specversion":"1.0","type":"keyledger.key.dis`)}},
			want:     condition{closed, valid, valid, allFailing, both, "malformed"},
			says:     []string{"trouble=malformed", "closed=key", first.String()},
			more:     p.goesOn,
		},
		"a body that belongs to another subject": {
			messages: []message{{first.String(), p.fact(events.KeySubject("acme", p.ids["second"]), 2, events.KeyDisabled{}).body}},
			want:     condition{closed, valid, valid, allFailing, both, "malformed"},
		},
		"an event of another ledger": {
			messages: []message{p.factOf(foreign, first, 2, events.KeyEnabled{}, 0, 0)},
			want:     condition{closed, valid, valid, allFailing, both, "malformed"},
		},
		"a revision too far": {
			messages: []message{p.fact(first, 3, events.KeyEnabled{})},
			want:     condition{closed, valid, valid, allFailing, both, "gap"},
			says:     []string{"trouble=gap", "closed=key"},
		},
		"an organization's revision too far": {
			messages: []message{p.fact(acme, 3, events.OrganizationRenamed{Name: events.ClearText("Acme")})},
			want:     condition{closed, closed, valid, "audit catalog configuration problems", both, "gap"},
		},
		"created twice": {
			messages: []message{p.fact(events.WorkspaceSubject("acme", "hiring"), 2, events.WorkspaceCreated{ID: "hiring", Name: events.ClearText("Again")})},
			want:     condition{closed, closed, valid, "catalog problems", "catalog", "misplaced"},
		},
		"a revision again": {
			// It changes nothing, which is why nothing closes.
			messages: []message{p.fact(first, 1, events.KeyDisabled{})},
			want:     condition{valid, valid, valid, allFailing, both, "replayed"},
		},
		"no block, among the uses": {
			messages: []message{{events.UsesSubject("acme", "intruder"), []byte("no block")}},
			// Every verifier writes there, and none of them stops the others' uses.
			want:  condition{valid, valid, valid, "", "", ""},
			after: foundUnreadable,
		},
	}
}

// goesOn shows that the other keys change as ever, and that a view which has
// stopped shows what it knew and no more.
func (p *poisoner) goesOn(t *testing.T, s *server, owner string) {
	t.Helper()
	second := "/v1/organizations/acme/keys/" + p.ids["second"].String()
	name := fmt.Sprintf("renamed by %s", t.Name())
	s.must(200, owner, "PATCH", second, fmt.Sprintf(`{"name":%q}`, name))
	if got := s.must(200, owner, "GET", second, "").Text("name"); got == name {
		t.Error("a view that has stopped shows what came after")
	}
	if lag := s.metric("keyledger_projection_lag_events", "view"); !slices.Contains(lag, "catalog") {
		t.Errorf("views that lag: %v", lag)
	}
}

// shownRaw shows that a key's history and the stream of events hold an event of
// an unknown kind as it is stored, and that the key goes on changing.
func (p *poisoner) shownRaw(kind string) func(t *testing.T, s *server, owner string) {
	return func(t *testing.T, s *server, owner string) {
		t.Helper()
		key := "/v1/organizations/acme/keys/" + p.ids["first"].String()
		history := string(s.must(200, owner, "GET", key+"/history?raw=true", "").Body)
		if strings.Count(history, `"keyledger.`+kind+`"`) != 1 || !strings.Contains(history, `system/intruder`) {
			t.Errorf("the history is %s", history)
		}
		s.must(200, owner, "PATCH", key, fmt.Sprintf(`{"metadata":{"told":%q}}`, uuid.NewString()))
	}
}

// What closes the installation's own organization closes its management keys, and
// no organization's.
func TestPoisonedInstallation(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	owner := s.owner()
	s.organization(owner, "acme", "")
	created := s.must(201, owner, "POST", "/v1/organizations/acme/keys", keyBody)
	admin := s.must(201, owner, "POST", "/v1/organizations/acme/keys", `{"kind":"management","role":"admin","scope":{"all_workspaces":true}}`).Text("secret")
	s.Stop()
	p := &poisoner{t: t, ledger: positions(t, s.data).Ledger, ids: map[string]events.KeyID{}}
	plant(t, s.data, p.unknown(events.Subject{Org: events.System, Aggregate: "lockdown", ID: "all"}, 1, "lockdown.begun.v1", true))
	for range 2 {
		s = start(t, s.data)
		s.must(503, owner, "GET", "/v1/whoami", "")
		if got := s.verdict(admin, created.Text("secret"), "interview:read"); got != valid {
			t.Errorf("a key of an organization is %s", got)
		}
		s.must(201, admin, "POST", "/v1/organizations/acme/keys", keyBody)
		s.Stop()
	}
}

// A batch of which a part is missing is not an event that cannot be applied but a
// ledger that is broken: nothing can be said from there on, and nothing is. The
// program says so and stays.
func TestTornBatch(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	owner := s.owner()
	s.organization(owner, "acme", "")
	created := s.must(201, owner, "POST", "/v1/organizations/acme/keys", keyBody)
	s.Stop()
	id, err := events.ParseKeyID(created.Text("key.id"))
	if err != nil {
		t.Fatal(err)
	}
	p := &poisoner{t: t, ledger: positions(t, s.data).Ledger}
	subject := events.KeySubject("acme", id)
	plant(t, s.data,
		p.factOf(p.ledger, subject, 2, events.KeyDisabled{}, 1, 2),
		p.fact(subject, 2, events.KeyDisabled{}))
	files, err := filepath.Glob(filepath.Join(s.data, "*.db"))
	if err != nil || len(files) < 3 {
		t.Fatalf("views: %v, %v", files, err)
	}
	for range 2 {
		s = launch(t, s.data)
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if stopped := strings.Join(s.metric("keyledger_view_stopped", "view"), " "); stopped == "audit catalog index" {
				break
			} else if time.Now().After(deadline) {
				t.Fatalf("stopped views: %q\n%s", stopped, s.Logged())
			}
		}
		s.must(503, "", "GET", "/readyz", "")
		s.must(200, "", "GET", "/livez", "")
		s.must(503, owner, "GET", "/v1/organizations/acme", "")
		if strings.Contains(s.Logged(), "ready http") {
			t.Errorf("a server without verdicts says that it is ready:\n%s", s.Logged())
		}
		said(t, s.Logged(), "corrupt", "the batch of 2 ends after part 1")
		s.Stop()
	}
}
