package serve

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/seals"
	"github.com/keyledger/keyledger/events/wrapping"
)

// envelops starts what provider keys are kept in on a folder's embedded broker, hands
// it over, and stops all of it. It returns what was logged.
func envelops(t *testing.T, data string, keks []string, use func(*opened)) (string, error) {
	t.Helper()
	return envelopsLost(t, data, keks, false, use)
}

func envelopsLost(t *testing.T, data string, keks []string, lost bool, use func(*opened)) (string, error) {
	t.Helper()
	var logged bytes.Buffer
	cfg := Config{
		Data: data, Listen: "127.0.0.1:0", KEKs: keks, KEKLost: lost,
		Logger: slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	b, err := startBroker(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer b.stop()
	o, err := open(t.Context(), cfg, b)
	if err != nil {
		t.Fatal(err)
	}
	defer o.close()
	if err := o.envelop(t.Context(), cfg, b); err != nil {
		return logged.String(), err
	}
	use(&o)
	return logged.String(), nil
}

var kekBinding = seals.Binding{Org: "acme", Provider: events.ProviderOpenAI, Version: 1}

// stores seals a secret.
func stores(t *testing.T, sealed *events.SealedSecret) func(*opened) {
	return func(o *opened) {
		var err error
		if *sealed, err = o.envelopes.Seal(t.Context(), kekBinding, "sk-a-secret-of-a-provider-1234", "1234"); err != nil {
			t.Error(err)
		}
	}
}

// reveals opens what was sealed.
func reveals(t *testing.T, sealed *events.SealedSecret) func(*opened) {
	return func(o *opened) {
		text, err := o.envelopes.Open(context.WithoutCancel(t.Context()), kekBinding, *sealed)
		if err != nil || text != "sk-a-secret-of-a-provider-1234" {
			t.Errorf("it does not open: %v", err)
		}
	}
}

func kekText(t *testing.T) []byte {
	t.Helper()
	keys, err := wrapping.NewKeyset()
	if err != nil {
		t.Fatal(err)
	}
	text, err := keys.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// An embedded broker's server draws a key-encryption key for itself, until there is a
// data key that only another opens: then it misses that one.
func TestKEKIsDrawnOnce(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(data, KEKFile)
	var sealed events.SealedSecret
	none := func(*opened) {}
	if _, err := envelops(t, data, nil, none); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	// Nothing was kept with it.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := envelops(t, data, nil, stores(t, &sealed)); err != nil {
		t.Fatal(err)
	}
	second, err := os.ReadFile(path)
	if err != nil || bytes.Equal(first, second) {
		t.Error("the same key was drawn twice, or none", err)
	}
	if _, err := envelops(t, data, nil, reveals(t, &sealed)); err != nil {
		t.Error(err)
	}
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := envelops(t, data, nil, none); !errors.Is(err, ErrKEK) || !strings.Contains(err.Error(), path) {
		t.Errorf("without the key that is needed: %v", err)
	}
	if _, err := envelops(t, data, []string{"none"}, func(o *opened) {
		if o.envelopes != nil {
			t.Error("provider keys are kept without the key that they need")
		}
	}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("another key was drawn in the place of the one that is missing")
	}
	if _, err := envelops(t, data, []string{"file:" + path + ".away"}, reveals(t, &sealed)); err != nil {
		t.Error(err)
	}
}

// What opens none of the data keys there are is refused, unless it is told to others.
func TestForeignKEKIsRefused(t *testing.T) {
	data, other := t.TempDir(), filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, kekText(t), 0o600); err != nil {
		t.Fatal(err)
	}
	own := "file:" + filepath.Join(data, KEKFile)
	var sealed events.SealedSecret
	if _, err := envelops(t, data, nil, stores(t, &sealed)); err != nil {
		t.Fatal(err)
	}
	if _, err := envelops(t, data, []string{"file:" + other}, reveals(t, &sealed)); !errors.Is(err, ErrKEK) || !errors.Is(err, wrapping.ErrWrongKey) {
		t.Error(err)
	}
	for _, keks := range [][]string{{"file:" + other, own}, {own, "file:" + other}, {own}} {
		if _, err := envelops(t, data, keks, reveals(t, &sealed)); err != nil {
			t.Error(keks, err)
		}
	}
}

// Whoever has lost the key-encryption key may begin with another: what was kept with it
// does not open, and what is kept from then on does.
func TestLostKEK(t *testing.T) {
	data := t.TempDir()
	path := filepath.Join(data, KEKFile)
	var old, next events.SealedSecret
	if _, err := envelops(t, data, nil, stores(t, &old)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	logged, err := envelopsLost(t, data, nil, true, func(o *opened) {
		if _, err := o.envelopes.Open(t.Context(), kekBinding, old); !errors.Is(err, wrapping.ErrWrongKey) {
			t.Error(err)
		}
		stores(t, &next)(o)
		if done, err := o.envelopes.Destroy(t.Context(), old.DataKey); err != nil || !done {
			t.Error(done, err)
		}
	})
	if err != nil || !strings.Contains(logged, "level=ERROR") {
		t.Errorf("%v, %s", err, logged)
	}
	if _, err := envelops(t, data, nil, reveals(t, &next)); err != nil {
		t.Error(err)
	}
}

// A key management service that is away stops no server, and what it may have wrapped
// does not open until it is back.
func TestKEKServiceThatIsAway(t *testing.T) {
	data, service := t.TempDir(), "kms:unix://"+filepath.Join(t.TempDir(), "none.sock")
	var sealed events.SealedSecret
	if _, err := envelops(t, data, nil, stores(t, &sealed)); err != nil {
		t.Fatal(err)
	}
	_, err := envelops(t, data, []string{service, "file:" + filepath.Join(data, KEKFile)}, func(o *opened) {
		reveals(t, &sealed)(o)
		if _, err := o.envelopes.Seal(t.Context(), kekBinding, "sk-a-secret-of-a-provider-1234", "1234"); !errors.Is(err, events.ErrUnavailable) {
			t.Error(err)
		}
	})
	if err != nil {
		t.Error(err)
	}
}

// A key from the environment is gone from there when it was read.
func TestKEKFromTheEnvironment(t *testing.T) {
	const name = "KEYLEDGER_TEST_KEK"
	data, text := t.TempDir(), string(kekText(t))
	var sealed events.SealedSecret
	t.Setenv(name, text)
	if _, err := envelops(t, data, []string{"env:" + name}, stores(t, &sealed)); err != nil {
		t.Fatal(err)
	}
	if _, there := os.LookupEnv(name); there {
		t.Error("it is still there")
	}
	if _, err := os.Stat(filepath.Join(data, KEKFile)); err == nil {
		t.Error("a key was drawn beside the one that was named")
	}
	if _, err := envelops(t, data, []string{"env:" + name}, stores(t, &sealed)); !errors.Is(err, ErrKEK) || !strings.Contains(err.Error(), name) {
		t.Error(err)
	}
	t.Setenv(name, text)
	if _, err := envelops(t, data, []string{"env:" + name}, reveals(t, &sealed)); err != nil {
		t.Error(err)
	}
}

// What is no key is refused, and stands in no error.
func TestKEKsThatAreNone(t *testing.T) {
	text := string(kekText(t))
	for _, spec := range []string{"", "x", "file:", "env:", "env:A B", "env:" + text, "file:" + text, text, "/etc/kek", "vault:x", "kms:", "kms:/run/kms.sock", "kms:unix://kms.sock"} {
		err := validateKEKs([]string{spec})
		if err == nil || strings.Contains(err.Error(), "keyData") || !strings.Contains(err.Error(), "--kek") {
			t.Errorf("%.12s: %v", spec, err)
		}
	}
	for _, specs := range [][]string{{"none", "file:/run/kek"}, {"file:/run/kek", "none"}} {
		if err := validateKEKs(specs); err == nil {
			t.Errorf("%q was taken", specs)
		}
	}
	if err := errors.Join(validateKEKs([]string{"none"}), validateKEKs(nil)); err != nil {
		t.Error(err)
	}
	if err := validateKEKs([]string{"file:/run/kek", "env:KEK_2", "kms:unix:///run/kms.sock"}); err != nil {
		t.Error(err)
	}
	none := filepath.Join(t.TempDir(), "none")
	if err := os.WriteFile(none, []byte("sk-no-key-1234567890"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openKEK("file:" + none); !errors.Is(err, ErrKEK) || !errors.Is(err, wrapping.ErrKeyset) || strings.Contains(err.Error(), "sk-no") {
		t.Error(err)
	}
	if _, err := openKEK("file:" + none + "x"); !errors.Is(err, ErrKEK) || !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
