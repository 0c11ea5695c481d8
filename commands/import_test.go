package commands_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/memory"
)

// foreign is a key of another system that nothing is wrong with.
func foreign(secret string, change ...func(*commands.ImportKey)) commands.ImportKey {
	k := commands.ImportKey{Create: key.Create{
		Issued:      key.Issued{Prefix: "sk-old", LastFour: "a1.B", Digest: events.Digest{Alg: events.SHA256, Value: sha256.Sum256([]byte(secret))}},
		Permissions: events.Permissions{Level: events.LevelAll}, Scope: events.Scope{AllWorkspaces: true},
	}}
	for _, f := range change {
		f(&k)
	}
	return k
}

func inactive(k *commands.ImportKey) { k.Status = events.StatusInactive }

func foreigners(from, to int, change ...func(*commands.ImportKey)) []commands.ImportKey {
	var out []commands.ImportKey
	for i := from; i < to; i++ {
		out = append(out, foreign(fmt.Sprint("key ", i), change...))
	}
	return out
}

// tally counts what became of keys.
func tally(t testing.TB, out commands.ImportOutcome, imported, existing, refused int) {
	t.Helper()
	var i, e, r int
	for _, k := range out.Keys {
		switch {
		case k.Err != nil:
			r++
		case k.ID.IsZero():
			t.Error("a key has no outcome")
		case k.Exists:
			e++
		default:
			i++
		}
	}
	if i != imported || e != existing || r != refused {
		t.Errorf("%d imported, %d existing, %d refused; want %d, %d, %d", i, e, r, imported, existing, refused)
	}
}

func onBothLedgers(t *testing.T, test func(t *testing.T, w *world)) {
	t.Run("memory", func(t *testing.T) { test(t, newWorld(t)) })
	t.Run("jetstream", func(t *testing.T) { test(t, newWorldOnDisk(t)) })
}

func (w *world) imports(s *server, keys []commands.ImportKey) commands.ImportOutcome {
	w.Helper()
	out, err := s.ImportKeys(w.ctx, w.by(w.owner), acme, keys)
	if err != nil {
		w.Fatal(err)
	}
	return out
}

// A thousand keys are one batch, whatever is wrong with some, and importing them
// again makes no other, on whichever server, and whatever became of them.
func TestAnImportIsOneBatchAndFindsItsKeysAgain(t *testing.T) {
	onBothLedgers(t, func(t *testing.T, w *world) {
		s := w.server()
		w.acme(s, events.Limits{})
		born := events.TimeOf(time.Now().AddDate(-3, 0, 0))
		keys := foreigners(0, events.MaxImport, func(k *commands.ImportKey) { k.CreatedAt = born })
		keys[7].Scope = events.Scope{Workspaces: []events.WorkspaceID{"gone"}}
		keys[8].Issued.Digest = keys[6].Issued.Digest
		keys[9].Unreadable = errors.New("unreadable")
		before := w.last()
		out := w.imports(s, keys)
		tally(t, out, events.MaxImport-3, 0, 3)
		for i, want := range map[int]error{7: domain.ErrUnknownWorkspace, 8: domain.ErrDigestTaken, 9: keys[9].Unreadable} {
			if !errors.Is(out.Keys[i].Err, want) {
				t.Errorf("key %d: %v, want %v", i, out.Keys[i].Err, want)
			}
		}
		if n := int(w.last() - before); n != events.MaxImport-3 || out.Facts[5].Meta.BatchSize != n || !out.Applied || out.Position != w.last() {
			t.Errorf("%d facts, a batch of %d", n, out.Facts[5].Meta.BatchSize)
		}
		e := out.Facts[0].Event.(events.KeyCreated)
		if !e.Imported || e.CreatedAt != born || e.ID != out.Keys[0].ID || e.Prefix != "sk-old" || e.LastFour != "a1.B" {
			t.Errorf("%+v", e)
		}
		if _, err := s.RevokeKey(w.ctx, w.by(w.owner), acme, out.Keys[3].ID, false); err != nil {
			t.Fatal(err)
		}
		end := w.last()
		for _, server := range []*server{s, w.server()} {
			again := w.imports(server, keys[:7])
			tally(t, again, 0, 7, 0)
			if again.Keys[3].ID != out.Keys[3].ID || len(again.Facts) != 0 || again.Replayed || again.Position == 0 {
				t.Errorf("%+v", again)
			}
		}
		if w.last() != end {
			t.Error("a repetition was appended")
		}
		// Some there, some not: those alone are new.
		tally(t, w.imports(s, foreigners(990, 1010)), 10, 10, 0)
	})
}

