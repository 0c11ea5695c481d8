package providerkey_test

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/domain/providerkey"
)

type holder struct {
	Public  providerkey.Secret
	private providerkey.Secret
	Pointer *providerkey.Secret
	List    []providerkey.Secret
	Any     any
}

type document struct{ Secret providerkey.Secret }

// Nothing that prints by accident shows any of it, the last four characters included.
func TestSecretNeverPrints(t *testing.T) {
	const text = "qz-7XkWvYb3Jm9Rt5Lp2"
	secret := providerkey.Conceal(text)
	h := holder{secret, secret, &secret, []providerkey.Secret{secret}, secret}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%t", "%p", "%c", "%U", "%b", "%w", "%!", "%60s", "%.60s"} {
		for _, v := range []any{secret, &secret, h, &h, []any{secret}, map[string]any{"k": h}, struct{ s providerkey.Secret }{secret}} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
	}
	fmt.Fprintln(&out, secret, h, fmt.Errorf("refused %v: %+v", secret, h))
	for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(handler).Info("added", "secret", secret, "holder", h, "group", slog.GroupValue(slog.Any("s", secret)))
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
	for width, forms := range map[int][]string{4: {text}, 8: {fmt.Sprintf("%x", text)}, 11: {fmt.Sprintf("% x", text)}} {
		for _, form := range forms {
			for i := 0; i+width <= len(form); i++ {
				if strings.Contains(printed, strings.ToLower(form[i:i+width])) {
					t.Fatalf("four characters of a secret were printed, at %d of its form of %d", i, len(form))
				}
			}
		}
	}
}

func TestSecret(t *testing.T) {
	secret, other := providerkey.Conceal("sk-one-0123456789"), providerkey.Conceal("sk-two-0123456789")
	doc, err := json.Marshal(map[string]any{"secret": secret})
	if err != nil {
		t.Fatal(err)
	}
	for got, want := range map[string]string{
		fmt.Sprint(secret):                       "(secret)",
		fmt.Sprintf("%#v", secret):               "providerkey.Secret(secret)",
		secret.LogValue().String():               "(secret)",
		string(doc):                              `{"secret":"(secret)"}`,
		secret.Reveal():                          "sk-one-0123456789",
		secret.LastFour():                        "6789",
		providerkey.Conceal("äöü").LastFour():    "äöü",
		providerkey.Conceal("1234äö").LastFour(): "34äö",
		providerkey.Secret{}.Reveal():            "",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if !secret.In("a text with sk-one-0123456789 in it") || secret.In("sk-one") || (providerkey.Secret{}).In("anything") {
		t.Error("In")
	}
	if !secret.Equal(providerkey.Conceal("sk-one-0123456789")) || secret.Equal(other) || secret.Equal(providerkey.Secret{}) {
		t.Error("Equal")
	}
	if secret.IsZero() || !(providerkey.Secret{}).IsZero() || !providerkey.Conceal("").IsZero() {
		t.Error("IsZero")
	}
	var v document
	if err := json.Unmarshal([]byte(`{"Secret":"sk-one-0123456789"}`), &v); err == nil || strings.Contains(err.Error(), "one-01") || !v.Secret.IsZero() {
		t.Error("a document gave a Secret, or the error repeats it")
	}
}
