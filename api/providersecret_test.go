package api

import (
	"errors"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/domain/providerkey"
)

const pasted = "sk-proj-0123456789-abcdefghij-0123456789"

func TestSecretsAreCutOutOfBodies(t *testing.T) {
	key, err := keystring.New("kl_live", [24]byte{7})
	if err != nil {
		t.Fatal(err)
	}
	ours := key.Reveal()
	replace := func(string) (string, error) { return "label", nil }
	for _, c := range []struct{ body, rest, secret string }{
		{`{"provider":"openai","secret":"` + pasted + `","name":"a"}`, `{"provider":"openai","secret":"label","name":"a"}`, pasted},
		{` { "secret" : "` + pasted + `" } `, `{"secret":"label"}`, pasted},
		{`{"s\u0065cret":"\u0073k-1"}`, `{"s\u0065cret":"label"}`, "sk-1"},
		{`{}`, `{}`, ""},
		{`{"secret":""}`, `{"secret":""}`, ""},
		{`{"secret":null,"name":{"secret":"x"}}`, `{"secret":null,"name":{"secret":"x"}}`, ""},
		{`{"Secret":"x"}`, `{"Secret":"x"}`, ""},
		// A key of ours that was pasted is told of by what it is, and not as an accident.
		{`{"secret":"` + ours + `"}`, `{"secret":"label"}`, ours},
	} {
		rest, secret, err := cutSecret([]byte(c.body), replace)
		if err != nil || string(rest) != c.rest || secret != c.secret {
			t.Errorf("%s: %s, %q, %v", c.body, rest, secret, err)
		}
	}
	for _, body := range []string{
		``, ` `, `[]`, `"` + pasted + `"`, `null`, `{`, `{"secret"`, `{"secret":"` + pasted, `{"secret":"` + pasted + `"`, `{"secret":"` + pasted + `"}{}`,
		`{"secret":"` + pasted + `"} x`, `{"secret":"` + pasted + `","secret":"` + pasted + `"}`, `{"secret":"` + pasted + `" "x"}`,
		`{"secret":"\ud800` + pasted + `"}`, `{"secret":"` + pasted + "\xff" + `"}`, `{"` + pasted + `":1,}`,
	} {
		rest, secret, err := cutSecret([]byte(body), replace)
		if err == nil || rest != nil || secret != "" {
			t.Errorf("%q was taken: %q", body, rest)
			continue
		}
		if k := kindOf(err); k.Status != 400 {
			t.Errorf("%q: %d %s", body, k.Status, k.Code)
		}
		if strings.Contains(err.Error(), pasted[3:20]) || strings.Contains(problemOf(err, "").Detail, pasted[3:20]) {
			t.Errorf("%q is repeated: %v", body, err)
		}
	}
	if _, _, err := cutSecret([]byte(`{"secret":"x"}`), func(string) (string, error) { return "", errors.New("no label") }); !errors.Is(err, errInternal) {
		t.Error(err)
	}
}

func TestSecretsStandNowhereElse(t *testing.T) {
	secret := providerkey.Conceal(pasted)
	for where, c := range map[string]struct {
		target, header, value, body, requestID string
	}{
		"nowhere":         {body: `{"secret":"label","name":"a"}`},
		"body":            {body: `{"secret":"label","name":"our ` + pasted + `"}`},
		"a name":          {body: `{"` + pasted + `":1}`},
		"query":           {target: "/x?reason=" + pasted},
		"path":            {target: "/x/" + pasted},
		"Idempotency-Key": {header: "Idempotency-Key", value: pasted},
		"Ticket":          {header: "Keyledger-Ticket", value: "see " + pasted},
		"Reason":          {header: "Keyledger-Reason", value: pasted + "!"},
		"X-Request-Id":    {requestID: pasted},
	} {
		target := c.target
		if target == "" {
			target = "/x"
		}
		r := httptest.NewRequest("POST", target, nil)
		if c.header != "" {
			r.Header.Set(c.header, c.value)
		}
		w := &track{ResponseWriter: httptest.NewRecorder(), requestID: c.requestID}
		call := &call{w: w, r: r, requestID: c.requestID, body: []byte(c.body)}
		err := call.refuseCopies(secret)
		if where == "nowhere" {
			if err != nil {
				t.Error(err)
			}
			continue
		}
		if !errors.Is(err, domain.ErrSecretInField) || strings.Contains(err.Error(), pasted) {
			t.Errorf("%s: %v", where, err)
		}
		if strings.Contains(w.requestID+call.requestID, pasted) {
			t.Error("the request keeps its id")
		}
	}
	// What is as short as a word is looked for nowhere.
	r := httptest.NewRequest("POST", "/x?reason=word", nil)
	if err := (&call{r: r}).refuseCopies(providerkey.Conceal("word")); err != nil {
		t.Error(err)
	}
}

// Whatever is sent: what is left is as good a body as before, and holds no secret.
func FuzzCutSecret(f *testing.F) {
	for _, seed := range []string{
		`{"provider":"openai","secret":"` + pasted + `"}`, `{"secret":"a","Secret":"b"}`, `{"s\u0065cret":"\u00e4"}`, `{"secret":{"secret":"x"}}`, `{}`, `[]`, `{"secret":"x"}}`, "",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		rest, secret, err := cutSecret(body, func(string) (string, error) { return "label", nil })
		if err != nil {
			if k := kindOf(err); rest != nil || secret != "" || k.Status == 500 {
				t.Fatalf("%q: %q, %v", body, rest, err)
			}
			return
		}
		var before, after map[string]any
		if err := json.Unmarshal(body, &before); err != nil {
			t.Fatalf("%q was taken: %v", body, err)
		}
		if err := json.Unmarshal(rest, &after); err != nil {
			t.Fatalf("%q: %v", rest, err)
		}
		if secret != "" {
			if before["secret"] != secret || after["secret"] != "label" {
				t.Fatalf("%q: %q, %q", body, rest, secret)
			}
			after["secret"] = secret
		}
		if !reflect.DeepEqual(before, after) {
			t.Fatalf("%q became %q", body, rest)
		}
	})
}
