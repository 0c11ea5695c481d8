// Package apitest runs a whole server for tests: the API in front, with the
// ledger, the views and the verifier behind it.
package apitest

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyledger/keyledger/api"
	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain/installation"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/events/memory"
	"github.com/keyledger/keyledger/events/seals"
	"github.com/keyledger/keyledger/events/wrapping"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/projections/audit"
	"github.com/keyledger/keyledger/projections/catalog"
	"github.com/keyledger/keyledger/projections/fleet"
	"github.com/keyledger/keyledger/projections/index"
	"github.com/keyledger/keyledger/projections/usage"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/recording"
)

// Ledger is what a server stands on: the ledger in memory, or on JetStream.
type Ledger interface {
	commands.Log
	projections.Source
	recording.Sink
	usage.BlockReader
	FollowUses(ctx context.Context, after events.Position, apply func([]events.UsesMessage) error) error
	LastUses(ctx context.Context) (events.Position, error)
	seals.EnvelopeStore
}

// Server is a server that answers.
type Server struct {
	t testing.TB
	// URL is its address, Owner the key of the installation's owner.
	URL, Owner string
	Ledger     Ledger
	Positions  events.Positions
	// Keys are the installation's own, and Subjects those of data subjects.
	Keys     *seals.Keys
	Subjects *seals.Subjects
	// Envelopes encrypt providers' secrets, by KEK.
	Envelopes *seals.Envelopes
	KEK       *wrapping.Keyset
	Config    api.Config
	API       *api.Server
	Handler   http.Handler
	// Recorder takes the uses.
	Recorder *recording.Recorder
	// Accesses are its access records.
	Accesses *Accesses
	// Log is what it logged so far.
	Log *Buffer
}

// Buffer is a log that may be read while it is written.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write appends.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Start runs a server on a ledger in memory, until the test ends.
func Start(t testing.TB, change ...func(*api.Config)) *Server {
	t.Helper()
	id := newID(t)
	return start(t, id, memory.New(id), change)
}

// StartEmbedded runs a server on a broker of its own, until the test ends.
func StartEmbedded(t testing.TB, change ...func(*api.Config)) *Server {
	t.Helper()
	ctx := context.Background()
	broker, err := embedded.Start(ctx, embedded.Config{Dir: t.TempDir()})
	must(t, err)
	t.Cleanup(broker.Shutdown)
	must(t, broker.Setup(ctx, func(conn *nats.Conn) error { return jetstream.EnsureStreams(ctx, conn, 1) }))
	id := newID(t)
	ledger, err := jetstream.New(jetstream.Config{Conn: broker.Conn(), Ledger: id, Replicas: 1, Logger: slog.New(slog.DiscardHandler)})
	must(t, err)
	return start(t, id, ledger, change)
}

