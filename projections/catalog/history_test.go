package catalog_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/catalog"
	"pgregory.net/rapid"
)

const (
	acme = events.OrgID("acme")
	day  = events.Time(24 * 3600 * 1_000_000)
	t0   = events.Time(1_795_240_000_000_000)
)

// history writes facts as the ledger would record them.
type history struct {
	facts     []events.Recorded
	revisions map[events.Subject]events.Revision
}

func newHistory() *history { return &history{revisions: map[events.Subject]events.Revision{}} }

// time is when the next fact happens: one second after the last.
func (h *history) time() events.Time { return t0 + events.Time(len(h.facts)+1)*1_000_000 }

func (h *history) add(s events.Subject, e events.Event) *events.Recorded {
	h.revisions[s]++
	h.facts = append(h.facts, events.Recorded{
		Position: events.Position(len(h.facts) + 1), Subject: s, Stored: h.time(), Event: e,
		Meta: events.Meta{
			Time: h.time(), Revision: h.revisions[s],
			Actor: events.Actor{Type: events.ActorSystem, Name: "test"}, Reason: events.ClearText(fmt.Sprintf("reason %d", len(h.facts)+1)),
		},
	})
	return &h.facts[len(h.facts)-1]
}

func keyID(n int) events.KeyID {
	id := events.KeyID{6: 0x70, 8: 0x80}
	binary.BigEndian.PutUint32(id[12:], uint32(n))
	return id
}

// create adds a plain key, changed by the given functions.
func (h *history) create(org events.OrgID, n int, change ...func(*events.KeyCreated)) events.KeyID {
	e := events.KeyCreated{
		ID: keyID(n), KeyKind: events.KindAPI, Name: events.ClearText(fmt.Sprintf("key %d", n)), Prefix: "kl_live", LastFour: "a1B2",
		Digest:      events.Digest{Alg: events.SHA256, Value: events.DigestValue{byte(n)}},
		Permissions: events.Permissions{Level: events.LevelAll}, Scope: events.Scope{AllWorkspaces: true}, CreatedAt: h.time(),
	}
	for _, f := range change {
		f(&e)
	}
	h.add(events.KeySubject(org, e.ID), e)
	return e.ID
}

// slices cuts the facts into slices of n.
func (h *history) slices(n int) [][]events.Recorded { return slices.Collect(slices.Chunk(h.facts, n)) }

// show has a catalog apply the history, in slices of any size.
func (h *history) show(rt *rapid.T, c *catalog.Catalog) {
	for _, s := range h.slices(rapid.IntRange(1, 20).Draw(rt, "slice")) {
		if err := c.Apply(context.Background(), s); err != nil {
			rt.Fatal(err)
		}
	}
}

func open(t testing.TB, path string) *catalog.Catalog {
	t.Helper()
	c, err := catalog.Open(context.Background(), catalog.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func dbPath(t testing.TB) string { return filepath.Join(t.TempDir(), "catalog.db") }

func (h *history) applyTo(t testing.TB, c *catalog.Catalog, per int) {
	t.Helper()
	for _, s := range h.slices(per) {
		if err := c.Apply(context.Background(), s); err != nil {
			t.Fatal(err)
		}
	}
}

// opened returns a catalog that has applied the history.
func (h *history) opened(t testing.TB) *catalog.Catalog {
	t.Helper()
	c := open(t, dbPath(t))
	h.applyTo(t, c, 100)
	return c
}