// Under an idempotency key what a wish made is told as made, however often it is
// told, and what it found as found.
func TestARepeatedImportTellsTheSame(t *testing.T) {
	onBothLedgers(t, func(t *testing.T, w *world) {
		s := w.server()
		w.acme(s, events.Limits{})
		tally(t, w.imports(s, foreigners(0, 3)), 3, 0, 0)
		wish := w.repeatable(w.owner, "once", "the body")
		for n, server := range []*server{s, s, w.server()} {
			out, err := server.ImportKeys(w.ctx, wish, acme, foreigners(0, 10, inactive))
			if err != nil || out.Replayed != (n > 0) {
				t.Fatalf("%v, replayed %t", err, out.Replayed)
			}
			tally(t, out, 7, 3, 0)
		}
		wish.Body = []byte("another body")
		if _, err := s.ImportKeys(w.ctx, wish, acme, foreigners(0, 12)); !errors.Is(err, commands.ErrIdempotencyKeyReused) {
			t.Errorf("%v", err)
		}
		if n := len(w.born(acme)); n != 10 {
			t.Errorf("%d keys", n)
		}
	})
}

// What is lost is the answer, or the rest of it: told again, the wish is finished.
func TestAnImportThatBrokeOffIsFinishedByItsRepetition(t *testing.T) {
	// Keys of two facts each.
	const twoBatches = events.MaxBatch/2 + 8
	for _, stored := range []bool{false, true} {
		for _, broken := range []int{1, 2} {
			t.Run(fmt.Sprintf("batch %d, stored %t", broken, stored), func(t *testing.T) {
				w := newWorld(t)
				log := &failing{Ledger: w.memory, at: broken, stored: stored}
				s := w.server(func(c *commands.Config) { c.Log = log })
				w.acme(s, events.Limits{})
				keys := foreigners(0, twoBatches, inactive)
				wish := w.repeatable(w.owner, "once", "body")
				log.armed = true
				if _, err := s.ImportKeys(w.ctx, wish, acme, keys); !errors.Is(err, events.ErrOutcomeUnknown) {
					t.Fatalf("%v", err)
				}
				out, err := w.server().ImportKeys(w.ctx, wish, acme, keys)
				if err != nil {
					t.Fatal(err)
				}
				tally(t, out, twoBatches, 0, 0)
				if n := len(w.born(acme)); n != twoBatches {
					t.Errorf("%d keys", n)
				}
			})
		}
	}
	// That nothing was done is not said of what was done in part.
	w := newWorld(t)
	log := &failing{Ledger: w.memory, at: 2, err: events.ErrUnavailable}
	s := w.server(func(c *commands.Config) { c.Log = log })
	w.acme(s, events.Limits{})
	log.armed = true
	if _, err := s.ImportKeys(w.ctx, w.by(w.owner), acme, foreigners(0, twoBatches, inactive)); !errors.Is(err, events.ErrOutcomeUnknown) {
		t.Errorf("%v", err)
	}
}

// failing fails one batch, which is stored all the same, or not.
type failing struct {
	*memory.Ledger
	armed, stored bool
	at            int
	err           error
}

func (f *failing) Append(ctx context.Context, entries []events.Entry) ([]events.Recorded, error) {
	if f.armed {
		if f.at--; f.at == 0 {
			if f.err == nil {
				f.err = events.ErrOutcomeUnknown
			}
			f.FailNext(f.err, f.stored)
		}
	}
	return f.Ledger.Append(ctx, entries)
}

