package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	natsjetstream "github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/events/uses"
)

// past writes blocks of uses that happened days ago, as a verifier does that was cut
// off for so long.
type past struct {
	t      *testing.T
	enc    *uses.Encoder
	header uses.Header
	first  map[events.OrgID]uint64
	blocks []message
}

func newPast(t *testing.T, data string) *past {
	t.Helper()
	enc, err := uses.NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	boot, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	p := &past{t: t, enc: enc, first: map[events.OrgID]uint64{}, header: uses.Header{
		Ledger: positions(t, data).Ledger, Verifier: "edge", Boot: uses.BootID(boot),
	}}
	mark := p.header
	mark.Kind, mark.Org, mark.From, mark.Bound = uses.KindBoot, events.System, events.TimeOf(time.Now().AddDate(0, 0, -30)), 100
	p.add(enc.Mark(mark))
	return p
}

func (p *past) add(m events.UsesMessage, err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
	p.blocks = append(p.blocks, message{m.Subject, m.Body})
}

// use adds a block of some uses of a key.
func (p *past) use(org events.OrgID, key string, days, n int, code events.Code) {
	p.t.Helper()
	id, err := events.ParseKeyID(key)
	if err != nil {
		p.t.Fatal(err)
	}
	h := p.header
	h.Org, h.First = org, p.first[org]+1
	p.first[org] += uint64(n)
	list := make([]uses.Use, n)
	for i := range list {
		list[i] = uses.Use{At: events.TimeOf(time.Now().AddDate(0, 0, -days)), Key: id, Code: code, Permission: "interview:read"}
	}
	blocks, err := p.enc.Encode(h, list)
	if err != nil || len(blocks) != 1 {
		p.t.Fatal(len(blocks), err)
	}
	p.add(blocks[0], nil)
}

