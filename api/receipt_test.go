package api_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/api"
	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/presence"
	"github.com/keyledger/keyledger/events/uses"
)

// crowd is the verifiers beside a server, as they announce themselves.
type crowd struct {
	s       *apitest.Server
	t       testing.TB
	heard   events.Position
	numbers map[uses.BootID]uint64
}

func newCrowd(t testing.TB, s *apitest.Server) *crowd {
	return &crowd{s: s, t: t, numbers: map[uses.BootID]uint64{}}
}

// applied is how far the server itself has come.
func (c *crowd) applied() events.Position {
	c.t.Helper()
	pos, err := c.s.Ledger.Last(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	return pos
}

// say announces a verifier that has applied everything.
func (c *crowd) say(name events.VerifierID, boot byte, change func(*presence.Announcement)) {
	c.t.Helper()
	id := uses.BootID{boot}
	c.numbers[id]++
	a := presence.Announcement{
		Ledger: c.s.Positions.Ledger, Verifier: name, Boot: id, Number: c.numbers[id], Kind: presence.Sidecar, Version: "v1", At: now(), StartedAt: now(),
		Applied: c.applied(), Staleness: 1500, MaxStaleness: 30_000, Ready: true, Recorded: 9, Backlog: 2, Misses: 4,
		Lease: presence.MaxLease.Milliseconds(),
	}
	if change != nil {
		change(&a)
	}
	m, err := presence.Encode(&a)
	if err != nil {
		c.t.Fatal(err)
	}
	c.heard++
	m.Position, m.Stored = c.heard, now()
	c.s.Config.Fleet.Hear([]presence.Message{m})
}

func now() events.Time { return events.TimeOf(time.Now()) }

func serving(orgs ...events.OrgID) func(*presence.Announcement) {
	return func(a *presence.Announcement) { a.Organizations = orgs }
}

func verifiers(t testing.TB, s *apitest.Server, key, query string) wire.List[wire.Verifier] {
	t.Helper()
	return as[wire.List[wire.Verifier]](t, s.Must(200, key, "GET", "/v1/verifiers"+query, ""))
}

func verifierNames(list wire.List[wire.Verifier]) []string {
	var names []string
	for _, v := range list.Items {
		names = append(names, v.Name)
	}
	return names
}

func TestVerifiersAreListed(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	furnish(s, "other")
	c := newCrowd(t, s)
	c.say("all", 1, nil)
	c.say("both", 2, serving("acme", "other"))
	c.say("mine", 3, serving("acme"))
	c.say("theirs", 4, serving("other"))
	c.say("was", 5, func(a *presence.Announcement) { a.Ended = true })
	if got := verifierNames(verifiers(t, s, s.Owner, "")); !slices.Equal(got, []string{"all", "both", "mine", "theirs", "was"}) {
		t.Errorf("%v", got)
	}
	if got := verifierNames(verifiers(t, s, s.Owner, "?organization=other&state=live")); !slices.Equal(got, []string{"all", "both", "theirs"}) {
		t.Errorf("%v", got)
	}
	first := verifiers(t, s, s.Owner, "?limit=2")
	if got := verifierNames(verifiers(t, s, s.Owner, "?limit=3&cursor="+first.NextCursor)); first.NextCursor == "" || !slices.Equal(got, []string{"mine", "theirs", "was"}) {
		t.Errorf("%v after %q", got, first.NextCursor)
	}
	got := verifiers(t, s, s.Owner, "?limit=1").Items[0]
	if got.Kind != "sidecar" || got.State != "live" || !got.Ready || got.Version != "v1" || *got.Staleness != 1.5 || got.MaxStaleness != 30 ||
		*got.Behind != 0 || *got.Backlog != 2 || *got.Recorded != 9 || *got.Misses != 4 || got.Lease != 600 || got.LastHeardAt == nil || got.Position == "" {
		t.Errorf("%+v", got)
	}
	for _, wrong := range []string{"?state=dead", "?cursor=!", "?cursor=QQ", "?limit=0"} {
		s.Must(400, s.Owner, "GET", "/v1/verifiers"+wrong, "")
	}
	s.Must(404, s.Owner, "GET", "/v1/verifiers?organization=Nobody", "")
}

// An organization sees who serves it, and nothing of the others.
func TestVerifiersTellNothingOfOtherOrganizations(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	furnish(s, "other")
	c := newCrowd(t, s)
	c.say("all", 1, nil)
	c.say("both", 2, serving("acme", "other"))
	c.say("mine", 3, serving("acme"))
	c.say("theirs", 4, serving("other"))
	key := managementKey(t, s, "acme", "member", everywhere)
	list := verifiers(t, s, key, "")
	if got := verifierNames(list); !slices.Equal(got, []string{"all", "both", "mine"}) {
		t.Errorf("%v", got)
	}
	for _, v := range list.Items {
		shared := v.Name != "mine"
		if (v.Backlog == nil) != shared || (v.Recorded == nil) != shared || (v.Misses == nil) != shared || slices.Contains(v.Organizations, "other") || v.Behind != nil {
			t.Errorf("%+v", v)
		}
	}
	s.Must(404, key, "GET", "/v1/verifiers?organization=other", "")
	s.Must(200, key, "GET", "/v1/verifiers?organization=acme", "")
}

// revokedKey makes a key, uses it once, and revokes it.
func revokedKey(t testing.TB, s *apitest.Server) (path string) {
	t.Helper()
	made := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", keyBody))
	path = "/v1/organizations/acme/keys/" + made.Key.ID
	if v := verdict(t, s, s.Owner, made.Secret, ""); !v.Valid {
		t.Fatalf("%+v", v)
	}
	s.Must(409, s.Owner, "GET", path+"/receipt", "")
	s.Must(200, s.Owner, "POST", path+"/revoke", `{"reason":"lost"}`)
	return path
}

func receipt(t testing.TB, s *apitest.Server, path string) wire.Receipt {
	t.Helper()
	return as[wire.Receipt](t, s.Must(200, s.Owner, "GET", path, ""))
}

func TestReceiptOfARevocation(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	c := newCrowd(t, s)
	c.say("edge-1", 1, nil)
	c.say("edge-2", 2, nil)
	c.say("theirs", 3, serving("other"))
	path := revokedKey(t, s)
	r := receipt(t, s, path+"/receipt")
	if r.Complete || r.AppliedBy != 0 || r.Verifiers != 2 || r.UsesComplete || r.LastAppliedAt != nil || r.Revoked.Reason != "lost" ||
		r.Revoked.Type != "key.revoked" || r.Revoked.Position == "" || !strings.HasPrefix(r.Revoked.By, "key/_system/") || len(r.Items) != 2 {
		t.Errorf("%+v", r)
	}
	for _, v := range r.Items {
		if by := r.Revoked.At.Add(35 * time.Second); v.Applied || v.DeniesBy == nil || !v.DeniesBy.Equal(by) || !r.DeniedEverywhereBy.Equal(by) {
			t.Errorf("%+v by %s", v, r.DeniedEverywhereBy)
		}
	}

	c.say("edge-1", 1, nil)
	if r = receipt(t, s, path+"/receipt"); r.Complete || r.AppliedBy != 1 || r.Items[0].Verifier != "edge-2" {
		t.Errorf("who has not applied it comes first: %+v", r)
	}
	// It comes as soon as the last one has said so.
	answered := make(chan wire.Receipt, 1)
	go func() {
		var r wire.Receipt
		defer func() { answered <- r }()
		r = receipt(t, s, path+"/receipt?wait=30s")
	}()
	stored := func(a *presence.Announcement) { a.StoredThrough = now().Add(time.Minute) }
	c.say("edge-2", 2, nil)
	c.say("edge-1", 1, stored)
	c.say("edge-2", 2, stored)
	r = <-answered
	if !r.Complete || r.AppliedBy != 2 || r.LastAppliedAt == nil || r.LastAppliedAt.Before(r.Revoked.At) || !r.DeniedEverywhereBy.Equal(*r.LastAppliedAt) {
		t.Errorf("%+v", r)
	}
	for deadline := time.Now().Add(20 * time.Second); !r.UsesComplete || r.LastAcceptedUse == nil; r = receipt(t, s, path+"/receipt") {
		if time.Now().After(deadline) {
			t.Fatalf("%+v", r)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if u := r.LastAcceptedUse; u.Verifier != "test" || u.Number == 0 || u.Position == "" || u.At.After(r.Revoked.At) {
		t.Errorf("%+v", u)
	}
}

// Whom nothing bounds makes nobody believe that the key is denied everywhere.
func TestReceiptWithOneThatServesStale(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	c := newCrowd(t, s)
	c.say("edge-1", 1, func(a *presence.Announcement) { a.ServesStale = true })
	path := revokedKey(t, s)
	r := receipt(t, s, path+"/receipt?wait=20ms")
	if r.Complete || r.DeniedEverywhereBy != nil || r.Items[0].DeniesBy != nil || !r.Items[0].ServesStale {
		t.Errorf("%+v", r)
	}
	// Where nobody is heard of, nothing is complete.
	c.say("edge-1", 1, func(a *presence.Announcement) { a.Ended = true })
	if r = receipt(t, s, path+"/receipt"); r.Complete || r.UsesComplete || r.DeniedEverywhereBy != nil || r.Verifiers != 0 {
		t.Errorf("%+v", r)
	}
}

// The end of an organization is the revocation of its keys.
func TestReceiptOfAnOrganizationsEnd(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	c := newCrowd(t, s)
	made := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", keyBody))
	c.say("edge-1", 1, nil)
	s.Must(200, s.Owner, "DELETE", "/v1/organizations/acme", "")
	c.say("edge-1", 1, nil)
	r := receipt(t, s, "/v1/organizations/acme/keys/"+made.Key.ID+"/receipt")
	if r.Revoked.Type != "organization.deleted" || !r.Complete || r.LastAcceptedUse != nil {
		t.Errorf("%+v", r)
	}
}

func TestReceiptsAreRefused(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	furnish(s, "other")
	c := newCrowd(t, s)
	c.say("edge-1", 1, nil)
	path := revokedKey(t, s)
	for _, wrong := range []string{"31s", "-1s", "soon", "10"} {
		s.Must(400, s.Owner, "GET", path+"/receipt?wait="+wrong, "")
	}
	s.Must(404, managementKey(t, s, "other", "owner", everywhere), "GET", path+"/receipt", "")
	s.Must(403, managementKey(t, s, "acme", "verifier", everywhere), "GET", path+"/receipt", "")
	s.Must(200, managementKey(t, s, "acme", "auditor", everywhere), "GET", path+"/receipt", "")

	// Who waits is judged again when the answer comes.
	stolen := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", `{"kind":"management","role":"admin","scope":{"all_workspaces":true}}`))
	answered := make(chan int, 1)
	before := s.Recorder.Stats().Recorded
	go func() { answered <- s.Do(stolen.Secret, "GET", path+"/receipt?wait=30s", "").Status }()
	for deadline := time.Now().Add(10 * time.Second); s.Recorder.Stats().Recorded == before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the request does not begin")
		}
	}
	s.Must(200, s.Owner, "POST", "/v1/organizations/acme/keys/"+stolen.Key.ID+"/revoke", "")
	c.say("edge-1", 1, func(a *presence.Announcement) { a.StoredThrough = now().Add(time.Minute) })
	if status := <-answered; status != 401 {
		t.Errorf("answered %d", status)
	}
}

// Before announcements are read, nobody is told who is lost; and that uses are
// complete nobody says who does not know how many there are.
func TestReceiptsOfAServerThatKnowsLess(t *testing.T) {
	blind := apitest.Start(t, func(c *api.Config) { c.FleetRead = func() bool { return false } })
	furnish(blind, "acme")
	if a := blind.Must(503, blind.Owner, "GET", "/v1/verifiers", ""); a.Header.Get("Retry-After") == "" {
		t.Errorf("%+v", a)
	}
	s := apitest.Start(t, func(c *api.Config) { c.LastUses = nil })
	furnish(s, "acme")
	c := newCrowd(t, s)
	path := revokedKey(t, s)
	c.say("edge-1", 1, nil)
	c.say("edge-1", 1, func(a *presence.Announcement) { a.StoredThrough = now().Add(time.Minute) })
	if r := receipt(t, s, path+"/receipt?wait=1s"); !r.Complete || r.UsesComplete {
		t.Errorf("%+v", r)
	}
}

// A server that stops keeps nobody waiting.
func TestAServerThatStopsAnswersWhoWaits(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	newCrowd(t, s).say("edge-1", 1, nil)
	path := revokedKey(t, s)
	answered := make(chan wire.Receipt, 1)
	go func() { answered <- receipt(t, s, path+"/receipt?wait=30s") }()
	s.API.EndStreams()
	select {
	case r := <-answered:
		if r.Complete {
			t.Errorf("%+v", r)
		}
	case <-time.After(20 * time.Second):
		t.Error("it goes on waiting")
	}
}
