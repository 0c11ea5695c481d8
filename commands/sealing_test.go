package commands_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/domain/organization"
	"github.com/keyledger/keyledger/domain/workspace"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/seals"
)

const person = events.DataSubject("user-4711")

// vault is a ledger's seals, with failures.
type vault struct {
	seals.EnvelopeStore
	mu   sync.Mutex
	fail func(what string) error
	lose func(what string) error // after it was done
}

func (v *vault) hook(f *func(string) error, what string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if *f == nil {
		return nil
	}
	return (*f)(what)
}

func (v *vault) Sealed(ctx context.Context, name string) ([]byte, bool, error) {
	if err := v.hook(&v.fail, "read"); err != nil {
		return nil, false, err
	}
	return v.EnvelopeStore.Sealed(ctx, name)
}

func (v *vault) EachSeal(ctx context.Context, prefix string, take func(string, []byte, events.Time) error) error {
	if err := v.hook(&v.fail, "list"); err != nil {
		return err
	}
	return v.EnvelopeStore.EachSeal(ctx, prefix, take)
}

func (v *vault) Seal(ctx context.Context, name string, body []byte) error {
	if err := v.hook(&v.fail, "store"); err != nil {
		return err
	}
	return v.EnvelopeStore.Seal(ctx, name, body)
}

func (v *vault) Destroy(ctx context.Context, name string, meant func([]byte) bool) (bool, error) {
	if err := v.hook(&v.fail, "destroy"); err != nil {
		return false, err
	}
	done, err := v.EnvelopeStore.Destroy(ctx, name, meant)
	if err == nil {
		err = v.hook(&v.lose, "destroy")
	}
	return done, err
}

func (v *vault) failing(f func(what string) error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fail = f
}

func (v *vault) losing(f func(what string) error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.lose = f
}

// nothing fails every question of some kinds.
func nothing(kinds ...string) func(string) error {
	return func(what string) error {
		if slices.Contains(kinds, what) {
			return events.ErrUnavailable
		}
		return nil
	}
}

// sealedWorld is a world whose organization has its texts sealed.
type sealedWorld struct {
	*world
	vault *vault
	keys  *seals.Keys
	logs  bytes.Buffer
}

func newSealedWorld(t testing.TB) *sealedWorld {
	t.Helper()
	return newSealedWorldOn(t, newWorld(t))
}

func newSealedWorldOn(t testing.TB, below *world) *sealedWorld {
	t.Helper()
	store, ok := below.log.(seals.EnvelopeStore)
	if !ok {
		t.Fatal("the ledger has no seals")
	}
	w := &sealedWorld{world: below, vault: &vault{EnvelopeStore: store}}
	text, err := seals.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := seals.ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	if w.keys, err = seals.Make(t.Context(), w.vault, key, w.ledger); err != nil {
		t.Fatal(err)
	}
	return w
}

// sealer is a server that seals, with what it opens texts by.
type sealer struct {
	*server
	subjects *seals.Subjects
}

func (w *sealedWorld) sealer(options ...func(*commands.Config)) sealer {
	w.Helper()
	subjects := seals.NewSubjects(w.keys, w.vault, w.ledger)
	return sealer{w.server(append(options, func(c *commands.Config) {
		c.Subjects, c.Logger = subjects, slog.New(slog.NewTextHandler(&w.logs, nil))
	})...), subjects}
}

// begin makes the organization, and turns sealing on.
func (w *sealedWorld) begin(s sealer) {
	w.Helper()
	w.acme(s.server, events.Limits{})
	w.seal(s)
}

func (w *sealedWorld) seal(s sealer) {
	w.Helper()
	if _, err := s.UpdateOrganization(w.ctx, w.by(w.owner), acme, organization.Update{Sealing: domain.Some(events.SwitchOn)}); err != nil {
		w.Fatal(err)
	}
}

// personal is a key that tells of a person.
func personal(subject events.DataSubject) commands.CreateKey {
	c := plain()
	c.Name, c.ExternalID, c.DataSubject = events.ClearText("Alice Clear-Name"), events.ClearText("alice-clear-id"), subject
	c.Metadata = events.Metadata{"mail": events.ClearText("alice@clear.example"), "desk": events.ClearText("clear 4")}
	return c
}

