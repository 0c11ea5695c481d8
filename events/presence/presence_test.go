package presence

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/uses"
)

func announcement() Announcement {
	return Announcement{
		Ledger: events.LedgerID{1}, Verifier: "edge-1", Boot: uses.BootID{2}, Number: 1, Kind: Sidecar, Version: "v1.0",
		Organizations: []events.OrgID{"acme", "globex"}, StartedAt: events.TimeOf(time.Unix(1, 0)), Applied: 7, Revoked: 6, RevokedAgo: 5, Staleness: -1,
		MaxStaleness: 30_000, Recorded: 2, Backlog: 1, Lease: DefaultLease.Milliseconds(),
	}
}

func TestAnnouncementComesBackAsItWasSaid(t *testing.T) {
	a := announcement()
	m, err := Encode(&a)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(a.Ledger, m)
	if err != nil || !cmp.Equal(got, a) {
		t.Fatal(cmp.Diff(a, got), err)
	}
	if m.Subject != "presence.edge-1" || m.ID != a.Boot.String()+".presence.1" {
		t.Errorf("%s, %s", m.Subject, m.ID)
	}
	// Nobody speaks for another, or to another ledger.
	m.Subject = Subject("edge-2")
	if _, err := Decode(a.Ledger, m); !errors.Is(err, ErrMalformed) {
		t.Errorf("under another's subject: %v", err)
	}
	m.Subject = Subject(a.Verifier)
	if _, err := Decode(events.LedgerID{9}, m); !errors.Is(err, ErrMalformed) {
		t.Errorf("of another ledger: %v", err)
	}
}

func TestWhatIsNoAnnouncement(t *testing.T) {
	for says, spoil := range map[string]func(*Announcement){
		"ledger":           func(a *Announcement) { a.Ledger = events.LedgerID{} },
		"verifier":         func(a *Announcement) { a.Verifier = "Edge 1" },
		"number":           func(a *Announcement) { a.Number = 0 },
		"kind":             func(a *Announcement) { a.Kind = "cache" },
		"version":          func(a *Announcement) { a.Version = "v1\n" },
		"organizations":    func(a *Announcement) { a.Organizations = []events.OrgID{"globex", "acme"} },
		"started_at":       func(a *Announcement) { a.StartedAt = 0 },
		"revoked":          func(a *Announcement) { a.Revoked = 8 },
		"revoked_ago_ms":   func(a *Announcement) { a.Revoked = 0 },
		"staleness_ms":     func(a *Announcement) { a.Staleness = -2 },
		"max_staleness_ms": func(a *Announcement) { a.MaxStaleness = 0 },
		"backlog":          func(a *Announcement) { a.Backlog = 3 },
		"lease_ms":         func(a *Announcement) { a.Lease = 1 },
	} {
		a := announcement()
		spoil(&a)
		if _, err := Encode(&a); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	a := announcement()
	m, err := Encode(&a)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(m.Body)
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := Decode(a.Ledger, Message{Subject: m.Subject, Body: body})
		if err != nil {
			return
		}
		again, err := Encode(&got)
		if err != nil || again.Subject != m.Subject {
			t.Fatalf("%v: %s", err, body)
		}
	})
}
