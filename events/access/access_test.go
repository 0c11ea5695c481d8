package access_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
)

var ledger = events.LedgerID{1}

func sample() access.Record {
	return access.Record{
		Ledger: ledger, Server: "s-1", Boot: access.BootID{1}, Number: 7,
		Row: access.Row{
			Minute: 60_000_000, Kind: access.LoginFailed, Org: "acme",
			Actor: events.Actor{Type: events.ActorKey, Org: "acme", Key: events.KeyID{2}}, Role: events.RoleAdmin,
			What: "GET /v1/organizations", Code: "REVOKED", Source: "00ff", SourceKind: access.SourceLabel,
		},
		Count: 3, FirstAt: 61_000_000, LastAt: 62_000_000, RequestID: "r-1",
	}
}

// The stored form is read by programs that are not here.
func TestRecord(t *testing.T) {
	r := sample()
	m, err := access.Encode(&r)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"ledger":"01000000-0000-0000-0000-000000000000","server":"s-1","boot":"01000000-0000-0000-0000-000000000000","number":7,` +
		`"minute":"1970-01-01T00:01:00.000000Z","kind":"login.failed","org":"acme","actor":"key/acme/02000000-0000-0000-0000-000000000000","role":"admin",` +
		`"what":"GET /v1/organizations","code":"REVOKED","source":"00ff","source_kind":"label",` +
		`"count":3,"first_at":"1970-01-01T00:01:01.000000Z","last_at":"1970-01-01T00:01:02.000000Z","request_id":"r-1"}`
	if string(m.Body) != want {
		t.Errorf("%s\n%s", m.Body, want)
	}
	if m.Subject != access.Subject("acme", access.LoginFailed) || !strings.HasSuffix(m.Subject, ".acme.login.failed") || m.ID != r.ID() {
		t.Errorf("%s, %s", m.Subject, m.ID)
	}
	got, err := access.Decode(ledger, m)
	if diff := cmp.Diff(r, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	// What nobody is known of says so by leaving it out.
	r.Actor, r.Role, r.Code, r.Source, r.SourceKind, r.RequestID = events.Actor{}, "", "", "", "", ""
	if m, err = access.Encode(&r); err != nil || strings.Contains(string(m.Body), "actor") || !r.Stranger() {
		t.Errorf("%s %v", m.Body, err)
	}
}

func TestMalformed(t *testing.T) {
	for name, change := range map[string]func(*access.Record){
		"ledger":      func(r *access.Record) { r.Ledger = events.LedgerID{} },
		"server":      func(r *access.Record) { r.Server = "S 1" },
		"number":      func(r *access.Record) { r.Number = 0 },
		"boot":        func(r *access.Record) { r.Boot = access.BootID{} },
		"kind":        func(r *access.Record) { r.Kind = "other" },
		"org":         func(r *access.Record) { r.Org = "a.b" },
		"minute":      func(r *access.Record) { r.Minute++ },
		"count":       func(r *access.Record) { r.Count = 0 },
		"times":       func(r *access.Record) { r.LastAt = r.FirstAt - 1 },
		"what":        func(r *access.Record) { r.What = "" },
		"long what":   func(r *access.Record) { r.What = strings.Repeat("x", access.MaxWhat+1) },
		"code":        func(r *access.Record) { r.Code = strings.Repeat("x", access.MaxCode+1) },
		"source":      func(r *access.Record) { r.SourceKind = "" },
		"clear":       func(r *access.Record) { r.Source, r.SourceKind = "192.0.2.1", access.SourceIP },
		"long source": func(r *access.Record) { r.Source = strings.Repeat("x", access.MaxSource+1) },
		"request":     func(r *access.Record) { r.RequestID = strings.Repeat("x", events.MaxRequestIDLength+1) },
	} {
		r := sample()
		change(&r)
		if _, err := access.Encode(&r); !errors.Is(err, access.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := sample()
	m, err := access.Encode(&r)
	if err != nil {
		t.Fatal(err)
	}
	foreign, empty := m, m
	foreign.Subject = access.Subject("globex", access.LoginFailed)
	empty.Body = nil
	for name, m := range map[string]access.Message{"moved": foreign, "empty": empty} {
		if _, err := access.Decode(ledger, m); !errors.Is(err, access.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := access.Decode(events.LedgerID{2}, m); !errors.Is(err, access.ErrMalformed) {
		t.Errorf("another ledger's: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	r := sample()
	m, err := access.Encode(&r)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(m.Subject, m.Body)
	f.Fuzz(func(t *testing.T, subject string, body []byte) {
		r, err := access.Decode(ledger, access.Message{Subject: subject, Body: body})
		if err != nil {
			return
		}
		again, err := access.Encode(&r)
		if err != nil || again.Subject != subject {
			t.Errorf("%v: %+v", err, r)
		}
	})
}

func TestMinute(t *testing.T) {
	for at, want := range map[events.Time]events.Time{0: 0, 59_999_999: 0, 60_000_000: 60_000_000, -1: -60_000_000} {
		if got := access.Minute(at); got != want {
			t.Errorf("%d: %d, want %d", at, got, want)
		}
	}
}

func TestParseKind(t *testing.T) {
	for _, k := range access.Kinds() {
		if got, err := access.ParseKind(string(k)); err != nil || got != k {
			t.Errorf("%s: %v", k, err)
		}
	}
	if _, err := access.ParseKind(""); err == nil {
		t.Error("nothing is a kind")
	}
}