// shown are the texts of a fact as who may see them sees them.
func (w *sealedWorld) shown(s sealer, t events.Text) string {
	w.Helper()
	if t.Sealed.IsZero() {
		return t.Clear
	}
	text, err := s.subjects.Open(w.ctx, acme, t.Sealed, seals.TextOfFact)
	switch {
	case errors.Is(err, seals.ErrErased):
		return "(erased)"
	case err != nil:
		w.Fatal(err)
	}
	return text
}

// nowhere checks that no fact from a position on holds a word.
func (w *sealedWorld) nowhere(from events.Position, words ...string) {
	w.Helper()
	for _, f := range w.all() {
		for _, word := range words {
			if f.Position > from && bytes.Contains(f.Raw, []byte(word)) {
				w.Errorf("the fact at %d, %s, holds %q: %s", f.Position, f.Event.Kind(), word, f.Raw)
			}
		}
	}
}

func (w *sealedWorld) because(reason string) commands.Wish {
	wish := w.by(w.owner)
	wish.Reason = reason
	return wish
}

// Every text that may name a person is sealed before it is stored, whichever way it
// comes, and can be read by who opens it.
func TestTextsAreSealed(t *testing.T) {
	w := newSealedWorld(t)
	s := w.sealer()
	w.begin(s)
	from := w.last()
	made, err := s.CreateKey(w.ctx, w.because("clear create"), acme, personal(person))
	if err != nil {
		t.Fatal(err)
	}
	id := made.Key.ID
	k, err := s.Key(w.ctx, acme, id)
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range []struct {
		of   events.Text
		want string
	}{
		{k.Name, "Alice Clear-Name"},
		{k.ExternalID, "alice-clear-id"},
		{k.Metadata["mail"], "alice@clear.example"},
		{k.Metadata["desk"], "clear 4"},
	} {
		if one.of.Sealed.Subject != string(person) || w.shown(s, one.of) != one.want {
			t.Errorf("%+v is not %q sealed", one.of, one.want)
		}
	}
	if _, err := s.UpdateKey(w.ctx, w.because("clear update"), acme, id, key.Update{
		Name:     domain.Some(events.ClearText("Alice Clear-Second")),
		Metadata: domain.Some(events.Metadata{"mail": events.ClearText("second@clear.example"), "desk": {}}),
	}); err != nil {
		t.Fatal(err)
	}
	rotated, err := s.RotateKey(w.ctx, w.because("clear rotate"), acme, id, commands.RotateKey{Grace: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if n := rotated.Key; n.DataSubject != person || w.shown(s, n.Name) != "Alice Clear-Second" || w.shown(s, n.Metadata["mail"]) != "second@clear.example" ||
		w.shown(s, n.ExternalID) != "alice-clear-id" || len(n.Metadata) != 1 {
		t.Errorf("the successor is %+v", n)
	}
	if _, err := s.RevokeKey(w.ctx, w.because("clear revoke"), acme, id, true); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateWorkspace(w.ctx, w.because("clear workspace"), acme, workspace.Create{ID: "c", Name: events.ClearText("Shown")}); err != nil {
		t.Fatal(err)
	}
	imported := personal("user-4712").Create
	imported.Issued.Digest = events.Digest{Alg: events.SHA256, Value: events.DigestValue{1}}
	if out, err := s.ImportKeys(w.ctx, w.because("clear import"), acme, []commands.ImportKey{{Create: imported}}); err != nil || out.Keys[0].Err != nil {
		t.Fatal(out, err)
	}
	w.nowhere(from, "lear")
	var reasons []string
	for _, f := range w.all() {
		if f.Position <= from {
			continue
		}
		reasons = append(reasons, w.shown(s, f.Meta.Reason))
		want := string(person)
		switch {
		case f.Subject.Aggregate == events.AggregateWorkspace:
			want = w.owner.Actor.Key.String()
		case f.Meta.Reason.Sealed.Subject == "user-4712":
			want = "user-4712"
		}
		if f.Meta.Reason.Sealed.Subject != want {
			t.Errorf("the reason of %s is sealed for %q, want %q", f.Event.Kind(), f.Meta.Reason.Sealed.Subject, want)
		}
	}
	want := []string{"clear create", "clear update", "clear update", "clear rotate", "clear rotate", "clear revoke", "clear revoke", "clear workspace", "clear import"}
	if !slices.Equal(reasons, want) {
		t.Errorf("reasons are %q", reasons)
	}
}

// Without a pseudonym it is the key's own id, and stays that with its successors.
func TestDataSubjectIsTheKeyItself(t *testing.T) {
	w := newSealedWorld(t)
	s := w.sealer()
	w.begin(s)
	made := w.create(s.server, acme, personal(""))
	rotated, err := s.RotateKey(w.ctx, w.by(w.owner), acme, made.Key.ID, commands.RotateKey{Grace: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []commands.Key{made.Key, rotated.Key} {
		if own := made.Key.ID.String(); string(k.DataSubject) != own || k.Name.Sealed.Subject != own {
			t.Errorf("%s is of %s, its name of %s; want %s", k.ID, k.DataSubject, k.Name.Sealed.Subject, own)
		}
	}
	c := plain()
	for _, bad := range []events.DataSubject{"Alice", "a.b", "-a", "alice@example.com", events.DataSubject(strings.Repeat("a", 64))} {
		c.DataSubject = bad
		if _, err := s.CreateKey(w.ctx, w.by(w.owner), acme, c); !errors.Is(err, domain.ErrInvalid) || strings.Contains(err.Error(), string(bad)) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// What was sealed is decided on as if it were in clear: nothing to change is nothing
// to change, also in the eyes of another server, and repeated it is the same.
func TestSealedIsDecidedOnInClear(t *testing.T) {
	w := newSealedWorld(t)
	s := w.sealer()
	w.begin(s)
	create := func(s sealer) commands.KeyOutcome {
		out, err := s.CreateKey(w.ctx, w.repeatable(w.owner, "k", "{}"), acme, personal(person))
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	made, other := create(s), w.sealer()
	if again := create(other); !again.Replayed || !again.Key.Equal(made.Key.State) {
		t.Errorf("repeated it is %+v", again)
	}
	before := w.last()
	for _, server := range []sealer{s, other} {
		out, err := server.UpdateKey(w.ctx, w.by(w.owner), acme, made.Key.ID, key.Update{
			Name: domain.Some(events.ClearText("Alice Clear-Name")), Metadata: domain.Some(events.Metadata{"mail": events.ClearText("alice@clear.example")}),
		})
		if err != nil || len(out.Facts) != 0 || w.last() != before {
			t.Errorf("it changed what was so: %v, %v", out.Facts, err)
		}
	}
	out, err := s.UpdateKey(w.ctx, w.by(w.owner), acme, made.Key.ID, key.Update{Metadata: domain.Some(events.Metadata{"more": events.ClearText("clear")})})
	if err != nil {
		t.Fatal(err)
	}
	changed := out.Facts[0].Event.(events.KeyMetadataChanged).Metadata
	if len(changed) != 3 || changed["mail"] != made.Key.Metadata["mail"] {
		t.Errorf("what stays is sealed otherwise: %v, %v", changed, made.Key.Metadata)
	}
}

// What an organization had in clear stays so, and is sealed with the next change.
// There is no way back.
func TestSealingBegins(t *testing.T) {
	w := newSealedWorld(t)
	s := w.sealer()
	w.acme(s.server, events.Limits{})
	made := w.create(s.server, acme, personal(person))
	if made.Key.Name.Clear != "Alice Clear-Name" {
		t.Fatalf("%+v", made.Key.Name)
	}
	from := w.last()
	if _, err := s.UpdateOrganization(w.ctx, w.because("clear from now on"), acme, organization.Update{Sealing: domain.Some(events.SwitchOn)}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.UpdateKey(w.ctx, w.by(w.owner), acme, made.Key.ID, key.Update{Metadata: domain.Some(events.Metadata{"more": events.ClearText("clear")})}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.RotateKey(w.ctx, w.by(w.owner), acme, made.Key.ID, commands.RotateKey{Grace: time.Hour}); err != nil {
		t.Fatal(err)
	}
	w.nowhere(from, "lear")
	if _, err := s.UpdateOrganization(w.ctx, w.by(w.owner), acme, organization.Update{Sealing: domain.Some(events.SwitchOff)}); !errors.Is(err, domain.ErrInvalid) {
		t.Errorf("switched off: %v", err)
	}
	// From its first fact on, too.
	create := organization.Create{ID: "globex", Name: events.ClearText("Globex"), Policy: events.Policy{Sealing: events.SwitchOn}}
	if _, err := s.CreateOrganization(w.ctx, w.because("clear beginning"), create); err != nil {
		t.Fatal(err)
	}
	w.nowhere(from, "lear")
}

// What looks like a key is refused before it is sealed, where nobody could find it.
func TestSealedSecretsGetInNowhere(t *testing.T) {
	w := newSealedWorld(t)
	s := w.sealer()
	w.begin(s)
	made := w.create(s.server, acme, plain())
	before := w.last()
	c := personal(person)
	c.Name = events.ClearText(made.Secret.Reveal())
	if _, err := s.CreateKey(w.ctx, w.by(w.owner), acme, c); !errors.Is(err, domain.ErrSecretInField) {
		t.Error(err)
	}
	if _, err := s.RevokeKey(w.ctx, w.because(made.Secret.Reveal()), acme, made.Key.ID, false); !errors.Is(err, domain.ErrSecretInField) {
		t.Error(err)
	}
	if w.last() != before {
		t.Error("something was stored")
	}
}

// A dry run draws no key and seals nothing.
func TestDryRunSealsNothing(t *testing.T) {
	w := newSealedWorld(t)
	s := w.sealer()
	w.begin(s)
	dry := w.by(w.owner)
	dry.DryRun = true
	out, err := s.CreateKey(w.ctx, dry, acme, personal(person))
	if err != nil || out.Facts[0].Event.(events.KeyCreated).Name.Clear != "Alice Clear-Name" {
		t.Fatal(out.Facts, err)
	}
	if held, err := s.subjects.Held(w.ctx, acme, person); err != nil || held != "" {
		t.Errorf("a key was drawn: %q, %v", held, err)
	}
}

// When nothing can be sealed nothing is stored in clear instead; a revocation goes
// through all the same, without its reason.
func TestNothingIsStoredInClearInstead(t *testing.T) {
	for name, kinds := range map[string][]string{"keys cannot be read": {"read"}, "keys cannot be stored": {"store"}} {
		t.Run(name, func(t *testing.T) {
			w := newSealedWorld(t)
			s := w.sealer()
			w.begin(s)
			bare, err := s.CreateKey(w.ctx, commands.Wish{Principal: w.owner}, acme, plain())
			if err != nil {
				t.Fatal(err)
			}
			from := w.last()
			w.vault.failing(nothing(kinds...))
			if _, err := s.CreateKey(w.ctx, w.by(w.owner), acme, personal(person)); !errors.Is(err, events.ErrUnavailable) {
				t.Errorf("created: %v", err)
			}
			if _, err := s.UpdateKey(w.ctx, w.by(w.owner), acme, bare.Key.ID, key.Update{Name: domain.Some(events.ClearText("clear"))}); !errors.Is(err, events.ErrUnavailable) {
				t.Errorf("renamed: %v", err)
			}
			if w.last() != from {
				t.Error("something was stored")
			}
			// What has no text to seal needs no key.
			if _, err := s.UpdateKey(w.ctx, commands.Wish{Principal: w.owner}, acme, bare.Key.ID, key.Update{Status: domain.Some(events.StatusInactive)}); err != nil {
				t.Error(err)
			}
			out, err := s.RevokeKey(w.ctx, w.because("clear reason"), acme, bare.Key.ID, false)
			if err != nil || !out.Key.Revoked || !out.Facts[0].Meta.Reason.IsZero() {
				t.Errorf("revoked: %+v, %v", out.Facts, err)
			}
			if !strings.Contains(w.logs.String(), "without its reason") || strings.Contains(w.logs.String(), "clear reason") {
				t.Errorf("the log says %s", w.logs.String())
			}
			w.nowhere(from, "clear")
		})
	}
}

// A service that cannot seal does not store in clear.
func TestServiceWithoutSubjects(t *testing.T) {
	w := newSealedWorld(t)
	s := w.sealer()
	w.begin(s)
	made := w.create(s.server, acme, personal(person))
	bare := w.server()
	if _, err := bare.CreateKey(w.ctx, w.by(w.owner), acme, personal(person)); !errors.Is(err, events.ErrUnavailable) {
		t.Error(err)
	}
	if _, err := bare.RotateKey(w.ctx, w.by(w.owner), acme, made.Key.ID, commands.RotateKey{}); !errors.Is(err, events.ErrUnavailable) {
		t.Error(err)
	}
	if _, err := bare.EraseSubject(w.ctx, w.by(w.owner), acme, person); !errors.Is(err, events.ErrUnavailable) {
		t.Error(err)
	}
	if out, err := bare.RevokeKey(w.ctx, w.by(w.owner), acme, made.Key.ID, false); err != nil || !out.Key.Revoked {
		t.Error(out, err)
	}
}

// The largest key that an organization gets which seals can be rotated like any other.
func TestLargestSealedKey(t *testing.T) {
	w := newSealedWorld(t)
	s := w.sealer()
	w.begin(s)
	c := personal(events.DataSubject(strings.Repeat("s", events.MaxIDLength)))
	c.Name = events.ClearText(strings.Repeat("n", events.MaxNameLength))
	c.ExternalID = events.ClearText(strings.Repeat("e", events.MaxExternalIDLength))
	c.Scope = events.Scope{}
	for i := range events.MaxScopeWorkspaces {
		id := events.WorkspaceID(fmt.Sprintf("%03d", i) + strings.Repeat("w", events.MaxIDLength-3))
		if _, err := s.CreateWorkspace(w.ctx, w.by(w.owner), acme, workspace.Create{ID: id, Name: events.ClearText("W")}); err != nil {
			t.Fatal(err)
		}
		c.Scope.Workspaces = append(c.Scope.Workspaces, id)
	}
	wish := w.because(strings.Repeat("r", events.MaxReasonLength))
	refused := 0
	for n := events.MaxMetadataEntries; n > 0; n-- {
		c.Metadata = events.Metadata{}
		for i := range n {
			c.Metadata[fmt.Sprintf("%02d", i)+strings.Repeat("m", events.MaxMetadataKeyLength-2)] = events.ClearText(strings.Repeat("v", events.MaxMetadataValueLength))
		}
		made, err := s.CreateKey(w.ctx, wish, acme, c)
		if errors.Is(err, domain.ErrInvalid) && strings.Contains(err.Error(), "so that it can be rotated") {
			refused++
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.RotateKey(w.ctx, wish, acme, made.Key.ID, commands.RotateKey{Grace: time.Hour}); err != nil {
			t.Error(err)
		}
		break
	}
	if refused == 0 || refused > 8 {
		t.Errorf("%d were refused before one fit", refused)
	}
}

// Why a key was made is sealed for its data subject alone: the guard of a limit,
// which is recorded along with it, is somebody else's and does not repeat it.
func TestGuardOfALimitKeepsNoReason(t *testing.T) {
	w := newSealedWorld(t)
	s := w.sealer()
	w.acme(s.server, events.Limits{MaxActiveKeys: 5})
	w.seal(s)
	from := w.last()
	made, err := s.CreateKey(w.ctx, w.because("clear create"), acme, personal(person))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.RotateKey(w.ctx, w.because("clear rotate"), acme, made.Key.ID, commands.RotateKey{}); err != nil {
		t.Fatal(err)
	}
	imported := personal(person).Create
	imported.Issued.Digest = events.Digest{Alg: events.SHA256, Value: events.DigestValue{1}}
	if out, err := s.ImportKeys(w.ctx, w.because("clear import"), acme, []commands.ImportKey{{Create: imported}}); err != nil || out.Keys[0].Err != nil {
		t.Fatal(out, err)
	}
	if _, err := s.EraseSubject(w.ctx, w.by(w.owner), acme, person); err != nil {
		t.Fatal(err)
	}
	w.nowhere(from, "lear")
	guards := 0
	for _, f := range w.all() {
		if f.Position <= from {
			continue
		}
		switch _, ofKey := f.Subject.Key(); {
		case ofKey && w.shown(s, f.Meta.Reason) != "(erased)":
			t.Errorf("after the erasure the reason of %s is %q", f.Event.Kind(), w.shown(s, f.Meta.Reason))
		case f.Subject.Aggregate == events.AggregateQuota:
			guards++
			if f.Meta.Reason != (events.Text{}) {
				t.Errorf("a guard keeps the reason %q", w.shown(s, f.Meta.Reason))
			}
		}
	}
	if guards < 3 {
		t.Errorf("%d guards are recorded", guards)
	}
}