// withUses works on the stream of uses of a data folder that no server has.
func withUses(t *testing.T, data string, do func(natsjetstream.Stream) error) {
	t.Helper()
	broker, err := embedded.Start(t.Context(), embedded.Config{Dir: data})
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Shutdown()
	err = broker.Setup(t.Context(), func(conn *nats.Conn) error {
		js, err := natsjetstream.New(conn)
		if err != nil {
			return err
		}
		stream, err := js.Stream(t.Context(), jetstream.StreamUses)
		if err != nil {
			return err
		}
		return do(stream)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// beginning is the position that the stream of uses begins with.
func beginning(t *testing.T, data string) (first uint64) {
	t.Helper()
	withUses(t, data, func(s natsjetstream.Stream) error { first = s.CachedInfo().State.FirstSeq; return nil })
	return first
}

// forgetUses deletes the view of uses.
func forgetUses(t *testing.T, data string) {
	t.Helper()
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(filepath.Join(data, "usage.db"+suffix)); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
}

// dropped are the events that say what retention dropped.
func (s *server) dropped(owner, org string) (list []map[string]any) {
	s.t.Helper()
	a := s.must(200, owner, "GET", "/v1/organizations/"+org+"/audit/events?type=uses.dropped&raw=true&order=asc", "")
	var page struct {
		Items []struct {
			ID    string `json:"id"`
			Event struct {
				Data map[string]any `json:"data"`
			} `json:"event"`
		} `json:"items"`
	}
	if err := json.Unmarshal(a.Body, &page); err != nil {
		s.t.Fatal(err)
	}
	for _, item := range page.Items {
		item.Event.Data["id"] = item.ID
		list = append(list, item.Event.Data)
	}
	return list
}

// awaitDropped waits until there are as many.
func (s *server) awaitDropped(owner, org, id string, n int) []map[string]any {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		list := slices.DeleteFunc(s.dropped(owner, org), func(d map[string]any) bool { return d["id"] != id })
		if len(list) >= n {
			return list
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%d events of %s tell of what was dropped\n%s", len(list), org, s.Logged())
		}
	}
}

func counts(a answer) (n int) {
	items, _ := a.Get("items").([]any)
	for _, item := range items {
		count, _ := item.(map[string]any)["count"].(float64)
		n += int(count)
	}
	return n
}

// TestUsesAreKeptAsLongAsWanted: single uses go when their organization keeps them
// no longer, after they were counted, and the stream begins behind what nobody
// keeps; counts by day stay, also in a view that is made anew. A server that died
// between the event and the removal leaves that to the next.
//
// Breaking it: a keeper that does not remove what others recorded.
func TestUsesAreKeptAsLongAsWanted(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	s := start(t, data)
	owner := s.owner()
	ids := map[string]string{}
	for org, policy := range map[string]string{"acme": `,"policy":{"uses_retention":"3d"}`, "beta": `,"policy":{"uses_retention":"20d"}`} {
		s.organization(owner, org, policy)
		ids[org] = s.must(201, owner, "POST", "/v1/organizations/"+org+"/keys", keyBody).Text("key.id")
	}
	for _, bad := range []string{"0d", "12h", "soon"} {
		s.must(422, owner, "PATCH", "/v1/organizations/acme", fmt.Sprintf(`{"policy":{"uses_retention":%q}}`, bad))
	}
	s.Stop()
	p := newPast(t, data)
	p.use("acme", ids["acme"], 10, 5, events.CodeValid)
	p.use("acme", ids["acme"], 9, 2, events.CodeExpired)
	p.use("beta", ids["beta"], 10, 4, events.CodeValid)
	p.use("acme", ids["acme"], 8, 3, events.CodeValid)
	p.use("acme", ids["acme"], 1, 6, events.CodeValid)
	withUses(t, data, func(s natsjetstream.Stream) error { return s.Purge(t.Context()) })
	plant(t, data, p.blocks...)
	forgetUses(t, data)
	first := beginning(t, data)

	s = start(t, data)
	dropped := s.awaitDropped(owner, "acme", "uses", 1)
	if text := fmt.Sprint(dropped[0]["days"]); strings.Count(text, "code:") != 3 || !strings.Contains(text, "uses:5") || !strings.Contains(text, "uses:2") || !strings.Contains(text, "uses:3") {
		t.Errorf("counted as %s", text)
	}
	stream := s.awaitDropped(owner, "_system", "stream", 1)
	if blocks := stream[0]["blocks"]; blocks != 3.0 {
		t.Errorf("%v blocks go, with the mark of the run", blocks)
	}
	looks := func(s *server) {
		t.Helper()
		var list answer
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
			list = s.must(200, owner, "GET", "/v1/organizations/acme/audit/uses", "")
			if items, _ := list.Get("items").([]any); len(items) == 6 && list.Text("dropped_before") != "" {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("told are %s", list)
			}
		}
		if list := s.must(200, owner, "GET", "/v1/organizations/acme/keys/"+ids["acme"]+"/uses?to="+list.Text("dropped_before"), ""); list.String() == "" || strings.Contains(list.String(), "key_id") {
			t.Errorf("told of what was dropped: %s", list)
		}
		if n := counts(s.must(200, owner, "GET", "/v1/organizations/acme/audit/uses/counts?unit=day", "")); n != 16 {
			t.Errorf("%d uses are counted", n)
		}
		if list := s.must(200, owner, "GET", "/v1/organizations/beta/audit/uses", ""); strings.Count(list.String(), `"key_id"`) != 4 || strings.Contains(list.String(), "dropped_before") {
			t.Errorf("of another organization %s", list)
		}
	}
	looks(s)
	s.Stop()
	if now := beginning(t, data); now != first+3 {
		t.Errorf("the stream began with %d and begins with %d", first, now)
	}
	forgetUses(t, data)
	s = start(t, data)
	looks(s)
	s.must(200, owner, "PATCH", "/v1/organizations/beta", `{"policy":{"uses_retention":"4d"}}`)
	s.Stop()

	// Whoever recorded that all blocks of beta go, too, died behind it.
	subject := events.StreamRetentionSubject()
	f := &poisoner{t: t, ledger: positions(t, data).Ledger}
	plant(t, data, f.fact(subject, 2, events.UsesDropped{
		Before: events.TimeOf(time.Now()), Through: events.Position(first + 3), Blocks: 1,
		Days: []events.UsesDay{{Day: 86_400_000_000, Code: "VALID", Uses: 4}},
	}))
	s = start(t, data)
	for deadline := time.Now().Add(time.Minute); !slices.ContainsFunc(s.metric("keyledger_uses_drops_total", "outcome"), func(o string) bool { return o == "purged" }); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("nothing was removed\n%s", s.Logged())
		}
	}
	s.Stop()
	if now := beginning(t, data); now != first+4 && now != first+5 {
		t.Errorf("the stream began with %d and begins with %d", first, now)
	}
}

// An organization cannot keep single uses for longer than the installation.
func TestNoUsesBeyondTheInstallations(t *testing.T) {
	t.Parallel()
	s := run(t, t.TempDir(), "127.0.0.1:0", append([]string{"--uses-retention", "90d"}, alone...)...).awaitReady()
	owner := s.owner()
	s.organization(owner, "acme", `,"policy":{"uses_retention":"30d"}`)
	for _, longer := range []string{"91d", "1y", "never"} {
		a := s.must(422, owner, "PATCH", "/v1/organizations/acme", fmt.Sprintf(`{"policy":{"uses_retention":%q}}`, longer))
		if !strings.Contains(a.String(), "policy.uses_retention") {
			t.Error(a)
		}
	}
	s.must(200, owner, "PATCH", "/v1/organizations/acme", `{"policy":{"uses_retention":"90d"}}`)
	if got := s.must(200, owner, "GET", "/v1/organizations/acme", "").Text("policy.uses_retention"); got != "90d" {
		t.Error(got)
	}
}
