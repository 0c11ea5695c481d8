// Package doors tries to get in: with every kind of credential, and with the
// server's own, by what it may ask for and by where it wants the answer. What the
// streams hold afterwards must be what they held before, byte for byte.
package doors

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
	"github.com/keyledger/keyledger/events/clustertest"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/events/presence"
	"github.com/keyledger/keyledger/events/snapshots"
)

var ledgerID = events.LedgerID(uuid.MustParse("0198c0de-0000-7000-8000-00000000001d"))

// world is a broker with a ledger on it, and those who are let in.
type world struct {
	*testing.T
	authority *credentials.Authority
	// url is where outsiders come in.
	url string
	// server and operator are connections of these two.
	server, operator *nats.Conn
	push             func(...credentials.Account)
	ledger           *jetstream.Ledger
	replicas         int
	// own are the names of those who have tried.
	own []string
	// doubted says that the outcome of something appended was not known.
	doubted bool
	// waiting is where an acknowledgement is waited for, from somebody else.
	waiting string
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run runs the tests, and ends the three nodes that they share.
func run(m *testing.M) int {
	defer nodes.end()
	return m.Run()
}

// both runs a test on one node and on three.
func both(t *testing.T, f func(*world)) {
	t.Run("one node", func(t *testing.T) {
		t.Parallel()
		f(oneNode(t))
	})
	t.Run("three nodes", func(t *testing.T) {
		t.Parallel()
		f(threeNodes(t))
	})
}

// nodes are the three nodes. A test has them to itself, and its streams are new.
var nodes lasting

// lasting is the test that began the nodes, but for what must last longer than that
// test does.
type lasting struct {
	testing.TB
	once    sync.Once
	cluster *clustertest.Cluster
	ends    []func()
}

// in gives a test the nodes.
func (l *lasting) in(t *testing.T) *clustertest.Cluster {
	t.Helper()
	l.once.Do(func() {
		l.TB = t
		l.cluster = clustertest.Start(l)
	})
	if l.cluster == nil {
		t.Fatal("the nodes did not begin; another test says why")
	}
	return l.cluster.In(t)
}

func (l *lasting) Cleanup(end func()) { l.ends = append(l.ends, end) }

func (l *lasting) TempDir() string {
	dir, err := os.MkdirTemp("", "doors")
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { sweep(dir) })
	return dir
}

func (l *lasting) end() {
	for _, end := range slices.Backward(l.ends) {
		end()
	}
}

func oneNode(t *testing.T) *world {
	t.Helper()
	b, err := embedded.Start(t.Context(), embedded.Config{Dir: folder(t), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Shutdown)
	w := &world{T: t, authority: b.Authority(), url: "nats://" + b.Addr().String(), server: b.Conn(), replicas: 1}
	w.operator = w.as(credentials.OperatorCreds)
	w.push = func(accounts ...credentials.Account) {
		t.Helper()
		if err := b.Push(t.Context(), accounts...); err != nil {
			t.Fatal(err)
		}
	}
	if err := jetstream.EnsureStreams(t.Context(), w.operator, 1); err != nil {
		t.Fatal(err)
	}
	return w.furnish()
}

// folder is a temporary one. A broker that has ended may still sweep up behind
// batches that nobody committed.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "doors")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sweep(dir) })
	return dir
}