// Three servers import the same file at once: every key is born once, and
// somebody is told so.
func TestServersThatImportTheSameMakeNoKeyTwice(t *testing.T) {
	for _, limit := range []int{0, 60} {
		t.Run(fmt.Sprint("limit ", limit), func(t *testing.T) {
			onBothLedgers(t, func(t *testing.T, w *world) {
				servers := []*server{w.server(), w.server(), w.server()}
				w.acme(servers[0], events.Limits{MaxActiveKeys: limit})
				for _, s := range servers {
					if err := s.await(w.ctx, w.last()); err != nil {
						t.Fatal(err)
					}
				}
				outs := make([]commands.ImportOutcome, len(servers))
				var wg sync.WaitGroup
				for i, s := range servers {
					wg.Go(func() {
						// They overlap, and are not the same.
						keys := foreigners(20*i, 20*i+80)
						err := events.ErrUnavailable
						for errors.Is(err, events.ErrUnavailable) {
							outs[i], err = s.ImportKeys(w.ctx, w.by(w.owner), acme, keys)
						}
						if err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
				told := map[events.KeyID]int{}
				for _, out := range outs {
					for _, k := range out.Keys {
						switch {
						case k.Err != nil && (limit == 0 || !errors.Is(k.Err, domain.ErrKeyLimitReached)):
							t.Error(k.Err)
						case k.Err == nil && !k.Exists:
							told[k.ID]++
						}
					}
				}
				born := w.born(acme)
				if want := 120; limit == 0 && len(born) != want || limit > 0 && len(born) != limit {
					t.Errorf("%d keys were born", len(born))
				}
				for _, id := range born {
					if told[id] != 1 {
						t.Errorf("%s was told as imported %d times", id, told[id])
					}
				}
				if limit > 0 {
					checkQuota(t, w, limit)
				}
			})
		})
	}
}

// As many get in as have a place, in their order; who has one is not refused it.
func TestALimitLetsInAsManyAsHaveAPlace(t *testing.T) {
	w := newWorld(t)
	// Whoever asks who holds a place gets no answer: the guard alone knows.
	s := w.server(func(c *commands.Config) { c.Holders = fixedHolders(nil) })
	w.acme(s, events.Limits{MaxActiveKeys: 10})
	tally(t, w.imports(s, foreigners(0, 4)), 4, 0, 0)
	w.create(s, acme, plain())
	out := w.imports(s, foreigners(0, 12))
	tally(t, out, 5, 4, 3)
	for i, k := range out.Keys {
		if full := errors.Is(k.Err, domain.ErrKeyLimitReached); full != (i >= 9) {
			t.Errorf("key %d: %v", i, k.Err)
		}
	}
	tally(t, w.imports(s, foreigners(0, 12)), 0, 9, 3)
	if _, err := s.RevokeKey(w.ctx, w.by(w.owner), acme, out.Keys[0].ID, false); err != nil {
		t.Fatal(err)
	}
	tally(t, w.imports(s, foreigners(0, 12)), 1, 9, 2)
	checkQuota(t, w, 10)
	// A place is taken by who is switched off, too, and a whole thousand has one.
	w.organization(s, "big", events.Limits{MaxActiveKeys: events.MaxActiveKeysLimit})
	big, err := s.ImportKeys(w.ctx, w.by(w.owner), "big", foreigners(0, events.MaxImport, inactive))
	if err != nil {
		t.Fatal(err)
	}
	tally(t, big, events.MaxImport, 0, 0)
	if _, err := s.CreateKey(w.ctx, w.by(w.owner), "big", plain()); !errors.Is(err, domain.ErrKeyLimitReached) {
		t.Errorf("%v", err)
	}
}

func TestADryRunOfAnImportAppendsNothing(t *testing.T) {
	for limit, n := range map[int]int{0: events.MaxImport, 5: 20} {
		w := newWorld(t)
		s := w.server()
		w.acme(s, events.Limits{MaxActiveKeys: limit})
		tally(t, w.imports(s, foreigners(0, 2)), 2, 0, 0)
		end, wish := w.last(), w.by(w.owner)
		wish.DryRun = true
		out, err := s.ImportKeys(w.ctx, wish, acme, foreigners(0, n, inactive))
		if err != nil || w.last() != end {
			t.Fatalf("%v, from %d to %d", err, end, w.last())
		}
		fresh := n - 2
		if limit > 0 {
			fresh = limit - 2
		}
		tally(t, out, fresh, 2, n-2-fresh)
		if len(out.Facts) != 2*fresh {
			t.Errorf("%d facts", len(out.Facts))
		}
	}
}

// What is wrong with a key is told there, without repeating it, and nowhere else.
func TestWhatIsWrongWithAnImportedKey(t *testing.T) {
	w := newWorld(t)
	other := foreign("of another organization").Issued.Digest
	s := w.server(func(c *commands.Config) {
		c.Taken = func(d events.Digest) (events.OrgID, events.KeyID, bool) { return "other", events.KeyID{1}, d == other }
	})
	w.acme(s, events.Limits{})
	secret, err := keystring.New("kl_live", [24]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	cases := map[error][]func(*commands.ImportKey){
		domain.ErrSecretInField: {
			func(k *commands.ImportKey) { k.Name = events.ClearText(secret.Reveal()) },
			func(k *commands.ImportKey) { k.Metadata = events.Metadata{"a": events.ClearText(secret.Reveal())} },
		},
		domain.ErrDigestTaken: {func(k *commands.ImportKey) { k.Issued.Digest = other }},
		domain.ErrPastExpiry:  {func(k *commands.ImportKey) { k.Expiry.At = 1_000_000 }},
		domain.ErrInvalid: {
			func(k *commands.ImportKey) { k.Issued.Prefix = "ends_with space " },
			func(k *commands.ImportKey) { k.Issued.Prefix = strings.Repeat("x", events.MaxImportedPrefix+1) },
			func(k *commands.ImportKey) { k.Issued.LastFour = "abc" },
			func(k *commands.ImportKey) { k.Issued.LastFour = "abc\n" },
			func(k *commands.ImportKey) { k.Issued.Digest.Value = events.DigestValue{} },
			func(k *commands.ImportKey) { k.Issued.Digest.Value = sha256.Sum256(nil) },
			func(k *commands.ImportKey) { k.CreatedAt = events.TimeOf(time.Now().Add(time.Hour)) },
			func(k *commands.ImportKey) { k.Status = events.StatusRevoked },
			func(k *commands.ImportKey) { k.Permissions = events.Permissions{} },
			func(k *commands.ImportKey) { k.Scope = events.Scope{} },
		},
	}
	keys, wants := foreigners(0, 1), []error{nil}
	for want, changes := range cases {
		for _, change := range changes {
			keys, wants = append(keys, foreign(fmt.Sprint("bad ", len(keys)), change), foreign(fmt.Sprint("good ", len(keys)))), append(wants, want, nil)
		}
	}
	out := w.imports(s, keys)
	for i, k := range out.Keys {
		if !errors.Is(k.Err, wants[i]) {
			t.Errorf("key %d: %v, want %v", i, k.Err, wants[i])
		}
		if k.Err != nil && strings.Contains(k.Err.Error(), secret.Reveal()) {
			t.Error("the secret is repeated")
		}
	}
	for _, n := range []int{0, events.MaxImport + 1} {
		if _, err := s.ImportKeys(w.ctx, w.by(w.owner), acme, foreigners(0, n)); !errors.Is(err, domain.ErrInvalid) {
			t.Errorf("%d keys: %v", n, err)
		}
	}
}

// Who is limited to workspaces imports within them, and is told of no key beyond.
func TestWhoImportsWhat(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	w.acme(s, events.Limits{})
	tally(t, w.imports(s, foreigners(0, 1)), 1, 0, 0)
	within := func(k *commands.ImportKey) { k.Scope = events.Scope{Workspaces: []events.WorkspaceID{"a"}} }
	keys := append(foreigners(0, 1, within), append(foreigners(1, 2, within), foreigners(2, 3)...)...)
	out, err := s.ImportKeys(w.ctx, w.by(principal(acme, events.RoleAdmin, "a")), acme, keys)
	if err != nil || !errors.Is(out.Keys[0].Err, domain.ErrDigestTaken) || !out.Keys[0].ID.IsZero() || out.Keys[1].Err != nil || !errors.Is(out.Keys[2].Err, domain.ErrForbidden) {
		t.Errorf("%+v, %v", out.Keys, err)
	}
	for _, role := range []events.Role{events.RoleMember, events.RoleAuditor, events.RoleVerifier, events.RoleResolver} {
		if _, err := s.ImportKeys(w.ctx, w.by(principal(acme, role)), acme, foreigners(5, 6)); !errors.Is(err, domain.ErrForbidden) {
			t.Errorf("%s: %v", role, err)
		}
	}
	if _, err := s.ImportKeys(w.ctx, w.by(principal("other", events.RoleOwner)), acme, foreigners(5, 6)); !errors.Is(err, domain.ErrNotFound) {
		t.Errorf("%v", err)
	}
	// The same digest is another key in another organization.
	w.organization(s, "other", events.Limits{})
	there, err := s.ImportKeys(w.ctx, w.by(w.owner), "other", foreigners(0, 1))
	if err != nil || there.Keys[0].ID == out.Keys[0].ID || there.Keys[0].Err != nil {
		t.Errorf("%+v, %v", there.Keys, err)
	}
}

// Of an organization that ends while its keys are imported nobody is told that
// they all are.
func TestAnOrganizationThatEndsWhileItsKeysAreImported(t *testing.T) {
	w := newWorld(t)
	log := &between{Ledger: w.memory}
	s := w.server(func(c *commands.Config) { c.Log = log })
	w.acme(s, events.Limits{})
	other := w.server()
	log.do = func() {
		if _, err := other.DeleteOrganization(w.ctx, w.by(w.owner), acme); err != nil {
			t.Error(err)
		}
		if err := s.await(w.ctx, w.last()); err != nil {
			t.Error(err)
		}
	}
	_, err := s.ImportKeys(w.ctx, w.by(w.owner), acme, foreigners(0, events.MaxImport, inactive))
	if !errors.Is(err, events.ErrOutcomeUnknown) {
		t.Errorf("%v", err)
	}
	if _, err := s.ImportKeys(w.ctx, w.by(w.owner), acme, foreigners(0, 1)); !errors.Is(err, domain.ErrEnded) {
		t.Errorf("%v", err)
	}
}

// The use of a wish's principal is judged again before each batch.
func TestAnImportStopsWhenItsPrincipalEnds(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	w.acme(s, events.Limits{})
	wish, end := w.by(w.owner), w.last()
	gone := errors.New("gone")
	wish.Still = func() error { return gone }
	if _, err := s.ImportKeys(w.ctx, wish, acme, foreigners(0, 5)); !errors.Is(err, gone) || w.last() != end {
		t.Errorf("%v, from %d to %d", err, end, w.last())
	}
}
