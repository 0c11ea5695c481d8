package access_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/keyledger/cmd/access"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
)

var ledgerID = events.LedgerID(uuid.MustParse("0198c0de-0000-7000-8000-00000000001d"))

// place is a broker with a ledger, and its doors.
type place struct {
	*testing.T
	broker *embedded.Broker
	config access.Config
	dir    string
	// fail, if set, is what telling the broker comes to.
	fail error
}

func begin(t *testing.T) *place {
	t.Helper()
	b, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Shutdown)
	if err := b.Setup(t.Context(), func(conn *nats.Conn) error { return jetstream.EnsureStreams(t.Context(), conn, 1) }); err != nil {
		t.Fatal(err)
	}
	p := &place{T: t, broker: b, dir: t.TempDir()}
	ledger, err := jetstream.New(jetstream.Config{Conn: b.Conn(), Ledger: ledgerID, Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	p.config = access.Config{
		Ledger: ledger, ID: ledgerID, Conn: b.Conn(), Authority: b.Authority(), Logger: slog.New(slog.DiscardHandler), Operate: b.Setup,
		Push: func(ctx context.Context, accounts ...credentials.Account) error {
			if p.fail != nil {
				return p.fail
			}
			return b.Push(ctx, accounts...)
		},
	}
	return p
}

func (p *place) doors() *access.Doors {
	p.Helper()
	d, err := access.New(p.config)
	if err != nil {
		p.Fatal(err)
	}
	return d
}

func (p *place) wish(name events.CredentialName, orgs ...events.OrgID) access.Wish {
	return access.Wish{Name: name, For: events.CredentialVerifier, Organizations: orgs, Out: filepath.Join(p.dir, string(name)+".creds")}
}

// enters tells whether a file opens the broker, and the credential's own consumer.
func (p *place) enters(file, name string) bool {
	p.Helper()
	conn, err := nats.Connect("nats://"+p.broker.Addr().String(), nats.UserCredentials(file),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		return false
	}
	defer conn.Close()
	_, err = jetstream.DescribeReader(p.Context(), conn, jetstream.StreamLedger, name)
	return err == nil
}

// begun appends what every ledger begins with.
func (p *place) begun() {
	p.Helper()
	subject := events.InstallationSubject()
	_, err := p.config.Ledger.Append(p.Context(), []events.Entry{{
		Subject: subject, Event: events.InstallationCreated{Ledger: ledgerID, Epoch: 1}, Expect: events.Expect(subject, 0),
		Meta: events.Meta{
			ID: events.EventID(uuid.Must(uuid.NewV7())), Ledger: ledgerID, Time: events.TimeOf(time.Now()), Revision: 1,
			Actor: events.Actor{Type: events.ActorSystem, Name: "test"}, Command: events.CommandID(uuid.New()),
		},
	}})
	if err != nil {
		p.Fatal(err)
	}
}

func (p *place) facts() int {
	p.Helper()
	last, err := p.config.Ledger.Last(p.Context())
	if err != nil {
		p.Fatal(err)
	}
	return int(last)
}

func TestRefusedWishLeavesNoCredential(t *testing.T) {
	t.Parallel()
	p := begin(t)
	d := p.doors()
	w := p.wish("edge")
	w.MaxStaleness = events.MinStaleness - time.Second
	if _, err := d.Issue(t.Context(), w); !errors.Is(err, domain.ErrInvalid) {
		t.Fatalf("issued: %v", err)
	}
	if left, err := filepath.Glob(w.Out + "*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestLife(t *testing.T) {
	t.Parallel()
	p := begin(t)
	d := p.doors()
	w := p.wish("edge", "globex", "acme")
	w.MaxStaleness = 30 * time.Second
	issued, err := d.Issue(t.Context(), w)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(issued.Organizations, []events.OrgID{"acme", "globex"}) || issued.MaxStaleness != 30 || len(issued.Scope) != 32 {
		t.Errorf("issued %+v", issued)
	}
	info, err := os.Stat(w.Out)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("file: %v %v", info, err)
	}
	if !p.enters(w.Out, "edge") {
		t.Fatal("the file opens nothing")
	}
	// Once more is nothing more.
	if again, err := d.Issue(t.Context(), w); err != nil || again.Account != issued.Account || p.facts() != 1 {
		t.Fatalf("again: %+v, %v, %d facts", again, err, p.facts())
	}
	if err := d.Revoke(t.Context(), "edge", "the machine was sold"); err != nil {
		t.Fatal(err)
	}
	if p.enters(w.Out, "edge") {
		t.Error("let in after it was shut out")
	}
	if err := d.Revoke(t.Context(), "edge", ""); err != nil || p.facts() != 2 {
		t.Errorf("again: %v, %d facts", err, p.facts())
	}
	other := p.wish("edge")
	other.Out += "2"
	for _, w := range []access.Wish{w, other} {
		if _, err := d.Issue(t.Context(), w); !errors.Is(err, access.ErrRevoked) {
			t.Errorf("a name was given again: %v", err)
		}
	}
	if err := d.Revoke(t.Context(), "nobody", ""); !errors.Is(err, access.ErrUnknown) {
		t.Errorf("revoke: %v", err)
	}
	entries, err := d.List(t.Context())
	if err != nil || len(entries) != 1 || entries[0].Account != issued.Account || entries[0].At == 0 || entries[0].RevokedAt < entries[0].At {
		t.Errorf("list: %+v %v", entries, err)
	}
}

// What would be mistaken for something else, or lost, is refused and changes nothing.
func TestRefuses(t *testing.T) {
	p := begin(t)
	d := p.doors()
	if _, err := d.Issue(t.Context(), p.wish("edge")); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(p.wish("edge").Out)
	if err != nil {
		t.Fatal(err)
	}
	taken := p.wish("new")
	taken.Out = filepath.Join(p.dir, "precious")
	if err := os.WriteFile(taken.Out, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	another := p.wish("new")
	another.Out = p.wish("edge").Out
	elsewhere := p.wish("edge")
	elsewhere.Out += "2"
	for name, c := range map[string]struct {
		wish access.Wish
		want error
	}{
		"a file of something else":   {taken, access.ErrExists},
		"another's file":             {another, access.ErrExists},
		"the same name elsewhere":    {elsewhere, access.ErrIssued},
		"the same name for less":     {p.wish("edge", "acme"), access.ErrOther},
		"the same name, other works": {access.Wish{Name: "edge", For: events.CredentialAuditor, Out: p.wish("edge").Out}, access.ErrOther},
	} {
		if _, err := d.Issue(t.Context(), c.wish); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, bad := range []access.Wish{p.wish("a.b"), p.wish("new", ">"), p.wish("new", "acme", "acme"), p.wish("new", events.System), {Name: "new", For: "operator", Out: p.wish("new").Out}} {
		if _, err := d.Issue(t.Context(), bad); err == nil {
			t.Errorf("issued %+v", bad)
		}
	}
	if now, err := os.ReadFile(p.wish("edge").Out); err != nil || string(now) != string(content) {
		t.Errorf("the file was changed: %v", err)
	}
	if now, _ := os.ReadFile(taken.Out); string(now) != "precious" {
		t.Error("the other file was changed")
	}
	if p.facts() != 1 || !p.enters(p.wish("edge").Out, "edge") {
		t.Error("something was changed")
	}
}

var errPower = errors.New("power is gone")

// Whatever was left undone, asking for the same once more does it: the broker did
// not hear, the file was not moved, the consumer was not made, nothing was recorded.
func TestGoesOn(t *testing.T) {
	t.Parallel()
	p := begin(t)
	w := p.wish("edge")
	// Nothing but the file: recording fails.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 2 {
		if _, err := p.doors().Issue(ctx, w); err == nil {
			t.Fatal("issued without a ledger")
		}
	}
	p.fail = errPower
	for range 2 {
		if _, err := p.doors().Issue(t.Context(), w); !errors.Is(err, errPower) {
			t.Fatalf("issue: %v", err)
		}
		if _, err := os.Stat(w.Out); err == nil {
			t.Fatal("a file was handed over that opens nothing")
		}
		if err := jetstream.RemoveReader(t.Context(), p.config.Conn, jetstream.StreamLedger, "edge"); err != nil {
			t.Fatal(err)
		}
	}
	p.fail = nil
	if _, err := p.doors().Issue(t.Context(), w); err != nil || !p.enters(w.Out, "edge") || p.facts() != 1 {
		t.Fatalf("issue: %v, %d facts", err, p.facts())
	}
	if left, err := filepath.Glob(filepath.Join(p.dir, "*")); err != nil || len(left) != 1 {
		t.Errorf("left: %v %v", left, err)
	}
	p.fail = errPower
	for range 2 {
		if err := p.doors().Revoke(t.Context(), "edge", ""); !errors.Is(err, errPower) {
			t.Fatalf("revoke: %v", err)
		}
	}
	p.fail = nil
	if err := p.doors().Revoke(t.Context(), "edge", ""); err != nil || p.enters(w.Out, "edge") || p.facts() != 2 {
		t.Fatalf("revoke: %v, %d facts", err, p.facts())
	}
}

// A folder gets the first three once, and what was taken away stays away.
func TestFurnish(t *testing.T) {
	t.Parallel()
	p := begin(t)
	dir := filepath.Join(p.dir, "creds")
	p.fail = errPower
	if err := p.doors().Furnish(t.Context(), dir); !errors.Is(err, errPower) {
		t.Fatal(err)
	}
	p.fail = nil
	for range 2 {
		if err := p.doors().Furnish(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"sidecar", "subscriber", "auditor"} {
		if !p.enters(filepath.Join(dir, name+".creds"), name) {
			t.Errorf("%s opens nothing", name)
		}
	}
	if err := os.Remove(filepath.Join(dir, "sidecar.creds")); err != nil {
		t.Fatal(err)
	}
	if err := p.doors().Revoke(t.Context(), "subscriber", ""); err != nil {
		t.Fatal(err)
	}
	if err := p.doors().Furnish(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "sidecar.creds")); err == nil || p.enters(filepath.Join(dir, "subscriber.creds"), "subscriber") || p.facts() != 4 {
		t.Errorf("furnished again, %d facts", p.facts())
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("folder: %v %v", info, err)
	}
}

// Who is shut out while somebody else lets him in is shut out, whoever is the last
// to tell the broker.
func TestShutOutMeanwhile(t *testing.T) {
	t.Parallel()
	p := begin(t)
	other := p.doors()
	w := p.wish("edge")
	p.config.Push = func(ctx context.Context, accounts ...credentials.Account) error {
		p.config.Push = p.broker.Push
		if err := other.Revoke(ctx, "edge", "sold"); err != nil {
			return err
		}
		return p.broker.Push(ctx, accounts...)
	}
	d, err := access.New(access.Config{
		Ledger: p.config.Ledger, ID: p.config.ID, Conn: p.config.Conn, Authority: p.config.Authority, Logger: p.config.Logger, Operate: p.config.Operate,
		Push: func(ctx context.Context, accounts ...credentials.Account) error {
			return p.config.Push(ctx, accounts...)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Issue(t.Context(), w); !errors.Is(err, access.ErrRevoked) {
		t.Errorf("issue: %v", err)
	}
	for _, file := range []string{w.Out, w.Out + ".pending"} {
		conn, err := nats.Connect("nats://"+p.broker.Addr().String(), nats.UserCredentials(file), nats.MaxReconnects(0))
		if err == nil {
			conn.Close()
			t.Errorf("%s opens the broker", file)
		}
	}
}

// Who reads by a mirror reads the same ledger, by the same subjects, and is shut out
// as others are; and what is no mirror of this ledger lets nobody in.
func TestMirror(t *testing.T) {
	t.Parallel()
	p := begin(t)
	d := p.doors()
	w := p.wish("edge", "acme")
	w.Mirror = "west"
	if _, err := d.Issue(t.Context(), w); !errors.Is(err, jetstream.ErrNoMirror) {
		t.Fatalf("issued: %v", err)
	}
	if p.facts() != 0 {
		t.Error("the name was given away")
	}
	p.begun()
	for range 2 {
		if err := d.MakeMirror(t.Context(), "west", 1); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		issued, err := d.Issue(t.Context(), w)
		if err != nil || issued.Mirror != "west" {
			t.Fatalf("issue: %+v, %v", issued, err)
		}
	}
	if !p.enters(w.Out, "edge") {
		t.Error("it does not open the broker")
	}
	direct := w
	direct.Mirror = ""
	if _, err := d.Issue(t.Context(), direct); !errors.Is(err, access.ErrOther) {
		t.Errorf("issued to read otherwise: %v", err)
	}
	mirrors, err := d.Mirrors(t.Context())
	if err != nil || len(mirrors) != 1 || mirrors[0].Name != "west" || mirrors[0].Readers != 1 || mirrors[0].Replicas != 1 {
		t.Errorf("mirrors: %+v, %v", mirrors, err)
	}
	if err := d.Heal(t.Context()); err != nil {
		t.Errorf("heal: %v", err)
	}
	if err := d.Revoke(t.Context(), "edge", "sold"); err != nil {
		t.Fatal(err)
	}
	if p.enters(w.Out, "edge") {
		t.Error("it opens the broker after it was revoked")
	}
	if mirrors, err := d.Mirrors(t.Context()); err != nil || mirrors[0].Readers != 0 {
		t.Errorf("mirrors: %+v, %v", mirrors, err)
	}
	err = p.broker.Setup(t.Context(), func(conn *nats.Conn) error {
		if err := jetstream.EnsureMirror(t.Context(), conn, events.LedgerID{9}, "other", 1); !errors.Is(err, jetstream.ErrMirrorChanged) {
			t.Errorf("a mirror of another ledger: %v", err)
		}
		js, err := natsjs.New(conn)
		if err != nil {
			return err
		}
		part := natsjs.StreamConfig{Name: "MIRROR_part", Mirror: &natsjs.StreamSource{Name: "LEDGER", FilterSubject: "ledger.*.acme.>"}}
		_, err = js.CreateStream(t.Context(), part)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.MakeMirror(t.Context(), "part", 1); !errors.Is(err, jetstream.ErrMirrorChanged) {
		t.Errorf("a mirror of a part: %v", err)
	}
	// Its mirror is gone, and it with it: it can be revoked nevertheless.
	w = p.wish("late")
	w.Mirror = "west"
	if _, err := d.Issue(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	err = p.broker.Setup(t.Context(), func(conn *nats.Conn) error {
		js, err := natsjs.New(conn)
		if err != nil {
			return err
		}
		return js.DeleteStream(t.Context(), "MIRROR_west")
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Heal(t.Context()); !errors.Is(err, jetstream.ErrNoMirror) {
		t.Errorf("heal: %v", err)
	}
	if err := d.Revoke(t.Context(), "late", "sold"); err != nil {
		t.Error(err)
	}
}

// A verifier is let in at a leaf node where it is said where that is, and it is that one.
func TestLeaf(t *testing.T) {
	t.Parallel()
	p := begin(t)
	p.begun()
	w := p.wish("till")
	w.Leaf = "shop"
	issue := func(want error) {
		t.Helper()
		before := p.facts()
		if _, err := p.doors().Issue(t.Context(), w); !errors.Is(err, want) {
			t.Errorf("issued: %v, want %v", err, want)
		}
		if p.facts() != before {
			t.Error("the name was given away")
		}
	}
	issue(access.ErrLeafAway)
	p.config.Leaf = &access.Leaf{Push: p.broker.Push, Operate: p.broker.Setup}
	issue(access.ErrNoLeaf)
	dir := filepath.Join(t.TempDir(), "leaf")
	for range 2 {
		if err := p.doors().IssueLeaf(t.Context(), "shop", []string{"nats-leaf://127.0.0.1:7422"}, dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.doors().IssueLeaf(t.Context(), "shop", []string{"127.0.0.1"}, dir); !errors.Is(err, credentials.ErrHub) {
		t.Errorf("hangs on nothing: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 3 {
		t.Errorf("its folder holds %v, %v", left, err)
	}
	// As a client its credentials open nothing.
	if p.enters(filepath.Join(dir, credentials.LeafCreds), "shop") {
		t.Error("a leaf node comes in as a client")
	}
	// The broker itself is no leaf node.
	if _, err := p.doors().Issue(t.Context(), w); !errors.Is(err, jetstream.ErrMirrorChanged) {
		t.Errorf("issued at the broker: %v", err)
	}
	// It was recorded by then, and can be revoked where nobody says where it is, as far as that goes.
	p.config.Leaf = nil
	if err := p.doors().Heal(t.Context()); err != nil {
		t.Errorf("heal: %v", err)
	}
	if err := p.doors().Revoke(t.Context(), "till", "sold"); !errors.Is(err, access.ErrLeafAway) {
		t.Errorf("revoke: %v", err)
	}
	if err := p.doors().Revoke(t.Context(), "shop", "sold"); err != nil {
		t.Errorf("revoke: %v", err)
	}
	w = p.wish("late")
	w.Leaf = "shop"
	p.config.Leaf = &access.Leaf{Push: p.broker.Push, Operate: p.broker.Setup}
	issue(access.ErrNoLeaf)
}

// A stream that takes no more readers says so.
func TestFull(t *testing.T) {
	p := begin(t)
	err := p.broker.Setup(t.Context(), func(conn *nats.Conn) error {
		js, err := natsjs.New(conn)
		if err != nil {
			return err
		}
		stream, err := js.Stream(t.Context(), jetstream.StreamLedger)
		if err != nil {
			return err
		}
		config := stream.CachedInfo().Config
		config.MaxConsumers = 1
		_, err = js.UpdateStream(t.Context(), config)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	d := p.doors()
	if _, err := d.Issue(t.Context(), p.wish("one")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Issue(t.Context(), p.wish("two")); !errors.Is(err, jetstream.ErrReadersFull) {
		t.Errorf("issued: %v", err)
	}
}

// A credential that others could have put in the way of an earlier attempt's is not
// taken: whoever drew it would be let in.
func TestPlanted(t *testing.T) {
	p := begin(t)
	w := p.wish("edge")
	drawn, err := credentials.Draw(credentials.Grant{Name: w.Name, For: w.For})
	if err != nil {
		t.Fatal(err)
	}
	pending := w.Out + ".pending"
	if err := os.WriteFile(pending, drawn.Creds, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(pending, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := p.doors().Issue(t.Context(), w); !errors.Is(err, credentials.ErrNotOwn) || p.facts() != 0 {
		t.Errorf("issue: %v, %d facts", err, p.facts())
	}
	if err := os.Remove(pending); err != nil {
		t.Fatal(err)
	}
	if _, err := p.doors().Issue(t.Context(), w); err != nil || !p.enters(w.Out, "edge") {
		t.Error(err)
	}
}

// A broker that lost its accounts and consumers has them again as the ledger says.
func TestHeal(t *testing.T) {
	t.Parallel()
	p := begin(t)
	d := p.doors()
	for _, name := range []events.CredentialName{"in", "out"} {
		if _, err := d.Issue(t.Context(), p.wish(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Revoke(t.Context(), "out", ""); err != nil {
		t.Fatal(err)
	}
	if err := jetstream.RemoveReader(t.Context(), p.config.Conn, jetstream.StreamLedger, "in"); err != nil {
		t.Fatal(err)
	}
	// The broker believes the opposite.
	entries, err := d.List(t.Context())
	if err != nil || len(entries) != 2 {
		t.Fatal(entries, err)
	}
	in, out := entries[0].CredentialIssued, entries[1].CredentialIssued
	opened, err := p.config.Authority.Account(credentials.GrantOf(out), out.Account)
	if err != nil {
		t.Fatal(err)
	}
	shut, err := p.config.Authority.Revoked(in.Name, in.Account)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.broker.Push(t.Context(), opened, shut); err != nil {
		t.Fatal(err)
	}
	if err := d.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !p.enters(p.wish("in").Out, "in") || p.enters(p.wish("out").Out, "out") {
		t.Error("not as the ledger says")
	}
}
