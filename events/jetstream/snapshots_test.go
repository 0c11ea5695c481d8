package jetstream_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/clustertest"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/events/presence"
	"github.com/keyledger/keyledger/events/snapshots"
	"github.com/keyledger/keyledger/events/uses"
)

const scope events.ScopeLabel = "00112233445566778899aabbccddeeff"

// onOne runs a test on one node, with a ledger over a connection that has a server's
// rights, and one that may do everything.
func onOne(t *testing.T, f func(*testing.T, *jetstream.Ledger, *nats.Conn)) {
	t.Helper()
	b, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Shutdown)
	if err := setUp(t, b); err != nil {
		t.Fatal(err)
	}
	secret, err := b.Authority().Creds(credentials.OperatorCreds)
	if err != nil {
		t.Fatal(err)
	}
	operator, err := nats.Connect("nats://"+b.Addr().String(), nats.UserCredentialBytes(secret))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(operator.Close)
	f(t, ledger(t, b.Conn()), operator)
}

// onThree is the same on three nodes, over a connection to one that does not lead.
func onThree(f func(*testing.T, *jetstream.Ledger, *nats.Conn)) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		conn := c.Connect((c.Leader(jetstream.StreamSnapshots) + 1) % clustertest.Nodes)
		f(t, ledgerOver(t, conn, 0), c.Operator())
	}
}

// snapshot is one of so many bytes at a position, and its manifest.
func snapshot(scope events.ScopeLabel, at events.Position, size int) (snapshots.Manifest, []byte) {
	content := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(at)}).Read(content)
	m := snapshots.Manifest{
		Ledger: ledgerID, Scope: scope, Position: at, Stored: 1, Projection: 1, Size: int64(size), Digest: sha256.Sum256(content),
		Chunks: (size + snapshots.ChunkBytes - 1) / snapshots.ChunkBytes, CreatedAt: 2, Signature: "signed",
	}
	if scope != "" {
		m.Organizations = []events.OrgID{"acme"}
	}
	return m, content
}

// spooled keeps what a reader is handed.
type spooled struct {
	bytes.Buffer
	closed int
}

func (s *spooled) Close() error {
	s.closed++
	return nil
}

// spools keeps it for each snapshot that was begun, by its side.
type spools map[string]*spooled

func (s spools) spool(m snapshots.Manifest) (io.WriteCloser, error) {
	s[m.Side] = &spooled{}
	return s[m.Side], nil
}

// snapshotReader is the reader of a credential, whose snapshots are a scope's.
func snapshotReader(t *testing.T, conn *nats.Conn, name string, scope events.ScopeLabel) *jetstream.Reader {
	t.Helper()
	facts := jetstream.ReaderSpec{Ledger: ledgerID, Stream: jetstream.StreamLedger, Name: name, Scope: string(scope)}
	if scope != "" {
		facts.Subjects = []string{"ledger.0001.acme.>"}
	}
	return reader(t, conn, facts)
}

// reads checks that a reader's snapshot is a certain one.
func reads(t *testing.T, r *jetstream.Reader, want snapshots.Manifest, content []byte) {
	t.Helper()
	var kept spools
	var got snapshots.Manifest
	// On a cluster it takes a moment to be where it is read.
	for deadline := time.Now().Add(30 * time.Second); got.Position != want.Position; time.Sleep(50 * time.Millisecond) {
		var err error
		kept = spools{}
		if got, err = r.Snapshot(t.Context(), kept.spool); time.Now().After(deadline) {
			t.Fatalf("read %d: %v", got.Position, err)
		}
	}
	if got.Text() != want.Text() || got.Signature != want.Signature || !bytes.Equal(kept[got.Side].Bytes(), content) {
		t.Errorf("read the snapshot at %d instead of %d, or not all of it", got.Position, want.Position)
	}
	for side, s := range kept {
		if s.closed != 1 {
			t.Errorf("side %s was closed %d times", side, s.closed)
		}
	}
}

// refuses checks that a reader comes to get an error instead of a snapshot: on a
// cluster a node may lag that is asked.
func refuses(t *testing.T, r *jetstream.Reader, want error) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		m, err := r.Snapshot(t.Context(), spools{}.spool)
		if errors.Is(err, want) {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("read %+v: %v; want %v", m, err, want)
			return
		}
	}
}

func TestSnapshots(t *testing.T) { onOne(t, snapshotsAreRead) }

