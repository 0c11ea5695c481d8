package propagation

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/clustertest"
	"github.com/keyledger/keyledger/integration/program"
	"github.com/keyledger/keyledger/verify"
)

var (
	fleets = flag.String("verifiers", "1,5", "how many verifiers, one after another")
	rounds = flag.Int("rounds", 10, "how many revocations for each of them")
	rest   = flag.Duration("rest", 0, "how long to wait before each, for what the one before it left to do")
)

// TestRevocationReachesEveryVerifier prints what it measures; that every one of them
// denies by the position of the answer is what it tests.
func TestRevocationReachesEveryVerifier(t *testing.T) {
	dir := t.TempDir()
	binary, data := program.Build(t, dir), filepath.Join(dir, "data")
	address := clustertest.FreeAddresses(t, 1)[0]
	server := program.Start(t, binary, "serve", "--data", data, "--listen", "127.0.0.1:0", "--nats-listen", address)
	door := program.At(server.Address("http://"), "")
	owner, err := os.ReadFile(filepath.Join(data, "owner.key"))
	if err != nil {
		t.Fatal(err)
	}
	door.Key = strings.TrimSpace(string(owner))
	door.Must(t, 201, "POST", "/v1/organizations", map[string]any{"id": "acme", "name": "Acme"})
	positions := parser(t, data)
	raw := newRaw(t, dir)
	var clients []*verify.Client
	for word := range strings.SplitSeq(*fleets, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < 1 {
			t.Fatalf("-verifiers: %q is no number", word)
		}
		for len(clients) < n {
			clients = append(clients, join(t, binary, data, address, len(clients)))
		}
		raw.consumers(n)
		var ours, bare []time.Duration
		for len(ours) < *rounds {
			time.Sleep(*rest)
			if took, ok := revoke(t, door, positions, clients[:n]); ok {
				ours = append(ours, took)
				bare = append(bare, raw.round())
			}
		}
		a, b := spread(ours), spread(bare)
		t.Logf("%3d verifiers: the last denies after the answer  p50 %8v  p99 %8v  max %8v", n, a[0], a[1], a[2])
		t.Logf("%3d consumers: the last has it after the ack      p50 %8v  p99 %8v  max %8v", n, b[0], b[1], b[2])
	}
}

// parser reads the positions of a server's ledger.
func parser(t *testing.T, data string) events.Positions {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(data, "ledger.id"))
	if err != nil {
		t.Fatal(err)
	}
	id, err := events.ParseLedgerID(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return events.Positions{Ledger: id, Epoch: 1}
}

// join lets a verifier in, and returns it when it is ready.
func join(t *testing.T, binary, data, address string, i int) *verify.Client {
	t.Helper()
	name := fmt.Sprintf("edge-%d", i+1)
	creds := filepath.Join(t.TempDir(), "creds")
	if out, said, code := program.Run(t, nil, "", binary, "nats-auth", "verifier", name, "--data", data, "--out", creds); code != 0 {
		t.Fatalf("nats-auth: %s%s", out, said)
	}
	conn, err := nats.Connect("nats://"+address, nats.UserCredentials(creds), nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	client, err := verify.Open(t.Context(), conn, verify.MaxWait(program.Patience))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close(context.WithoutCancel(t.Context())) })
	select {
	case <-client.Ready():
	case <-time.After(program.Patience):
		t.Fatalf("%s is not ready", name)
	}
	return client
}