func sweep(dir string) {
	for range 50 {
		if os.RemoveAll(dir) == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func threeNodes(t *testing.T) *world {
	t.Helper()
	c := nodes.in(t)
	c.Begin()
	system := c.System()
	// Outsiders come in where no stream is led: what they ask for crosses a wire.
	outside := (c.Leader(jetstream.StreamLedger) + 1) % clustertest.Nodes
	w := &world{
		T: t, authority: c.Authority(), url: c.URL(outside), server: c.Connect(outside), operator: c.Operator(),
		replicas: clustertest.Nodes,
	}
	w.push = func(accounts ...credentials.Account) {
		t.Helper()
		if err := credentials.Push(t.Context(), system, clustertest.Nodes, accounts...); err != nil {
			t.Fatal(err)
		}
	}
	return w.furnish()
}

// furnish fills the streams with something to steal and to spoil.
func (w *world) furnish() *world {
	w.Helper()
	var err error
	w.ledger, err = jetstream.New(jetstream.Config{Conn: w.server, Ledger: ledgerID, Replicas: w.replicas})
	if err != nil {
		w.Fatal(err)
	}
	w.eventually(func() error { return w.ledger.CheckStreams(w.Context()) })
	for _, org := range []events.OrgID{"acme", "globex"} {
		for i := range 3 {
			w.append(entry(events.WorkspaceSubject(org, events.WorkspaceID(fmt.Sprint("w", i))),
				events.WorkspaceCreated{ID: events.WorkspaceID(fmt.Sprint("w", i)), Name: events.ClearText("w")}))
		}
		id := events.KeyID(uuid.Must(uuid.NewV7()))
		w.append(entry(events.RevokedSubject(org, id), events.KeyRevoked{}))
		w.uses(org, "other", "block of "+string(org))
		record := access.Message{Subject: access.Subject(org, access.LoginFailed), ID: uuid.NewString(), Body: []byte("record of " + string(org))}
		w.eventually(func() error { return w.ledger.PublishAccess(w.Context(), []access.Message{record}) })
	}
	for _, scope := range []events.ScopeLabel{"", acmeScope} {
		m := snapshots.Manifest{
			Ledger: ledgerID, Scope: scope, Position: 1, Stored: 1, Projection: 1, Size: 3, Chunks: 1, CreatedAt: 1,
			Digest: sha256.Sum256([]byte("all")),
		}
		if scope != "" {
			m.Organizations = []events.OrgID{"acme"}
		}
		w.eventually(func() error { return w.ledger.PublishSnapshot(w.Context(), m, strings.NewReader("all")) })
	}
	w.eventually(func() error {
		return w.ledger.PublishPresence(w.Context(), presence.Message{Subject: presence.Subject("other"), ID: "1", Body: []byte("here")})
	})
	w.eventually(func() error {
		_, err := w.operator.Request("seals.installation.signing", []byte("sealed"), 5*time.Second)
		return err
	})
	return w
}

// eventually does what the nodes may not agree on at once.
func (w *world) eventually(do func() error) {
	w.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		err := do()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.Fatal(err)
		}
	}
}

func entry(subject events.Subject, event events.Event) events.Entry {
	return events.Entry{Subject: subject, Event: event, Expect: events.Expect(subject, 0), Meta: events.Meta{
		ID: events.EventID(uuid.Must(uuid.NewV7())), Ledger: ledgerID, Time: events.TimeOf(time.Now()), Revision: 1,
		Actor: events.Actor{Type: events.ActorSystem, Name: "test"}, Command: events.CommandID(uuid.New()),
	}}
}

// append stores what nobody else does, however long the nodes take to agree on it.
func (w *world) append(entries ...events.Entry) {
	w.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; {
		_, err := w.ledger.Append(w.Context(), entries)
		unknown := errors.Is(err, events.ErrOutcomeUnknown) || errors.Is(err, events.ErrUnavailable)
		if err == nil || errors.Is(err, events.ErrConflict) && w.doubted {
			return // it was stored when nothing was heard of it
		}
		if w.doubted = true; !unknown || time.Now().After(deadline) {
			w.Fatal(err)
		}
	}
}

func (w *world) uses(org events.OrgID, by events.VerifierID, body string) {
	w.Helper()
	message := events.UsesMessage{Subject: events.UsesSubject(org, by), ID: uuid.NewString(), Body: []byte(body)}
	w.eventually(func() error { return w.ledger.PublishUses(w.Context(), []events.UsesMessage{message}) })
}

// as connects with one of the installation's own credentials.
func (w *world) as(creds string) *nats.Conn {
	w.Helper()
	secret, err := w.authority.Creds(creds)
	if err != nil {
		w.Fatal(err)
	}
	return w.connect(nats.UserCredentialBytes(secret))
}

func (w *world) connect(options ...nats.Option) *nats.Conn {
	w.Helper()
	conn, err := nats.Connect(w.url, append(options, nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond),
		// Being refused is what is tried here.
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))...)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(conn.Close)
	return conn
}

// acmeScope is the label of who sees acme alone.
const acmeScope events.ScopeLabel = "aa112233445566778899aabbccddeeff"

// verifier, subscriber and auditor are what programs are let in for.
func grant(name events.CredentialName, kind events.CredentialKind, orgs ...events.OrgID) credentials.Grant {
	g := credentials.Grant{Name: name, For: kind, Organizations: orgs}
	if len(orgs) > 0 && kind != events.CredentialSubscriber {
		g.Scope = "00112233445566778899aabbccddeeff"
		if slices.Equal(orgs, []events.OrgID{"acme"}) {
			g.Scope = acmeScope
		}
	}
	return g
}

// admit lets a program in as it is done, and returns its credentials.
func (w *world) admit(g credentials.Grant) []byte {
	w.Helper()
	issued, err := credentials.Draw(g)
	if err != nil {
		w.Fatal(err)
	}
	w.open(g, issued.Account)
	return issued.Creds
}

func (w *world) open(g credentials.Grant, public string) {
	w.Helper()
	account, err := w.authority.Account(g, public)
	if err != nil {
		w.Fatal(err)
	}
	for _, r := range g.Readers(ledgerID) {
		w.eventually(func() error { return jetstream.EnsureReader(w.Context(), w.server, r) })
	}
	w.push(account)
}

