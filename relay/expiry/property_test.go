package expiry_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/domain/organization"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/catalog"
)

// machine changes keys and their ends at random.
type machine struct {
	*world
	at   time.Time
	keys []events.KeyID
}

// TestDueIsWhatIsRecorded: whatever happened, the catalog says that something is
// due of a key if and only if the key's own facts ask for it. The catalog counts
// days and months in SQL, decisions do in Go.
func TestDueIsWhatIsRecorded(t *testing.T) {
	dir := t.TempDir()
	tables := fewHistories(t, dir)
	worlds := 0
	rapid.Check(t, func(rt *rapid.T) {
		m := &machine{at: time.Date(2026, 12, 30, 23, 59, 58, 999_999_000, time.UTC)}
		worlds++
		m.world = newWorldAt(t, filepath.Join(dir, fmt.Sprint(worlds)), func() time.Time { return m.at }, tables)
		defer m.hands.stop()
		rt.Repeat(map[string]func(*rapid.T){
			"time": func(t *rapid.T) {
				// Often to the second before or after something.
				next, err := m.hands.catalog.Next(m.ctx)
				if to := next.Std().Add(time.Duration(rapid.IntRange(-1, 1).Draw(t, "second")) * time.Second); err == nil && to.After(m.at) && rapid.Bool().Draw(t, "near") {
					m.at = to
					return
				}
				m.at = m.at.Add(time.Duration(rapid.Int64Range(1, int64(20*day)).Draw(t, "passes")))
			},
			"create": func(t *rapid.T) {
				if len(m.keys) < 6 {
					c := commands.CreateKey{Create: key.Create{
						Permissions: events.Permissions{Level: events.LevelAll}, Scope: events.Scope{AllWorkspaces: true}, Expiry: drawEnd(t),
					}}
					out, err := m.hands.CreateKey(m.ctx, wish(), acme, c)
					m.try(t, err)
					m.keys = append(m.keys, out.Key.ID)
				}
			},
			"policy": func(t *rapid.T) {
				list := rapid.SliceOfN(rapid.SampledFrom([]events.Period{"1d", "7d", "28d", "30d", "31d", "1mo", "2mo", "13mo", "1y"}), 0, 5).Draw(t, "notices")
				age := rapid.SampledFrom([]events.Period{"", "3d", "31d", "1mo", "13mo", "1y", "never"}).Draw(t, "age")
				_, err := m.hands.UpdateOrganization(m.ctx, wish(), acme, organization.Update{ExpiryNotices: domain.Some(list), RotationDueAfter: domain.Some(age)})
				m.try(t, err)
			},
			"extend": func(t *rapid.T) { m.change(t, key.Update{Expiry: domain.Some(drawEnd(t))}) },
			"edit":   func(t *rapid.T) { m.change(t, key.Update{Name: domain.Some(events.ClearText("x"))}) },
			"off":    func(t *rapid.T) { m.change(t, key.Update{Status: domain.Some(events.StatusInactive)}) },
			"grace":  func(t *rapid.T) { m.change(t, key.Update{Grace: domain.Some(drawGrace(t) / 2)}) },
			"rotate": func(t *rapid.T) {
				if id, ok := m.draw(t); ok && len(m.keys) < 6 {
					out, err := m.hands.RotateKey(m.ctx, wish(), acme, id, commands.RotateKey{Grace: drawGrace(t)})
					if err == nil {
						m.keys = append(m.keys, out.Key.ID)
					}
				}
			},
			"revoke": func(t *rapid.T) {
				if id, ok := m.draw(t); ok && rapid.IntRange(0, 4).Draw(t, "really") == 0 {
					_, err := m.hands.RevokeKey(m.ctx, wish(), acme, id, false)
					m.try(t, err)
				}
			},
			"end": func(t *rapid.T) {
				if rapid.IntRange(0, 30).Draw(t, "really") == 0 {
					_, err := m.hands.DeleteOrganization(m.ctx, wish(), acme)
					m.try(t, err)
				}
			},
			"look": func(t *rapid.T) { m.look(t) },
		})
		m.look(rt)
	})
}

