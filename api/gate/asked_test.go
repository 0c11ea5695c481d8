package gate

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/uses"
	"github.com/keyledger/keyledger/projections/index"
	"github.com/keyledger/keyledger/verify"
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

func batchOf(n int, item string) []byte {
	return []byte(`{"requests":[` + strings.TrimSuffix(strings.Repeat(item+",", n), ",") + `]}`)
}

func TestBatchesAreReadBothWays(t *testing.T) {
	slow := `{"secret":"k\u006c_live_x","permission":"interview:start","workspace":"hiring","context":{"request_id":"r-1","method":"GET","path":"/a","user_agent":"curl/8"}}`
	for _, item := range []string{frequent, slow} {
		list, err := readBatch(batchOf(MaxVerifyBatch, item), nil)
		if err != nil || len(list) != MaxVerifyBatch {
			t.Fatalf("%d, %v", len(list), err)
		}
		for _, a := range list {
			if a.secret != "kl_live_x" || a.permission != "interview:start" || a.workspace != "hiring" || a.context.UserAgent != "curl/8" {
				t.Fatalf("%+v", a)
			}
		}
	}
	if _, ok := scanBatch(batchOf(3, frequent), nil); !ok {
		t.Error("the frequent form went the slow way")
	}
	for _, item := range []string{frequent, slow} {
		if list, err := readBatch(batchOf(MaxVerifyBatch+1, item), nil); err != nil || len(list) != MaxVerifyBatch+1 {
			t.Errorf("of too many: %d, %v", len(list), err)
		}
	}
	for body, field := range map[string]string{
		`{"requests":[{"secret":"x"},{"secret":"x","permission":""}]}`:  "requests[1].permission",
		`{"requests":[{"secret":"x"},{"secret":"x","workspace":null}]}`: "requests[1].workspace",
		`{"requests":[{"secret":"x","at_least":""}]}`:                   "requests[0].at_least",
		`{"requests":[{"secret":"x"},{"secret":1}]}`:                    "requests[1].secret",
		`{"requests":[{"secret":"x","other":1}]}`:                       "requests[0].other",
		`{"requests":[{"secret":"x","secret":"y"}]}`:                    "requests[0].secret",
		`{"requests":[{"secret":"x"}],"requests":[{"secret":"x"}]}`:     "requests",
		`{"requests":[{"secret":"x"}],"more":1}`:                        "more",
		`{"requests":{"secret":"x"}}`:                                   "requests",
		`{"requests":[{"secret":"x"}]`:                                  "",
		`{"requests":[{"secret":"x"},]}`:                                "",
		`[{"secret":"x"}]`:                                              "",
	} {
		list, err := readBatch([]byte(body), nil)
		if p := Problems().Problem(err, ""); err == nil || p.Field != field || p.Status != 400 {
			t.Errorf("%s: %d, %v, field %q", body, len(list), err, p.Field)
		}
	}
	for _, body := range []string{`{}`, `{"requests":[]}`, `{"requests":null}`} {
		if list, err := readBatch([]byte(body), nil); err != nil || len(list) != 0 {
			t.Errorf("%s: %d, %v", body, len(list), err)
		}
	}
}

func TestScanOfABatchDoesNotAllocate(t *testing.T) {
	body, list := batchOf(MaxVerifyBatch, frequent), make([]asked, 0, MaxVerifyBatch)
	if n := testing.AllocsPerRun(100, func() {
		if _, ok := scanBatch(body, list[:0]); !ok {
			t.Fatal("not read")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzScanBatch holds the quick reader of many to the strict one.
func FuzzScanBatch(f *testing.F) {
	for _, seed := range []string{
		string(batchOf(2, frequent)), `{"requests":[]}`, `{"requests":[{"secret":"x"}],"requests":[]}`, `{"requests":[{}]}`, `{"requests":[{"secret":"x"},{"secret":"y","at_least":"p0"}] }`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		list, ok := scanBatch(body, nil)
		if !ok || len(list) > MaxVerifyBatch {
			return
		}
		var strict wire.VerifyBatch
		if err := json.Unmarshal(body, &strict, json.RejectUnknownMembers(true)); err != nil {
			t.Fatalf("%q is refused by the strict reader: %v", body, err)
		}
		if len(list) != len(strict.Requests) {
			t.Fatalf("%q is read as %d and as %d", body, len(list), len(strict.Requests))
		}
		for i, a := range list {
			r := strict.Requests[i]
			c := wire.VerifyContext{}
			if r.Context != nil {
				c = *r.Context
			}
			if a.secret != r.Secret || a.permission != r.Permission || a.workspace != r.Workspace || a.atLeast != r.AtLeast ||
				a.context.RequestID != c.RequestID || a.context.Path != c.Path || a.context.ClientIP != c.ClientIP {
				t.Fatalf("%q is read as %+v and as %+v", body, a, r)
			}
		}
	})
}

// All the verdicts of a batch wait until one and the same instant.
func TestABatchWaitsOnce(t *testing.T) {
	idx, err := index.New(index.Config{})
	if err != nil {
		t.Fatal(err)
	}
	rec, err := recording.New(recording.Config{Ledger: events.LedgerID{1}, Verifier: "test", Sink: forgetful{}})
	if err != nil {
		t.Fatal(err)
	}
	var until []time.Time
	v, err := verify.New(verify.Config{Index: idx, Recorder: rec, Fresh: time.Now, MaxWait: time.Hour, WaitFor: func(ctx context.Context, _ events.Position) error {
		deadline, _ := ctx.Deadline()
		until = append(until, deadline)
		return context.DeadlineExceeded
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	s := testGate(t, Config{Verifier: v})
	b := &Buffers{Questions: make([]verify.Question, 5)}
	for i := range b.Questions {
		b.Questions[i] = verify.Question{Secret: "x", AtLeast: 7}
	}
	if err := s.AnswerBatch(t.Context(), b); err != nil || strings.Count(string(b.Out), `"STALE"`) != 5 {
		t.Errorf("%s, %v", b.Out, err)
	}
	if len(until) != 5 || slices.ContainsFunc(until, func(at time.Time) bool { return at != until[0] }) {
		t.Errorf("they wait until %v", until)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.AnswerBatch(gone, b); err == nil {
		t.Error("verdicts for who has gone")
	}
}

// testGate returns a gate that has what it needs and the test does not say.
func testGate(t testing.TB, c Config) *Gate {
	t.Helper()
	m, err := NewMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	c.Metrics, c.Positions = m, func() events.Positions { return events.Positions{Ledger: events.LedgerID{1}, Epoch: 1} }
	g, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

type forgetful struct{}

func (forgetful) PublishUses(context.Context, []uses.Message) error { return nil }

// What is recorded of a request holds no key, and no address unless that is
// configured.
func TestRecordedContext(t *testing.T) {
	secret, err := keystring.New("kl_live", [24]byte{7})
	if err != nil {
		t.Fatal(err)
	}
	given := recording.Context{RequestID: "r", Method: "GET", Path: "/x/" + secret.Reveal() + "?token=foreign", ClientIP: "192.0.2.1", UserAgent: secret.Reveal()}
	got := (&Gate{}).contextOf(given)
	if got.ClientIP != "" || keystring.Contains(got.Path+" "+got.UserAgent) || strings.Contains(got.Path, "foreign") || got.RequestID != "r" {
		t.Errorf("%+v", got)
	}
	if got := (&Gate{cfg: Config{RecordClientIP: true}}).contextOf(given); got.ClientIP != "192.0.2.1" {
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
