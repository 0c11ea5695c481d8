package many

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/keyledger/cmd/access"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/events/presence"
	"github.com/keyledger/keyledger/events/snapshots"
	"github.com/keyledger/keyledger/events/uses"
	"github.com/keyledger/keyledger/integration/natstest"
)

// issue lets a verifier in, as nats-auth does, and returns its file.
func (w *world) issue(leafURL string, wish access.Wish) string {
	w.Helper()
	wish.For, wish.Out = events.CredentialVerifier, filepath.Join(w.TempDir(), string(wish.Name)+".creds")
	w.doors(leafURL, func(d *access.Doors) error {
		_, err := d.Issue(w.Context(), wish)
		return err
	})
	return wish.Out
}

// nodeOf is the one node that a stream lies on.
func (w *world) nodeOf(stream string) int {
	w.Helper()
	operator := w.connect(w.cluster.URL(0), filepath.Join(w.auth, credentials.OperatorCreds))
	js, err := natsjs.New(operator)
	if err != nil {
		w.Fatal(err)
	}
	node := 0
	w.until("a node with "+stream, func() error {
		s, err := js.Stream(w.Context(), stream)
		if err != nil {
			return err
		}
		_, err = fmt.Sscanf(s.CachedInfo().Cluster.Leader, "nats-%d", &node)
		return err
	})
	return node - 1
}

// A mirror shows what the ledger shows, where it stands there. One whose node is gone
// shows nothing more, while those who read the ledger itself go on, and nothing is
// missing when it is back.
func TestMirror(t *testing.T) {
	w := begin(t)
	w.doors("", func(d *access.Doors) error { return d.MakeMirror(t.Context(), "west", 1) })
	c := w.cluster
	node := w.nodeOf(jetstream.MirrorStream("west"))
	elsewhere := c.URL((node + 1) % natstest.Nodes)
	direct := w.read(elsewhere, w.issue("", access.Wish{Name: "direct"}), "direct")
	mirrored := w.read(elsewhere, w.issue("", access.Wish{Name: "mirrored", Mirror: "west"}), "mirrored")
	var last events.Position
	for range 20 {
		last, _ = w.revoke()
	}
	w.reaches(direct, last)
	w.reaches(mirrored, last)
	c.Kill(node)
	stood := mirrored.last()
	for range 20 {
		last, _ = w.revoke()
	}
	w.reaches(direct, last)
	if now := mirrored.last(); now != stood {
		t.Errorf("it came from %d to %d by a mirror that is gone", stood, now)
	}
	c.Restart(node)
	w.reaches(mirrored, last)
	w.alike(direct, mirrored)
	w.doors("", func(d *access.Doors) error {
		mirrors, err := d.Mirrors(t.Context())
		if err == nil && (len(mirrors) != 1 || mirrors[0].Readers != 1 || mirrors[0].Lag != 0) {
			err = errors.New("it does not stand as it should")
			t.Logf("%+v", mirrors)
		}
		return err
	})
}

// At a leaf node verifiers read the same ledger, and what they record, say of
// themselves and ask for goes through it: their own, and no other's. It goes on where
// it was after it was away, and ends when it is revoked.
func TestLeaf(t *testing.T) {
	w := begin(t)
	folder := t.TempDir()
	w.doors("", func(d *access.Doors) error { return d.IssueLeaf(t.Context(), "shop", w.cluster.Hubs(), folder) })
	leaf := natstest.ReserveLeaf(t)
	leaf.Start(folder)
	direct := w.read(w.cluster.URL(0), w.issue("", access.Wish{Name: "direct"}), "direct")
	creds := w.issue(leaf.URL(0), access.Wish{Name: "till", Leaf: "shop"})
	till := w.read(leaf.URL(0), creds, "till")
	var last events.Position
	for range 20 {
		last, _ = w.revoke()
	}
	w.reaches(direct, last)
	w.reaches(till, last)
	w.alike(direct, till)

	w.through(till)
	// At the broker itself its credentials open nothing.
	if conn, err := nats.Connect(w.cluster.URL(0), nats.UserCredentials(creds)); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("at the broker: %v, %v", conn, err)
	}

	leaf.Kill(0)
	for range 20 {
		last, _ = w.revoke()
	}
	leaf.Restart(0)
	w.reaches(till, last)
	w.reaches(direct, last)
	w.alike(direct, till)

	// Who is shut out is thrown out there, and what it says does not cross any more.
	other := w.read(leaf.URL(0), w.issue(leaf.URL(0), access.Wish{Name: "other", Leaf: "shop"}), "other")
	gone := w.connect(leaf.URL(0), creds, nats.NoReconnect())
	w.doors(leaf.URL(0), func(d *access.Doors) error { return d.Revoke(t.Context(), "till", "sold") })
	w.until("it to be thrown out", func() error {
		if !gone.IsClosed() {
			return errors.New("it is connected")
		}
		return nil
	})
	operator := w.connect(leaf.URL(0), filepath.Join(w.auth, credentials.OperatorCreds))
	for verifier, crosses := range map[events.VerifierID]bool{"till": false, "other": true} {
		if _, err := operator.Request(presence.Subject(verifier), []byte("here"), 5*time.Second); (err == nil) != crosses {
			t.Errorf("what %s says: %v", verifier, err)
		}
	}
	last, _ = w.revoke()
	w.reaches(other, last)
	w.doors("", func(d *access.Doors) error { return d.Revoke(t.Context(), "shop", "sold") })
	stood := other.last()
	last, _ = w.revoke()
	w.reaches(direct, last)
	if now := other.last(); now > stood {
		t.Errorf("a leaf node that was revoked came from %d to %d", stood, now)
	}
}