// admitBare lets a program in whose user may do whatever his account may: what the
// account alone keeps out.
func (w *world) admitBare(g credentials.Grant) nats.Option {
	w.Helper()
	account := must(w.T, nkeys.CreateAccount)
	public := must(w.T, account.PublicKey)
	w.open(g, public)
	return user(w.T, account, jwt.Permissions{})
}

// inside is a user in the account that holds the streams, which nobody gets.
func (w *world) inside(publish ...string) nats.Option {
	w.Helper()
	secret, err := w.authority.Creds("ledger.nk")
	if err != nil {
		w.Fatal(err)
	}
	account, err := nkeys.FromSeed(bytes.TrimSpace(secret))
	if err != nil {
		w.Fatal(err)
	}
	var may jwt.Permissions
	may.Pub.Allow.Add(publish...)
	may.Sub.Allow.Add("_INBOX.>")
	return user(w.T, account, may)
}

func user(t testing.TB, account nkeys.KeyPair, may jwt.Permissions) nats.Option {
	t.Helper()
	key := must(t, nkeys.CreateUser)
	claims := jwt.NewUserClaims(must(t, key.PublicKey))
	claims.Permissions = may
	token, err := claims.Encode(account)
	if err != nil {
		t.Fatal(err)
	}
	return nats.UserJWTAndSeed(token, string(must(t, key.Seed)))
}

func must[T any](t testing.TB, f func() (T, error)) T {
	t.Helper()
	v, err := f()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// state is what the streams hold, are configured as, and who reads them how far.
type state struct {
	messages []line
	configs  []string
	acked    []line
}

// line tells of a message or a reader, and who may change it: whose uses and presence
// it is, or who reads.
type line struct{ of, text string }

// but leaves out what some may change.
func but(lines []line, names []string) (out []string) {
	for _, l := range lines {
		if !slices.Contains(names, l.of) {
			out = append(out, l.text)
		}
	}
	return out
}

type consumer struct {
	Name   string          `json:"name"`
	Config json.RawMessage `json:"config"`
	Floor  struct {
		Stream uint64 `json:"stream_seq"`
	} `json:"ack_floor"`
}

// look reads all of it.
func (w *world) look() state {
	w.Helper()
	var s state
	for _, stream := range jetstream.Streams() {
		var info struct {
			Config json.RawMessage `json:"config"`
			State  struct {
				First uint64 `json:"first_seq"`
				Last  uint64 `json:"last_seq"`
			} `json:"state"`
		}
		w.ask("$JS.API.STREAM.INFO."+stream, "", &info)
		s.configs = append(s.configs, stream+" "+string(info.Config))
		for seq := max(1, info.State.First); seq <= info.State.Last; seq++ {
			var got struct {
				Message struct {
					Seq     uint64 `json:"seq"`
					Subject string `json:"subject"`
					Header  []byte `json:"hdrs"`
					Data    []byte `json:"data"`
					Time    string `json:"time"`
				} `json:"message"`
			}
			w.ask("$JS.API.STREAM.MSG.GET."+stream, fmt.Sprintf(`{"seq":%d,"next_by_subj":">"}`, seq), &got)
			m := got.Message
			// Of one who announces himself often the first are gone.
			seq = m.Seq
			place, of := fmt.Sprint(seq), ""
			if stream == jetstream.StreamUses || stream == jetstream.StreamPresence {
				// Its place depends on what those who try record under their own names.
				place, of = "", m.Subject[strings.LastIndex(m.Subject, ".")+1:]
			}
			s.messages = append(s.messages, line{of, fmt.Sprintf("%s %s %s %s %q %q", stream, place, m.Time, m.Subject, m.Header, m.Data)})
		}
		var list struct {
			Consumers []consumer `json:"consumers"`
		}
		w.ask("$JS.API.CONSUMER.LIST."+stream, "", &list)
		slices.SortFunc(list.Consumers, func(a, b consumer) int { return strings.Compare(a.Name, b.Name) })
		for _, c := range list.Consumers {
			s.configs = append(s.configs, stream+" "+c.Name+" "+string(c.Config))
			s.acked = append(s.acked, line{c.Name, fmt.Sprint(stream, " ", c.Name, " ", c.Floor.Stream)})
		}
	}
	return s
}

// ask asks as the operator until there is an answer.
func (w *world) ask(subject, body string, into any) {
	w.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		msg, err := w.operator.Request(subject, []byte(body), 5*time.Second)
		if err == nil && !bytes.Contains(msg.Data, []byte(`"error"`)) {
			if err := json.Unmarshal(msg.Data, into); err != nil {
				w.Fatal(err)
			}
			return
		}
		if time.Now().After(deadline) {
			if msg != nil {
				w.Logf("answer: %s", msg.Data)
			}
			w.Fatalf("%s: %v", subject, err)
		}
	}
}