// fewHistories has rapid draw 40 histories unless it is told another number
// (-rapid.checks), and returns the file of a catalog that knows nothing yet: to make
// the tables for each of them took a third of the time.
func fewHistories(t *testing.T, dir string) []byte {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue {
		must(checks.Value.Set("40"))
		t.Cleanup(func() { must(checks.Value.Set(checks.DefValue)) })
	}
	path := filepath.Join(dir, "empty.db")
	c, err := catalog.Open(t.Context(), catalog.Config{Path: path})
	must(err)
	must(c.Close())
	tables, err := os.ReadFile(path)
	must(err)
	return tables
}

func drawEnd(t *rapid.T) key.Expiry {
	return key.Expiry{In: rapid.SampledFrom([]events.Period{"1d", "2d", "8d", "29d", "1mo", "35d", "3mo", "1y", "14mo", "never"}).Draw(t, "lives")}
}

func drawGrace(t *rapid.T) time.Duration {
	return time.Duration(rapid.IntRange(0, 100).Draw(t, "hours")) * time.Hour
}

func (m *machine) draw(t *rapid.T) (events.KeyID, bool) {
	if len(m.keys) == 0 {
		return events.KeyID{}, false
	}
	return rapid.SampledFrom(m.keys).Draw(t, "key"), true
}

// change ignores refusals: much of what is tried comes too late.
func (m *machine) change(t *rapid.T, u key.Update) {
	if id, ok := m.draw(t); ok {
		_, _ = m.hands.UpdateKey(m.ctx, wish(), acme, id, u)
	}
}

// try ends a history with its organization.
func (m *machine) try(t *rapid.T, err error) {
	if err != nil {
		t.Skip(err)
	}
}

// look holds what the catalog says to what is recorded when it is done (of the
// installation's own key too, which gets old like any other), and when
// every key is tried after that.
func (m *machine) look(t *rapid.T) {
	now := events.TimeOf(m.at)
	for {
		list, err := m.hands.catalog.Due(m.ctx, now, catalog.Due{}, 100)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 {
			break
		}
		for _, d := range list {
			do, want := m.asked(d, now)
			if got := m.recorded(t, do, d.Org, d.Key); got != want {
				t.Fatalf("at %s the catalog says %q of a key, recorded is %q", now, want, got)
			}
		}
	}
	for _, id := range m.keys {
		for _, do := range []appender{m.hands.NotifyExpiry, m.hands.NoteRotation, m.hands.ExpireKey, m.hands.EndKey} {
			if got := m.recorded(t, do, acme, id); got != "" {
				t.Fatalf("at %s the catalog says nothing of a key, recorded is %q", now, got)
			}
		}
	}
	if left, err := m.hands.catalog.Overdue(m.ctx, now, 100); err != nil || left != 0 {
		t.Fatalf("%d are left, %v", left, err)
	}
}

type appender = func(context.Context, events.OrgID, events.KeyID) (commands.Outcome, error)

// asked is what records what the catalog says, and what that is.
func (m *machine) asked(d catalog.Due, now events.Time) (appender, string) {
	switch d.Ask(now) {
	case catalog.AskExpiry:
		return m.hands.ExpireKey, "end at " + d.EndsAt.String()
	case catalog.AskRotationDue:
		return m.hands.NoteRotation, "rotation due at " + d.At.String()
	case catalog.AskRevocation:
		return m.hands.EndKey, "revoked"
	default:
		return m.hands.NotifyExpiry, "notice of " + d.EndsAt.String()
	}
}

// recorded is what trying a key comes to, in words.
func (m *machine) recorded(t *rapid.T, do appender, org events.OrgID, id events.KeyID) string {
	out, err := do(m.ctx, org, id)
	if err == nil {
		err = m.hands.runner.WaitFor(m.ctx, out.Position)
	}
	if err != nil {
		t.Fatal(err)
	}
	told := ""
	for _, f := range out.Facts {
		switch e := f.Event.(type) {
		case events.KeyExpired:
			told += "end at " + e.ExpiredAt.String()
		case events.KeyExpiring:
			told += "notice of " + e.ExpiresAt.String()
		case events.KeyRotationDue:
			told += "rotation due at " + e.DueAt.String()
		case events.KeyRevoked:
			told += "revoked"
		default:
			told += fmt.Sprint(f.Event)
		}
	}
	return told
}