func newID(t testing.TB) events.LedgerID {
	t.Helper()
	id, err := uuid.NewV7()
	must(t, err)
	return events.LedgerID(id)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func start(t testing.TB, id events.LedgerID, ledger Ledger, change []func(*api.Config)) *Server {
	t.Helper()
	owner, err := commands.NewOwner()
	must(t, err)
	must(t, commands.Begin(context.Background(), ledger, id, owner, installation.Signer{Name: "log", VerifierKey: "log+0+0"}, time.Now()))
	text, err := seals.NewKey()
	must(t, err)
	key, err := seals.ParseKey(text)
	must(t, err)
	keys, err := seals.Make(context.Background(), ledger, key, id)
	must(t, err)
	kek, err := wrapping.NewKeyset()
	must(t, err)
	return run(t, id, ledger, keys, kek, owner.Reveal(), "test", change)
}

// Beside runs another server on the ledger of one, until the test ends: with
// views, a verifier and an address of its own.
func Beside(t testing.TB, s *Server, change ...func(*api.Config)) *Server {
	t.Helper()
	return run(t, s.Positions.Ledger, s.Ledger, s.Keys, s.KEK, s.Owner, "beside", change)
}

func run(t testing.TB, id events.LedgerID, ledger Ledger, keys *seals.Keys, kek *wrapping.Keyset, owner string, name events.VerifierID, change []func(*api.Config)) *Server {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := newServer(t, id, ledger, keys, kek, owner)
	log := slog.New(slog.NewJSONHandler(s.Log, nil))

	idx, err := index.New(index.Config{Logger: log})
	must(t, err)
	configuration := commands.NewConfiguration()
	verifiers := newFleet(t, id)
	file := viewFiles(t, id)
	used, err := usage.Open(ctx, usage.Config{Path: file("usage"), Of: s.Positions, Blocks: ledger})
	must(t, err)
	browse, err := catalog.Open(ctx, catalog.Config{Path: file("catalog"), Of: s.Positions, UsagePath: file("usage")})
	must(t, err)
	audits, err := audit.Open(ctx, audit.Config{Path: file("audit"), Of: s.Positions})
	must(t, err)
	var wait sync.WaitGroup
	runners := follow(ctx, t, &wait, projections.Config{Source: ledger, Logger: log}, projections.Together("index", idx, configuration, verifiers), browse, audits)
	memory, catalogs, audited := runners[0], runners[1], runners[2]
	wait.Go(func() {
		_ = ledger.FollowUses(ctx, 0, func(blocks []events.UsesMessage) error { return used.Apply(ctx, blocks) })
	})
	recorder, err := recording.New(recording.Config{Ledger: id, Verifier: name, Sink: ledger, Logger: log})
	must(t, err)
	must(t, recorder.Start(ctx))
	s.Recorder = recorder
	s.Accesses = newAccesses(t, s.Positions, file("access"), name)
	review := openReports(ctx, t, file, audits)
	verifier, err := verify.New(verify.Config{
		Index: idx, Recorder: recorder, Fresh: memory.Fresh, WaitFor: memory.WaitFor, Missed: api.Missed(s.Accesses.gatherer),
	})
	must(t, err)
	service, err := commands.New(commands.Config{
		Log: ledger, Ledger: id, Configuration: configuration, Await: memory.WaitFor, Logger: log,
		Holders: holders(ledger, catalogs, browse), Taken: idx.Taken, Subjects: s.Subjects, Envelopes: s.Envelopes, Label: keys.Label,
	})
	must(t, err)
	s.Config = api.Config{
		Accesses: s.Accesses.gatherer, AccessLog: s.Accesses.view,
		Commands: service, Configuration: configuration, Catalog: browse, WaitForCatalog: catalogs.WaitFor,
		Audit: audits, WaitForAudit: audited.WaitFor, Reports: review, Usage: used, Last: ledger.Last, Verifier: verifier, Positions: s.Positions,
		Fleet: verifiers, LastUses: ledger.LastUses, Metrics: prometheus.NewRegistry(), Logger: log, Version: "test",
		Unseal: s.Subjects.Open, Providers: s.providers(),
	}
	for _, f := range change {
		f(&s.Config)
	}
	server, err := api.New(s.Config)
	must(t, err)
	for _, r := range runners {
		<-r.Ready()
	}
	for verifier.Stale() {
		time.Sleep(time.Millisecond)
	}
	s.API, s.Handler = server, server.Handler()
	front := httptest.NewServer(s.Handler)
	s.URL = front.URL
	t.Cleanup(func() {
		front.CloseClientConnections()
		front.Close()
		server.Close(context.Background())
		verifier.Close()
		if err := recorder.Close(context.Background()); err != nil {
			t.Error(err)
		}
		cancel()
		wait.Wait()
		for _, view := range []io.Closer{review, browse, audits, used} {
			if err := view.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return s
}

// newServer makes one with what seals, and nothing else yet.
func newServer(t testing.TB, id events.LedgerID, ledger Ledger, keys *seals.Keys, kek *wrapping.Keyset, owner string) *Server {
	return &Server{
		t: t, Owner: owner, Ledger: ledger, Positions: events.Positions{Ledger: id, Epoch: 1}, Log: &Buffer{},
		Keys: keys, Subjects: seals.NewSubjects(keys, ledger, id),
		KEK: kek, Envelopes: seals.NewEnvelopes(wrapping.Ring{Primary: kek}, ledger, id),
	}
}

// newFleet makes a view of verifiers, which hears of nobody by itself.
func newFleet(t testing.TB, id events.LedgerID) *fleet.View {
	t.Helper()
	v, err := fleet.New(fleet.Config{Ledger: id, MaxStaleness: verify.DefaultMaxStaleness})
	must(t, err)
	return v
}

// follow runs views until the context ends.
func follow(ctx context.Context, t testing.TB, wait *sync.WaitGroup, config projections.Config, views ...projections.View) []*projections.Runner {
	t.Helper()
	config.AskEvery = 50 * time.Millisecond
	runners := make([]*projections.Runner, len(views))
	for i, view := range views {
		config.View = view
		r, err := projections.NewRunner(config)
		must(t, err)
		runners[i] = r
		wait.Go(func() { _ = r.Run(ctx) })
	}
	return runners
}

// holders lists who holds a place as of the ledger's end.
func holders(ledger Ledger, catalogs *projections.Runner, browse *catalog.Catalog) func(context.Context, events.OrgID) ([]events.KeyID, error) {
	return func(ctx context.Context, org events.OrgID) ([]events.KeyID, error) {
		last, err := ledger.Last(ctx)
		if err != nil {
			return nil, err
		}
		if err := catalogs.WaitFor(ctx, last); err != nil {
			return nil, err
		}
		return browse.Holders(ctx, org, events.TimeOf(time.Now()))
	}
}

// Answer is what a request came back with.
type Answer struct {
	Status int
	Header http.Header
	Body   string
}

// Do sends a request; headers are name, value, name, value. A body goes as JSON
// unless a Content-Type is among them.
func (s *Server) Do(key, method, path, body string, headers ...string) Answer {
	s.t.Helper()
	req, err := http.NewRequest(method, s.URL+path, strings.NewReader(body))
	must(s.t, err)
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	must(s.t, err)
	defer res.Body.Close()
	out, err := io.ReadAll(res.Body)
	must(s.t, err)
	return Answer{Status: res.StatusCode, Header: res.Header, Body: string(out)}
}

// Seals has something sealed of a data subject, so that it can be erased.
func (s *Server) Seals(org, subject string) {
	s.t.Helper()
	_, err := s.Subjects.Sealer(s.t.Context(), events.OrgID(org), events.DataSubject(subject))
	must(s.t, err)
}

// Must sends a request and expects a status.
func (s *Server) Must(want int, key, method, path, body string, headers ...string) Answer {
	s.t.Helper()
	a := s.Do(key, method, path, body, headers...)
	if a.Status != want {
		s.t.Fatalf("%s %s: %d %s, want %d", method, path, a.Status, a.Body, want)
	}
	return a
}

// Serve hands a request to the server's handler, with no network in between.
func (s *Server) Serve(key, method, path string, body []byte) Answer {
	req := httptest.NewRequest(method, path, bytes.NewReader(body))
	req.Header.Set("Authorization", "Bearer "+key)
	if len(body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	s.Handler.ServeHTTP(w, req)
	return Answer{Status: w.Code, Header: w.Header(), Body: w.Body.String()}
}