func snapshotsAreRead(t *testing.T, l *jetstream.Ledger, conn *nats.Conn) {
	all, part := snapshotReader(t, conn, "all", ""), snapshotReader(t, conn, "part", scope)
	none := func(r *jetstream.Reader) {
		t.Helper()
		kept := spools{}
		if m, err := r.Snapshot(t.Context(), kept.spool); !errors.Is(err, jetstream.ErrNoSnapshot) {
			t.Errorf("read %+v: %v", m, err)
		}
	}
	none(all)
	if _, there, err := l.SnapshotManifest(t.Context(), ""); there || err != nil {
		t.Fatalf("there is one: %v", err)
	}
	var first snapshots.Manifest
	// More than are asked for at a time, exactly full chunks, and less than one.
	for i, size := range []int{70*snapshots.ChunkBytes + 1, snapshots.ChunkBytes, 1} {
		m, content := snapshot("", events.Position(i+1), size)
		if err := l.PublishSnapshot(t.Context(), m, bytes.NewReader(content)); err != nil {
			t.Fatal(err)
		}
		reads(t, all, m, content)
		none(part)
		got, there, err := l.SnapshotManifest(t.Context(), "")
		if err != nil || !there || got.Text() != m.Text() || got.Side == first.Side {
			t.Errorf("manifest: %+v, %v", got, err)
		}
		first = got
	}
	m, content := snapshot(scope, 9, 3*snapshots.ChunkBytes)
	if err := l.PublishSnapshot(t.Context(), m, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	reads(t, part, m, content)
	m, content = snapshot("", 3, 1)
	reads(t, all, m, content)
	// What was replaced takes no room: the manifests, and what they are of.
	if held := messages(t, conn, jetstream.StreamSnapshots); held != 1+1+1+3 {
		t.Errorf("%d messages are held", held)
	}
}

func messages(t *testing.T, conn *nats.Conn, stream string) int {
	t.Helper()
	answer, err := conn.Request("$JS.API.STREAM.INFO."+stream, nil, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var held int
	if _, err := fmt.Sscanf(string(answer.Data[bytes.Index(answer.Data, []byte(`"messages":`)):]), `"messages":%d`, &held); err != nil {
		t.Fatal(err)
	}
	return held
}

// What is not stored to its end, or is not what it should be, is there for nobody,
// and leaves nothing behind: the one before is.
func TestHalfASnapshot(t *testing.T) {
	t.Parallel()
	onOne(t, halfASnapshot)
}

func halfASnapshot(t *testing.T, l *jetstream.Ledger, conn *nats.Conn) {
	r := snapshotReader(t, conn, "all", "")
	m, content := snapshot("", 1, 2*snapshots.ChunkBytes)
	if err := l.PublishSnapshot(t.Context(), m, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	next, later := snapshot("", 2, 3*snapshots.ChunkBytes)
	wrong := next
	wrong.Digest[0]++
	for what, try := range map[string]struct {
		m snapshots.Manifest
		r io.Reader
	}{
		"short":  {next, bytes.NewReader(later[:len(later)-1])},
		"long":   {next, bytes.NewReader(append(slices.Clone(later), 0))},
		"wrong":  {wrong, bytes.NewReader(later)},
		"broken": {next, io.MultiReader(bytes.NewReader(later[:snapshots.ChunkBytes+1]), failing{})},
	} {
		if err := l.PublishSnapshot(t.Context(), try.m, try.r); !errors.Is(err, jetstream.ErrNotTheBytes) {
			t.Errorf("%s: %v", what, err)
		}
		reads(t, r, m, content)
		if held := messages(t, conn, jetstream.StreamSnapshots); held != 3 {
			t.Errorf("%s: %d messages are held", what, held)
		}
	}
	// As a crash leaves it: the next one removes it.
	for n := range 2 {
		plant(t, conn, snapshots.ChunkSubject("", "crashed", n), later[:snapshots.ChunkBytes])
	}
	reads(t, r, m, content)
	if err := l.PublishSnapshot(t.Context(), next, bytes.NewReader(later)); err != nil {
		t.Fatal(err)
	}
	reads(t, r, next, later)
	if held := messages(t, conn, jetstream.StreamSnapshots); held != 4 {
		t.Errorf("%d messages are held", held)
	}
	// A chunk that was spoilt, and a manifest that is none.
	side := manifest(t, l).Side
	plant(t, conn, snapshots.ChunkSubject("", side, 1), later[:snapshots.ChunkBytes])
	refuses(t, r, events.ErrUnavailable)
	plant(t, conn, snapshots.ManifestSubject(""), []byte("{}"))
	if _, there, err := l.SnapshotManifest(t.Context(), ""); there || err != nil {
		t.Errorf("there is one: %v", err)
	}
	refuses(t, r, jetstream.ErrNoSnapshot)
	if err := l.PublishSnapshot(t.Context(), m, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	reads(t, r, m, content)
}

// meanwhile reads as a reader does, and has something done before the first byte.
type meanwhile struct {
	io.Reader
	once sync.Once
	do   func()
}

func (m *meanwhile) Read(b []byte) (int, error) {
	m.once.Do(m.do)
	return m.Reader.Read(b)
}

// Of two servers that store at a time, whoever is first has stored one: the other's
// comes to nothing, and spoils nothing.
func TestSnapshotMeanwhile(t *testing.T) { onOne(t, snapshotMeanwhile) }

func snapshotMeanwhile(t *testing.T, l *jetstream.Ledger, conn *nats.Conn) {
	late, content := snapshot("", 1, 3*snapshots.ChunkBytes)
	first, other := snapshot("", 2, 2*snapshots.ChunkBytes)
	err := l.PublishSnapshot(t.Context(), late, &meanwhile{Reader: bytes.NewReader(content), do: func() {
		if err := l.PublishSnapshot(t.Context(), first, bytes.NewReader(other)); err != nil {
			t.Error(err)
		}
	}})
	if !errors.Is(err, events.ErrConflict) {
		t.Errorf("the late one: %v", err)
	}
	reads(t, snapshotReader(t, conn, "r", ""), first, other)
	if held := messages(t, conn, jetstream.StreamSnapshots); held != 3 {
		t.Errorf("%d messages are held", held)
	}
}

// Whoever does not want it, by what its manifest says, reads nothing of it.
func TestUnwantedSnapshot(t *testing.T) {
	all, _ := open(t)
	conn := all()
	l := ledger(t, conn)
	m, content := snapshot("", 1, 1)
	if err := l.PublishSnapshot(t.Context(), m, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	unwanted := errors.New("too old")
	_, err := snapshotReader(t, conn, "r", "").Snapshot(t.Context(), func(got snapshots.Manifest) (io.WriteCloser, error) {
		if got.Text() != m.Text() {
			t.Errorf("it is offered %+v", got)
		}
		return nil, unwanted
	})
	if !errors.Is(err, unwanted) {
		t.Errorf("read: %v", err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("the disk is gone") }

func manifest(t *testing.T, l *jetstream.Ledger) snapshots.Manifest {
	t.Helper()
	m, there, err := l.SnapshotManifest(t.Context(), "")
	if err != nil || !there {
		t.Fatalf("no manifest: %v", err)
	}
	return m
}

// Servers that store at a time, and readers that read meanwhile: whatever is read is
// whole, and of those who begin together one wins.
func TestSnapshotsAtATime(t *testing.T) { onOne(t, snapshotsAtATime) }

func snapshotsAtATime(t *testing.T, l *jetstream.Ledger, conn *nats.Conn) {
	first, content := snapshot("", 1, 5*snapshots.ChunkBytes)
	if err := l.PublishSnapshot(t.Context(), first, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	const writers, rounds = 3, 3
	var writing, reading sync.WaitGroup
	var mu sync.Mutex
	stored := map[events.Position]bool{1: true}
	for w := range writers {
		writing.Go(func() {
			for round := range rounds {
				m, content := snapshot("", events.Position(2+round*writers+w), (5+w)*snapshots.ChunkBytes)
				err := l.PublishSnapshot(t.Context(), m, bytes.NewReader(content))
				if err != nil && !errors.Is(err, events.ErrConflict) {
					t.Error(err)
				}
				mu.Lock()
				stored[m.Position] = stored[m.Position] || err == nil
				mu.Unlock()
			}
		})
	}
	done := make(chan struct{})
	for i := range 2 {
		r := snapshotReader(t, conn, fmt.Sprint("r", i), "")
		reading.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(5 * time.Millisecond):
				}
				kept := spools{}
				m, err := r.Snapshot(t.Context(), kept.spool)
				// It may be replaced faster than anybody can read.
				if err != nil && !errors.Is(err, events.ErrUnavailable) && !errors.Is(err, jetstream.ErrNoSnapshot) {
					t.Error(err)
				}
				if err == nil && sha256.Sum256(kept[m.Side].Bytes()) != m.Digest {
					t.Error("read what is not what its manifest says")
				}
			}
		})
	}
	writing.Wait()
	close(done)
	reading.Wait()
	m := manifest(t, l)
	if !stored[m.Position] {
		t.Errorf("the last one, at %d, was refused", m.Position)
	}
	_, content = snapshot("", m.Position, int(m.Size))
	reads(t, snapshotReader(t, conn, "after", ""), m, content)
	if held := messages(t, conn, jetstream.StreamSnapshots); held != 1+m.Chunks {
		t.Errorf("%d messages are held, of one snapshot of %d chunks", held, m.Chunks)
	}
}

func announcement(verifier events.VerifierID, n uint64) presence.Announcement {
	return presence.Announcement{
		Ledger: ledgerID, Verifier: verifier, Boot: uses.BootID{1}, Number: n, Kind: presence.Sidecar, StartedAt: 1,
		Staleness: -1, MaxStaleness: 30_000, Lease: 15_000, Applied: events.Position(n),
	}
}

// Of each verifier the last announcements are kept, and whoever follows goes on
// behind what has ended.
func TestPresence(t *testing.T) { onOne(t, presenceIsKept) }

func presenceIsKept(t *testing.T, l *jetstream.Ledger, conn *nats.Conn) {
	r := reader(t, conn, spec("v1"))
	announce := func(publish func(context.Context, presence.Message) error, verifier events.VerifierID, from, to uint64) {
		t.Helper()
		for n := from; n <= to; n++ {
			a := announcement(verifier, n)
			m, err := presence.Encode(&a)
			if err != nil {
				t.Fatal(err)
			}
			// Stored twice under its id, it is there once.
			for range 1 + n%2 {
				if err := publish(t.Context(), m); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	follow := func(after events.Position, want int) (seen []string, last events.Position) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		enough := errors.New("enough")
		err := l.FollowPresence(ctx, after, func(list []presence.Message) error {
			for _, m := range list {
				a, err := presence.Decode(ledgerID, m)
				if err != nil {
					return err
				}
				seen, last = append(seen, fmt.Sprint(a.Verifier, " ", a.Number)), m.Position
				if m.Stored.IsZero() {
					t.Error("it has no time")
				}
			}
			if len(seen) >= want {
				return enough
			}
			return nil
		})
		if !errors.Is(err, enough) || len(seen) != want {
			t.Fatalf("%d of %d came: %v", len(seen), want, err)
		}
		return seen, last
	}
	announce(l.PublishPresence, "server", 1, 2)
	_, met := follow(0, 2)
	announce(r.PublishPresence, "v1", 1, 100)
	seen, last := follow(met, 64)
	if seen[0] != "v1 37" || seen[63] != "v1 100" {
		t.Errorf("%v", seen)
	}
	if seen, _ := follow(0, 66); seen[0] != "server 1" {
		t.Errorf("%v", seen)
	}
	if got, err := l.LastPresence(t.Context()); err != nil || got != last {
		t.Errorf("it ends at %d instead of %d: %v", got, last, err)
	}
	err := l.PublishPresence(t.Context(), presence.Message{Subject: "presence.v1", ID: "x", Body: make([]byte, presence.MaxBytes+1)})
	if !errors.Is(err, events.ErrTooLarge) {
		t.Errorf("too long: %v", err)
	}
	if err := l.CheckStreams(t.Context()); err != nil {
		t.Error(err)
	}
}

// A credential's verifier stores its uses as the server does.
func TestReaderPublishesUses(t *testing.T) {
	b := begin(t, t.TempDir())
	r := reader(t, b.Conn(), spec("v1"))
	var blocks []events.UsesMessage
	for range 12 {
		blocks = append(blocks, events.UsesMessage{Subject: events.UsesSubject("acme", "v1"), ID: uuid.NewString(), Body: []byte("block")})
	}
	for range 2 {
		if err := r.PublishUses(t.Context(), blocks); err != nil {
			t.Fatal(err)
		}
	}
	if last, err := ledger(t, b.Conn()).LastUses(t.Context()); err != nil || last != 12 {
		t.Errorf("the uses end at %d: %v", last, err)
	}
}
