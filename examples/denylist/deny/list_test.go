package deny

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/events"
)

func recorded(s events.Subject, pos events.Position) events.Recorded {
	return events.Recorded{Subject: s, Position: pos, Stored: events.TimeOf(time.Now())}
}

func open(t testing.TB, file string) *List {
	t.Helper()
	l, err := Open(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// A line that was cut by a crash was never answered for. It goes, and the next one
// begins in its place.
func TestCutLine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "list")
	l := open(t, file)
	for n := range 2 {
		if err := l.Deny(recorded(events.RevokedSubject("acme", keyID(n)), events.Position(n+1)), "test"); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	first := strings.IndexByte(string(whole), '\n') + 1
	for size := first; size < len(whole); size++ {
		if err := os.WriteFile(file, whole[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		l := open(t, file)
		if n, _ := l.Size(); n != 1 {
			t.Fatalf("%d bytes hold %d denials", size, n)
		}
		if err := l.Deny(recorded(events.RevokedSubject("acme", keyID(7)), 9), "again"); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = open(t, file)
		if n, _ := l.Size(); n != 2 {
			t.Fatalf("after %d bytes and another line there are %d denials", size, n)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A line that is damaged is no reason to forget it.
func TestDamagedLine(t *testing.T) {
	for _, name := range []string{"list", "list.aside"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), []byte("{\"subject\":\n{}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(filepath.Join(dir, "list")); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What names no key is refused, and not written down as if it did.
func TestDenyNothing(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "list"))
	for _, s := range []events.Subject{{}, events.KeySubject("acme", keyID(1))} {
		if err := l.Deny(recorded(s, 1), "test"); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
	if n, _ := l.Size(); n != 0 {
		t.Errorf("%d are denied", n)
	}
}

func get(t testing.TB, h http.Handler, path string) (int, map[string]any) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	var body map[string]any
	if w.Header().Get("Content-Type") == "application/json" {
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
			t.Fatal(err)
		}
	}
	return w.Code, body
}

// A key on the list is denied at any time; one that is not is cleared only by a
// list that is known to be complete.
func TestHandler(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "list"))
	if err := l.Deny(recorded(events.RevokedSubject("acme", keyID(1)), 17), "key.revoked.v1"); err != nil {
		t.Fatal(err)
	}
	f := &Follower{config: Config{List: l}}
	h := f.Handler(time.Minute)
	denied, other := "/organizations/acme/keys/"+keyID(1).String(), "/organizations/acme/keys/"+keyID(2).String()
	for name, c := range map[string]struct {
		current *time.Time
		code    int
	}{
		"never complete": {nil, http.StatusServiceUnavailable},
		"too long ago":   {at(-2 * time.Minute), http.StatusServiceUnavailable},
		"complete":       {at(-time.Second), http.StatusOK},
	} {
		f.current.Store(c.current)
		if code, body := get(t, h, denied); code != http.StatusOK || body["denied"] != true {
			t.Errorf("%s: a key on the list: %d %v", name, code, body)
		}
		if code, body := get(t, h, other); code != c.code || code == http.StatusOK && body["denied"] != false {
			t.Errorf("%s: a key that is not on the list: %d %v", name, code, body)
		}
		if code, body := get(t, h, "/status"); code != c.code || body["up_to_date"] != (c.code == http.StatusOK) || body["denied"] != 1. {
			t.Errorf("%s: status: %d %v", name, code, body)
		}
	}
	for _, path := range []string{"/organizations/acme/keys/x", "/organizations/No Org/keys/" + keyID(1).String()} {
		if code, _ := get(t, h, strings.ReplaceAll(path, " ", "%20")); code != http.StatusBadRequest {
			t.Errorf("%s: %d", path, code)
		}
	}
}

func at(ago time.Duration) *time.Time {
	t := time.Now().Add(ago)
	return &t
}
