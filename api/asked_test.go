package api

import (
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/verify/recording"
)

const frequent = `{"secret":"kl_live_x","permission":"interview:start","workspace":"hiring","context":{"request_id":"r-1","method":"GET","path":"/a","user_agent":"curl/8"}}`

func TestScanReadsTheFrequentForm(t *testing.T) {
	for _, body := range []string{`{"secret":"x"}`, " {\n\t\"secret\" : \"x\" , \"permission\":\"a:b\" } ", frequent} {
		var a asked
		if !a.scan([]byte(body)) || a.secret == "" {
			t.Errorf("%s went the slow way", body)
		}
	}
	for _, body := range []string{
		``, `{`, `{}`, `[]`, `{"secret":"x"}{`, `{"secret":"x",}`, `{"secret":"\u0078"}`, `{"secret":"ä"}`, `{"secret":""}`, `{"secret":1}`,
		`{"secret":"x","secret":"y"}`, `{"other":"x"}`, `{"context":{"path":"/"},"context":{"path":"/"}}`, `{"secret":"x`, "{\"secret\":\"\n\"}",
	} {
		var a asked
		if a.scan([]byte(body)) {
			t.Errorf("%s is not the frequent form", body)
		}
	}
}

func TestScanDoesNotAllocate(t *testing.T) {
	body := []byte(frequent)
	var a asked
	if n := testing.AllocsPerRun(100, func() {
		if !a.scan(body) {
			t.Fatal("not read")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzScan holds the quick reader to the strict one: what it accepts means the
// same, and nothing else is accepted.
func FuzzScan(f *testing.F) {
	for _, seed := range []string{
		frequent, `{"secret":"x","at_least":"p0"}`, `{"secret":"x","context":{}}`, `{"secret":"\\"}`, `{"secret":"x","context":{"client_ip":"::1"}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var a asked
		if !a.scan(body) {
			return
		}
		var strict wire.VerifyRequest
		if err := json.Unmarshal(body, &strict, json.RejectUnknownMembers(true)); err != nil {
			t.Fatalf("%q is refused by the strict reader: %v", body, err)
		}
		c := wire.VerifyContext{}
		if strict.Context != nil {
			c = *strict.Context
		}
		if a.secret != strict.Secret || a.permission != strict.Permission || a.workspace != strict.Workspace || a.atLeast != strict.AtLeast ||
			a.context.RequestID != c.RequestID || a.context.Method != c.Method || a.context.Path != c.Path ||
			a.context.ClientIP != c.ClientIP || a.context.UserAgent != c.UserAgent {
			t.Fatalf("%q is read as %+v and as %+v", body, a, strict)
		}
	})
}

// Every sentinel of the rooms below is in the table, and every code is
// explained once.
func TestProblemTable(t *testing.T) {
	explained, statuses := map[string]bool{}, map[string]int{}
	for _, k := range kinds {
		if got := kindOf(k.err); got.code != k.code && got.status >= 500 {
			t.Errorf("%v is answered as %s", k.err, got.code)
		}
		if s, ok := statuses[k.code]; ok && s != k.status {
			t.Errorf("%s is answered with %d and %d", k.code, s, k.status)
		}
		statuses[k.code] = k.status
		if k.help != "" && explained[k.code] {
			t.Errorf("%s is explained twice", k.code)
		}
		explained[k.code] = explained[k.code] || k.help != ""
		if strings.ToLower(k.code) != k.code || k.title == "" {
			t.Errorf("%+v", k)
		}
	}
	for code, ok := range explained {
		if !ok {
			t.Errorf("%s is not explained", code)
		}
	}
}

// What is recorded of a request holds no key, and no address unless that is
// configured.
func TestRecordedContext(t *testing.T) {
	secret, err := keystring.New("kl_live", [24]byte{7})
	if err != nil {
		t.Fatal(err)
	}
	given := recording.Context{RequestID: "r", Method: "GET", Path: "/x/" + secret.Reveal() + "?token=foreign", ClientIP: "192.0.2.1", UserAgent: secret.Reveal()}
	got := (&Server{}).contextOf(given)
	if got.ClientIP != "" || keystring.Contains(got.Path+" "+got.UserAgent) || strings.Contains(got.Path, "foreign") || got.RequestID != "r" {
		t.Errorf("%+v", got)
	}
	if got := (&Server{cfg: Config{RecordClientIP: true}}).contextOf(given); got.ClientIP != "192.0.2.1" {
		t.Errorf("%+v", got)
	}
}

func TestAppendSeconds(t *testing.T) {
	for ms, want := range map[int64]string{0: "0", 1: "0.001", 120: "0.12", 1500: "1.5", 60000: "60"} {
		if got := string(appendSeconds(nil, time.Duration(ms)*time.Millisecond)); got != want {
			t.Errorf("%d ms: %s, want %s", ms, got, want)
		}
	}
}