// through sends what a verifier sends, through a leaf node.
func (w *world) through(r *reader) {
	w.Helper()
	var blocks []events.UsesMessage
	for range 12 {
		blocks = append(blocks, events.UsesMessage{Subject: events.UsesSubject("acme", "till"), ID: uuid.NewString(), Body: []byte("block")})
	}
	if err := r.PublishUses(w.Context(), blocks); err != nil {
		w.Fatal(err)
	}
	if last, err := w.ledger.LastUses(w.Context()); err != nil || last != 12 {
		w.Errorf("%d blocks of uses came through: %v", last, err)
	}
	a := presence.Announcement{
		Ledger: ledgerID, Verifier: "till", Boot: uses.BootID{1}, Number: 1, Kind: presence.Sidecar, StartedAt: 1, Staleness: -1,
		MaxStaleness: 30_000, Lease: 15_000,
	}
	m, err := presence.Encode(&a)
	if err == nil {
		err = r.PublishPresence(w.Context(), m)
	}
	if err != nil {
		w.Errorf("presence: %v", err)
	}
	content := bytes.Repeat([]byte("index"), 100_000)
	stored := snapshots.Manifest{
		Ledger: ledgerID, Position: 1, Stored: 1, Projection: 1, Size: int64(len(content)), CreatedAt: 1, Digest: sha256.Sum256(content),
		Chunks: (len(content) + snapshots.ChunkBytes - 1) / snapshots.ChunkBytes,
	}
	if err := w.ledger.PublishSnapshot(w.Context(), stored, bytes.NewReader(content)); err != nil {
		w.Fatal(err)
	}
	w.until("the snapshot", func() error {
		var got spooled
		_, err := r.Snapshot(w.Context(), func(snapshots.Manifest) (io.WriteCloser, error) { return &got, nil })
		if err == nil && !bytes.Equal(got.Bytes(), content) {
			err = errors.New("it is another")
		}
		return err
	})
	for _, subject := range []string{
		events.UsesSubject("acme", "direct"), presence.Subject("direct"), presence.Subject("shop"), "ledger.0160.acme.key.x", "seals.x",
		"$JS.API.STREAM.DELETE.LEDGER", "$JS.API.CONSUMER.RESET.LEDGER.direct", jetstream.HubPrefix + ".CONSUMER.RESET.LEDGER.direct",
		jetstream.HubPrefix + ".STREAM.DELETE.LEDGER",
	} {
		if answer, err := r.conn.Request(subject, []byte("{}"), 500*time.Millisecond); err == nil {
			w.Errorf("%s is answered: %s", subject, answer.Data)
		}
	}
}

type spooled struct{ bytes.Buffer }

func (*spooled) Close() error { return nil }

// How long a revocation takes to be seen, from when it was asked for: by who reads the
// ledger itself, by a mirror, and at a leaf node, in one run. The figures go to the
// log: what they should be is nobody's promise.
func TestDelays(t *testing.T) {
	w := begin(t)
	folder := t.TempDir()
	w.doors("", func(d *access.Doors) error { return d.MakeMirror(t.Context(), "west", 1) })
	w.doors("", func(d *access.Doors) error { return d.IssueLeaf(t.Context(), "shop", w.cluster.Hubs(), folder) })
	leaf := natstest.ReserveLeaf(t)
	leaf.Start(folder)
	url := w.cluster.URL(1)
	readers := []*reader{
		w.read(url, w.issue("", access.Wish{Name: "direct"}), "direct"),
		w.read(url, w.issue("", access.Wish{Name: "mirrored", Mirror: "west"}), "mirrored"),
		w.read(leaf.URL(0), w.issue(leaf.URL(0), access.Wish{Name: "till", Leaf: "shop"}), "till"),
	}
	asked := map[events.Position]time.Time{}
	var last events.Position
	for range 300 {
		pos, at := w.revoke()
		asked[pos], last = at, pos
		time.Sleep(5 * time.Millisecond)
	}
	var base [2]time.Duration
	for i, r := range readers {
		w.reaches(r, last)
		var took []time.Duration
		for pos, at := range asked {
			took = append(took, r.at[pos].Sub(at))
		}
		slices.Sort(took)
		p50, p99 := took[len(took)/2], took[len(took)*99/100]
		if i == 0 {
			base = [2]time.Duration{p50, p99}
		}
		t.Logf("%s: p50 %s (%.2fx), p99 %s (%.2fx), max %s", []string{"direct", "mirror", "leaf"}[i],
			p50, float64(p50)/float64(base[0]), p99, float64(p99)/float64(base[1]), took[len(took)-1])
	}
}
