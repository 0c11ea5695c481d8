package keystring_test

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/domain/keystring"
)

type holder struct {
	Public  keystring.Secret
	private keystring.Secret
	Pointer *keystring.Secret
	List    []keystring.Secret
	Any     any
}

type document struct{ Secret keystring.Secret }

// Nothing that prints by accident shows the key: not through an unexported
// field, not under the wrong verb, not as a map key.
func TestSecretNeverPrints(t *testing.T) {
	for _, key := range []string{
		mustKey(t, "kl_live", [24]byte{1, 2, 3, 0xfe}),
		"sk-other-system-0123456789",
	} {
		secret := keystring.Conceal(key)
		h := holder{secret, secret, &secret, []keystring.Secret{secret}, secret}
		var out bytes.Buffer
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%t", "%p", "%c", "%U", "%b", "%w", "%!", "%60s", "%.60s"} {
			for _, v := range []any{secret, &secret, h, &h, []any{secret}, map[string]any{"k": h}, struct{ s keystring.Secret }{secret}} {
				fmt.Fprintf(&out, verb+"\n", v)
			}
		}
		fmt.Fprintln(&out, secret, h, fmt.Errorf("refused %v: %+v", secret, h))
		for _, handler := range []slog.Handler{
			slog.NewTextHandler(&out, nil),
			slog.NewJSONHandler(&out, nil),
		} {
			slog.New(handler).Info("made", "secret", secret, "holder", h, "group", slog.GroupValue(slog.Any("s", secret)))
		}
		encode := func(v []byte, err error) {
			if err != nil {
				t.Error(err)
			}
			out.Write(v)
		}
		encode(json.Marshal(h))
		encode(json.Marshal(map[string]any{"s": secret}))
		encode(xml.Marshal(document{secret}))
		if err := gob.NewEncoder(&out).Encode(document{secret}); err == nil {
			t.Error("gob encoded a Secret")
		}
		func() {
			defer func() { fmt.Fprint(&out, recover()) }()
			panic(secret)
		}()

		printed := strings.ToLower(out.String())
		for _, form := range []string{key, fmt.Sprintf("%x", key), fmt.Sprintf("% x", key)} {
			// Four characters are shown on purpose, so look for any nine.
			for i := len("kl_live_"); i+9 <= len(form); i++ {
				if strings.Contains(printed, strings.ToLower(form[i:i+9])) {
					t.Fatalf("characters %d to %d of a key of %d were printed", i, i+9, len(form))
				}
			}
		}
	}
}

func TestSecretShowsItsMask(t *testing.T) {
	key := mustKey(t, "kl_live", [24]byte{1, 2, 3})
	secret := keystring.Conceal(key)
	masked := "kl_live_…" + key[len(key)-4:]
	doc, err := json.Marshal(map[string]any{"secret": secret})
	if err != nil {
		t.Fatal(err)
	}
	for got, want := range map[string]string{
		fmt.Sprint(secret):              masked,
		fmt.Sprintf("%s", secret):       masked,
		fmt.Sprintf("%x", secret):       masked,
		fmt.Sprintf("%q", secret):       `"` + masked + `"`,
		fmt.Sprintf("%#v", secret):      `keystring.Secret("` + masked + `")`,
		secret.LogValue().String():      masked,
		string(doc):                     `{"secret":"` + masked + `"}`,
		secret.Reveal():                 key,
		keystring.Secret{}.Reveal():     "",
		keystring.Secret{}.String():     "",
		keystring.Conceal("x").String(): "…",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestSecretEqual(t *testing.T) {
	a, b := keystring.Conceal("one"), keystring.Conceal("two")
	if !a.Equal(keystring.Conceal("one")) || a.Equal(b) || a.Equal(keystring.Secret{}) || !(keystring.Secret{}).Equal(keystring.Conceal("")) {
		t.Error("wrong")
	}
	if a.IsZero() || !(keystring.Secret{}).IsZero() || !keystring.Conceal("").IsZero() {
		t.Error("IsZero")
	}
}

func TestSecretIsNotReadBack(t *testing.T) {
	key := mustKey(t, "kl_live", [24]byte{1, 2, 3})
	var v document
	err := json.Unmarshal([]byte(`{"Secret":"`+key+`"}`), &v)
	if err == nil || strings.Contains(err.Error(), key[8:20]) || !v.Secret.IsZero() {
		t.Error("a document gave a Secret, or the error repeats it")
	}
}
