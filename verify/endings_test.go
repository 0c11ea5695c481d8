package verify

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/keyledger/keyledger/events"
)

// ends are facts that end a key each, at these positions.
func ends(positions ...events.Position) []events.Recorded {
	var facts []events.Recorded
	for _, p := range positions {
		facts = append(facts, events.Recorded{Position: p, Subject: events.RevokedSubject("acme", events.KeyID{byte(p)})})
	}
	return facts
}

func noted(t *testing.T, dir string, after events.Position) []events.Position {
	t.Helper()
	list, err := readEndings(filepath.Join(dir, endedFile), after)
	if err != nil {
		t.Fatal(err)
	}
	var at []events.Position
	for _, e := range list {
		at = append(at, e.position)
	}
	return at
}

func unknown(t *testing.T, dir string, after events.Position) {
	t.Helper()
	if list, err := readEndings(filepath.Join(dir, endedFile), after); err == nil {
		t.Errorf("%d have ended after %d, it is said", len(list), after)
	}
}

// TestEndings: from a snapshot on all that ends is noted, once, and until the next
// one; and where that would not be all, nothing is.
func TestEndings(t *testing.T) {
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	apply := func(e *endings, facts []events.Recorded) {
		t.Helper()
		if err := e.Apply(t.Context(), facts); err != nil {
			t.Fatal(err)
		}
		e.sync()
	}
	e := endingsOf(dir, 0, false, log)
	apply(e, append(ends(1, 2), events.Recorded{Position: 3, Subject: events.KeySubject("acme", events.KeyID{3})}, ends(5)[0]))
	unknown(t, dir, 2) // there is no snapshot
	e.saved(2)
	if got := noted(t, dir, 2); len(got) != 1 || got[0] != 5 {
		t.Errorf("noted %d", got)
	}
	apply(e, ends(6, 7))
	e.close()
	unknown(t, dir, 1)

	// The next run goes on from there, and meets again what is noted.
	e = endingsOf(dir, 2, true, log)
	if e.last() != 7 {
		t.Errorf("the ledger goes to %d", e.last())
	}
	apply(e, ends(5, 6))
	apply(e, ends(7, 8))
	if got := noted(t, dir, 4); len(got) != 4 {
		t.Errorf("noted %d", got)
	}
	if got := noted(t, dir, 6); len(got) != 2 {
		t.Errorf("noted %d", got)
	}

	// Too many: until a snapshot knows them nobody can tell.
	many := make([]events.Position, 0, maxEnded)
	for p := range events.Position(maxEnded) {
		many = append(many, 9+p)
	}
	apply(e, ends(many...))
	unknown(t, dir, 100)
	e.saved(50)
	unknown(t, dir, 100)
	apply(e, ends(maxEnded+20))
	e.saved(maxEnded + 10)
	if got := noted(t, dir, maxEnded+10); len(got) != 1 {
		t.Errorf("noted %d", got)
	}

	// A disk that is full, say.
	if err := e.file.Close(); err != nil {
		t.Fatal(err)
	}
	apply(e, ends(maxEnded+21))
	unknown(t, dir, maxEnded+10)
	if _, err := os.Stat(filepath.Join(dir, endedFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is not all is left: %v", err)
	}
	e.close()
}

// TestEndingsThatMakeNoSense are known of nothing.
func TestEndingsThatMakeNoSense(t *testing.T) {
	dir := t.TempDir()
	for _, text := range []string{"", "\n", "since\n", "since x\n", "since 3", "1 acme x\n", "since 3\n4 acme\n", "since 3\nx acme y\n", "since 3\n\n"} {
		if err := os.WriteFile(filepath.Join(dir, endedFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		unknown(t, dir, 10)
	}
	if err := os.WriteFile(filepath.Join(dir, endedFile), []byte("since 3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := noted(t, dir, 10); len(got) != 0 {
		t.Errorf("noted %d", got)
	}
	if err := os.Chmod(filepath.Join(dir, endedFile), 0o644); err != nil {
		t.Fatal(err)
	}
	unknown(t, dir, 10)
}