// revoke makes a key, has all verifiers wait for what comes next, revokes the key, and
// returns how long after the answer the last of them denied it. It reports false when
// something else came next.
func revoke(t *testing.T, door *program.Door, positions events.Positions, clients []*verify.Client) (time.Duration, bool) {
	t.Helper()
	made := door.Must(t, 201, "POST", "/v1/organizations/acme/keys", map[string]any{"permissions": map[string]any{"level": "all"}, "scope": map[string]any{"all_workspaces": true}})
	position, err := positions.Parse(events.StreamLedger, made.Text("position"))
	if err != nil {
		t.Fatal(err)
	}
	type said struct {
		code events.Code
		at   time.Time
	}
	secret := made.Text("secret")
	if !keystring.WellFormed(secret) {
		t.Fatal("no secret came")
	}
	answers := make([]said, len(clients))
	var waiting, begun sync.WaitGroup
	for i, c := range clients {
		if d := c.Verify(t.Context(), &verify.Question{Secret: secret, AtLeast: position}); !d.Valid() {
			t.Fatalf("%s before it was revoked", d.Code)
		}
		begun.Add(1)
		waiting.Go(func() {
			begun.Done()
			d := c.Verify(t.Context(), &verify.Question{Secret: secret, AtLeast: position + 1})
			answers[i] = said{d.Code, time.Now()}
		})
	}
	begun.Wait()
	time.Sleep(time.Millisecond)
	a := door.Must(t, 200, "POST", "/v1/organizations/acme/keys/"+made.Text("key.id")+"/revoke", nil)
	answered := time.Now()
	waiting.Wait()
	if at, err := positions.Parse(events.StreamLedger, a.Text("position")); err != nil || at != position+1 {
		return 0, false // a tick came first
	}
	last := answers[0].at
	for _, s := range answers {
		if s.code != events.CodeRevoked {
			t.Fatalf("%s, although it has applied the position of the answer", s.code)
		}
		if s.at.After(last) {
			last = s.at
		}
	}
	return last.Sub(answered), true
}

// spread are the median, the 99th percentile and the largest.
func spread(took []time.Duration) [3]time.Duration {
	slices.Sort(took)
	at := func(p float64) time.Duration {
		return took[min(int(p*float64(len(took))), len(took)-1)].Round(10 * time.Microsecond)
	}
	return [3]time.Duration{at(0.5), at(0.99), at(1)}
}

// raw is a bare broker, with the same durability, and consumers of one stream.
type raw struct {
	t       *testing.T
	address string
	js      jetstream.JetStream
	arrived []chan time.Time
}

func newRaw(t *testing.T, dir string) *raw {
	t.Helper()
	binary, conf := program.BuildBroker(t, dir), filepath.Join(dir, "raw.conf")
	r := &raw{t: t, address: clustertest.FreeAddresses(t, 1)[0]}
	text := fmt.Sprintf("listen: %q\njetstream { store_dir: %q, sync_interval: always }\n", r.address, filepath.Join(dir, "raw"))
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "--config", conf)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	r.js = r.connect()
	if _, err := r.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "RAW", Subjects: []string{"raw.>"}}); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *raw) connect() jetstream.JetStream {
	r.t.Helper()
	var conn *nats.Conn
	program.Until(r.t, "the bare broker to answer", func() bool {
		var err error
		conn, err = nats.Connect("nats://" + r.address)
		return err == nil
	})
	r.t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		r.t.Fatal(err)
	}
	return js
}

// consumers makes it so many, each with a connection of its own.
func (r *raw) consumers(n int) {
	r.t.Helper()
	for len(r.arrived) < n {
		arrived := make(chan time.Time, 1)
		consumer, err := r.connect().OrderedConsumer(r.t.Context(), "RAW", jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverNewPolicy})
		if err != nil {
			r.t.Fatal(err)
		}
		reading, err := consumer.Consume(func(jetstream.Msg) { arrived <- time.Now() })
		if err != nil {
			r.t.Fatal(err)
		}
		r.t.Cleanup(reading.Stop)
		r.arrived = append(r.arrived, arrived)
	}
	// One round that does not count: all of them are there.
	r.round()
}

// round returns how long after the acknowledgement the last consumer had a message.
func (r *raw) round() time.Duration {
	r.t.Helper()
	if _, err := r.js.Publish(r.t.Context(), "raw.revoked", make([]byte, 700)); err != nil {
		r.t.Fatal(err)
	}
	acked := time.Now()
	last := time.Duration(-1 << 62)
	for _, arrived := range r.arrived {
		last = max(last, (<-arrived).Sub(acked))
	}
	return last
}
