package asof

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/memory"
)

// history makes changes at random through the API, like people who do not know
// what they want.
type history struct {
	t    *testing.T
	s    *apitest.Server
	rand *rand.Rand
	base string
	keys []string
	// fold folds the ledger's events, once there are all of them.
	fold func([]stored) *world
	// soon is when the last of the keys that expire soon does.
	soon time.Time
}

// ask asks like a client that is told to try again does so: a machine with much to
// do may not know for a moment whether the key is good.
func (h *history) ask(method, path, body string) (a apitest.Answer) {
	h.t.Helper()
	for range 100 {
		if a = h.s.Do(h.s.Owner, method, h.base+path, body); a.Status != 503 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return a
}

// do asks for a change. What cannot be done is not done; what is answered with
// anything but success or a refusal is a fault.
func (h *history) do(method, path, body string) apitest.Answer {
	h.t.Helper()
	a := h.ask(method, path, body)
	if a.Status != 200 && a.Status != 201 && a.Status != 409 && a.Status != 422 {
		h.t.Fatalf("%s %s answers %d: %s", method, path, a.Status, a.Body)
	}
	return a
}

func (h *history) one(of ...string) string { return of[h.rand.IntN(len(of))] }

func (h *history) permissions() string {
	return h.one(`{"level":"all"}`, `{"level":"read_only"}`, `["doc:read"]`, `["doc:read"]`, `["doc:*"]`)
}

func (h *history) scope() string {
	return h.one(`{"all_workspaces":true}`, `{"workspaces":["w1"]}`, `{"workspaces":["w2"]}`, `{"workspaces":["w1","w2"]}`)
}

// catalog always has what may be granted.
func (h *history) catalog() string {
	entry := func(name string) string { return `{"name":"` + name + `","access":"` + h.one("read", "write") + `"}` }
	entries := []string{entry("doc:read")}
	for _, name := range []string{"doc:write", "user:read"} {
		if h.rand.IntN(3) > 0 {
			entries = append(entries, entry(name))
		}
	}
	return `{"permissions":[` + strings.Join(entries, ",") + `]}`
}

func (h *history) create() {
	a := h.do("POST", "/keys", fmt.Sprintf(`{"name":"key %d","permissions":%s,"scope":%s,"external_id":"x-%d","metadata":{"team":"a"}}`,
		len(h.keys), h.permissions(), h.scope(), len(h.keys)))
	h.know(a)
}

func (h *history) know(a apitest.Answer) {
	var made struct{ Key struct{ ID string } }
	if a.Status == 201 && json.Unmarshal([]byte(a.Body), &made) == nil {
		h.keys = append(h.keys, made.Key.ID)
	}
}

func (h *history) step() {
	if len(h.keys) < 2 {
		h.create()
		return
	}
	key := "/keys/" + h.one(h.keys...)
	switch h.rand.IntN(20) {
	case 0:
		h.create()
	case 1:
		h.do("PUT", "/permissions", h.catalog())
	case 2:
		h.do("PATCH", "/workspaces/w1", `{"name":"`+h.one("A", "B", "C")+`"}`)
	case 3:
		if h.rand.IntN(4) == 0 {
			h.do("DELETE", "/workspaces/"+h.one("w1", "w2"), "")
		}
	case 4:
		h.do("PATCH", "", `{"policy":{"rotation_due_after":"`+h.one("90d", "30d", "never")+`"}}`)
	case 5:
		h.know(h.do("POST", key+"/rotate", `{"grace":"`+h.one("0", "15m", "24h")+`"}`))
	case 6:
		if h.rand.IntN(3) == 0 {
			h.do("POST", key+"/revoke", `{"reason":"leaked"}`)
		}
	case 7, 8:
		soon := time.Now().Truncate(time.Second).Add(2 * time.Second)
		if h.do("PATCH", key, `{"expires_at":"`+soon.UTC().Format(time.RFC3339)+`"}`).Status == 200 {
			h.soon = soon
		}
	case 9:
		h.do("PATCH", key, `{"expires_at":null}`)
	case 10, 11:
		h.do("PATCH", key, `{"status":"INACTIVE"}`)
	case 12, 13:
		h.do("PATCH", key, `{"status":"ACTIVE"}`)
	case 14:
		h.do("PATCH", key, `{"name":"`+h.one("one", "two")+`","metadata":{"team":`+h.one(`"a"`, `"b"`, "null")+`}}`)
	case 15:
		h.do("PATCH", key, `{"profile":`+h.one(`"gold"`, "null")+`}`)
	default:
		h.do("PATCH", key, `{"permissions":`+h.permissions()+`,"scope":`+h.scope()+`}`)
	}
}

// all are the ledger's events.
func (h *history) all() []stored {
	ledger := h.s.Ledger.(*memory.Ledger)
	last, err := ledger.Last(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	var all []stored
	for pos := events.Position(1); pos <= last; pos++ {
		r, err := ledger.At(h.t.Context(), pos)
		if err != nil {
			h.t.Fatal(err)
		}
		all = append(all, parse(uint64(pos), r.Stored.Std(), r.Raw))
	}
	return all
}

func TestThePastByTheAPIAgreesWithASecondImplementation(t *testing.T) {
	s := apitest.Start(t)
	given := map[string]int{}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for n := range uint64(3) {
		h := &history{t: t, s: s, rand: rand.New(rand.NewPCG(seed, n)), base: fmt.Sprintf("/v1/organizations/acme-%d", n), fold: folds()}
		s.Must(201, s.Owner, "POST", "/v1/organizations", fmt.Sprintf(`{"id":"acme-%d","name":"Acme"}`, n))
		h.do("POST", "/workspaces", `{"id":"w1","name":"A"}`)
		h.do("POST", "/workspaces", `{"id":"w2","name":"B"}`)
		h.do("POST", "/profiles", `{"id":"gold","name":"Gold","settings":{}}`)
		h.do("PUT", "/permissions", h.catalog())
		for range 30 {
			h.step()
		}
		if n == 0 {
			h.do("DELETE", "", "")
		}
		if wait := time.Until(h.soon); wait > 0 {
			time.Sleep(wait)
		}
		all := h.all()
		first := slices.IndexFunc(all, func(e stored) bool { org, _, _ := e.place(); return strings.HasSuffix(h.base, "/"+org) })
		for until := first; until <= len(all); until++ {
			end := whole(all, until)
			m := then{past: all[:end], at: all[end-1].at, text: s.Positions.Format(events.StreamLedger, events.Position(until))}
			h.compare(m, given)
		}
		for range 20 {
			// At times: between the first event and now.
			begin, end := all[first].at, time.Now()
			at := begin.Add(rand.N(end.Sub(begin))).Truncate(time.Microsecond).UTC()
			until := 0
			for until < len(all) && !all[until].at.After(at) {
				until++
			}
			h.compare(then{past: all[:whole(all, until)], at: at, text: at.Format(time.RFC3339Nano)}, given)
		}
	}
	for _, code := range []string{"VALID", "REVOKED", "EXPIRED", "INACTIVE", "INSUFFICIENT_PERMISSIONS", "OUT_OF_SCOPE"} {
		if given[code] == 0 {
			t.Errorf("no answer was %s: the histories are too poor", code)
		}
	}
}

// whole is the end of the change that an event is of: what was appended as one is one.
func whole(all []stored, until int) int {
	for until > 0 && until < len(all) && number(all[until-1].body, "batchindex") < number(all[until-1].body, "batchsize") {
		until++
	}
	return until
}

// then is what is asked about: all events up to there, and the time.
type then struct {
	past []stored
	at   time.Time
	text string
}

// compare asks both about every key, and about all of them together.
func (h *history) compare(m then, given map[string]int) {
	h.t.Helper()
	permission, workspace := h.one("", "doc:read", "doc:write", "user:read", "nobody:knows"), h.one("", "", "w1", "w2")
	world, q := h.fold(m.past), url.Values{"as_of": {m.text}, "verdict": {"true"}}
	if permission != "" {
		q.Set("permission", permission)
	}
	if workspace != "" {
		q.Set("workspace", workspace)
	}
	var could []string
	for _, id := range h.keys {
		a := h.ask("GET", "/keys/"+id+"?"+q.Encode(), "")
		k := world.keys[id]
		if k == nil {
			if a.Status != 404 || !strings.Contains(a.Body, "it is there since") {
				h.t.Fatalf("at %s a key that was not there: %d %s", m.text, a.Status, a.Body)
			}
			continue
		}
		if a.Status != 200 {
			h.t.Fatalf("at %s: %d %s", m.text, a.Status, a.Body)
		}
		shown := object{}
		if err := json.Unmarshal([]byte(a.Body), &shown); err != nil {
			h.t.Fatal(err)
		}
		h.same(m, "the key", line(shape(shown)), line(world.shown(k, m.at)))
		h.same(m, "its permissions", fmt.Sprint(list(shown, "effective_permissions")), fmt.Sprint(world.effective(k)))
		h.same(m, "its workspaces", fmt.Sprint(list(shown, "gone_workspaces")), fmt.Sprint(world.gone(k)))
		state := remembered(func(past []stored) string {
			w := h.fold(past)
			if w.keys[id] == nil {
				return ""
			}
			return line(w.shown(w.keys[id], m.at))
		})
		h.same(m, "what made it so", text(sub(shown, "made_so_by"), "position"), h.position(made(m.past, state)))
		verdict := remembered(func(past []stored) string { return h.fold(past).verdict(id, permission, workspace, m.at) })
		code := verdict(m.past)
		given[code]++
		h.same(m, "the verdict", text(sub(shown, "verdict"), "code"), code)
		by := h.position(made(m.past, verdict))
		h.same(m, "what made the verdict so", text(sub(sub(shown, "verdict"), "made_so_by"), "position"), by)
		if code == "VALID" {
			could = append(could, fmt.Sprintf("%09d %s %s", k.created, id, by))
		}
	}
	slices.Sort(could)
	q.Del("as_of")
	q.Del("verdict")
	q.Set("at", m.text)
	h.same(m, "who could", strings.Join(h.whoCould(world, q), "\n"), strings.Join(could, "\n"))
}

// whoCould reads the whole list in small pages.
func (h *history) whoCould(world *world, q url.Values) (all []string) {
	q.Set("limit", h.one("1", "2", "50"))
	for {
		a := h.ask("GET", "/audit/who-could?"+q.Encode(), "")
		if a.Status != 200 {
			h.t.Fatalf("who could: %d %s", a.Status, a.Body)
		}
		var page struct {
			Items []struct {
				KeyID    string `json:"key_id"`
				MadeSoBy string `json:"made_so_by"`
			}
			NextCursor string `json:"next_cursor"`
		}
		if err := json.Unmarshal([]byte(a.Body), &page); err != nil {
			h.t.Fatal(err)
		}
		for _, k := range page.Items {
			made := world.keys[k.KeyID]
			if made == nil {
				h.t.Fatalf("%s could before it was there", k.KeyID)
			}
			all = append(all, fmt.Sprintf("%09d %s %s", made.created, k.KeyID, k.MadeSoBy))
		}
		if page.NextCursor == "" {
			return all
		}
		q.Set("cursor", page.NextCursor)
	}
}

func (h *history) position(pos uint64) string {
	if pos == 0 {
		return ""
	}
	return h.s.Positions.Format(events.StreamLedger, events.Position(pos))
}

func (h *history) same(m then, what, got, want string) {
	h.t.Helper()
	if got == want {
		return
	}
	var b strings.Builder
	for _, s := range m.past {
		fmt.Fprintln(&b, h.position(s.position), s.at.Format(time.RFC3339Nano), text(s.body, "subject"), s.kind(), s.body["batchindex"], s.body["data"])
	}
	h.t.Fatalf("as of %s (%s), %s:\n%s\nby the second implementation:\n%s\n%s", m.text, m.at, what, got, want, b.String())
}

// shape takes what is compared out of a key as the API shows it.
func shape(shown object) object {
	out := object{}
	for _, name := range []string{
		"name", "kind", "status", "permissions", "scope", "profile", "expires_at", "grace_ends_at", "metadata", "external_id", "rotated_from", "rotated_to",
		"revoked_at", "revocation_reason",
	} {
		if v, ok := shown[name]; ok && v != nil {
			out[name] = v
		}
	}
	return out
}

// shown is the same of a key as the events tell it.
func (w *world) shown(k *naiveKey, now time.Time) object {
	metadata := k.metadata
	if metadata == nil {
		metadata = object{}
	}
	out := object{"kind": k.kind, "status": w.status(k, now), "permissions": k.permissions, "scope": k.scope, "metadata": metadata}
	o := w.orgs[k.org]
	ended, why := k.revokedAt, k.revokedFor
	if o.ended && !k.revoked {
		ended, why = o.over, o.why
	}
	for name, v := range map[string]string{
		"name": k.name, "profile": k.profile, "expires_at": k.expires, "grace_ends_at": k.grace, "external_id": k.external, "rotated_from": k.from,
		"rotated_to": k.to, "revoked_at": ended, "revocation_reason": why,
	} {
		if v != "" {
			out[name] = v
		}
	}
	return out
}

func (w *world) effective(k *naiveKey) (out []string) {
	for _, entry := range w.orgs[k.org].catalog {
		p, _ := entry.(object)
		if w.may(k, text(p, "name")) {
			out = append(out, text(p, "name"))
		}
	}
	return out
}

func (w *world) gone(k *naiveKey) (out []string) {
	for _, id := range list(k.scope, "workspaces") {
		if !w.orgs[k.org].workspaces[id] {
			out = append(out, id)
		}
	}
	return out
}

// line writes an object as one text, times without the zeros that say nothing.
func line(o object) string {
	for name, v := range o {
		if s, ok := v.(string); ok && strings.HasSuffix(name, "_at") {
			if at, err := time.Parse(time.RFC3339, s); err == nil {
				o[name] = at.UTC().Format(time.RFC3339Nano)
			}
		}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(o); err != nil {
		panic(err)
	}
	return b.String()
}
