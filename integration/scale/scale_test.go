package scale_test

import (
	"encoding/json"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/integration/program"
	"github.com/keyledger/keyledger/verify"
)

// The least that there is for a verifier to fetch a snapshot from the broker, rather
// than to read the ledger, is 50,000 events.
var keys = flag.Int("keys", 51_000, "keys of the ledger, 51,000 at least")

// patience bounds a start by replay: a million keys take ten seconds, or a minute on a
// machine that is busy.
const patience = 20 * time.Minute

// TestStarts shows that whichever way a verifier starts, it gives the verdicts of the
// ledger as it is by then. It prints what it measures; the figures of
// docs/performance.md are those of
//
//	go test -v -run Starts -timeout 1h ./integration/scale -keys 10000000
//
// which needs 20 GB in the folder for temporary files.
func TestStarts(t *testing.T) {
	if *keys < 51_000 {
		t.Fatal("-keys: no fewer than 51,000")
	}
	w := begin(t)
	w.build()
	raw := w.read()
	w.live()

	edge := w.verifier("edge")
	took := edge.start("replay", verify.FromReplay)
	t.Logf("  a replay is %.2f of the consumer's rate", raw.Seconds()/took.Seconds())
	edge.saved()
	w.grow()
	edge.start("the folder", verify.FromFolder)
	edge.Stop()
	w.grow()
	w.keep(edge.folder)
	w.grow()
	other := w.verifier("other")
	other.start("the broker", verify.FromBroker)
	other.Stop()
}

// read reads the whole stream as fast as one consumer of nats.go does, bodies thrown
// away, next to the streams: through no account in between.
func (w *world) read() time.Duration {
	w.t.Helper()
	conn, err := nats.Connect(w.nodes.URL(0), nats.UserCredentials(filepath.Join(w.auth, credentials.OperatorCreds)))
	w.must(err)
	defer conn.Close()
	js, err := natsjs.New(conn)
	w.must(err)
	all, err := w.ledger.Last(w.t.Context())
	w.must(err)
	began := time.Now()
	consumer, err := js.OrderedConsumer(w.t.Context(), jetstream.StreamLedger, natsjs.OrderedConsumerConfig{})
	w.must(err)
	done, bytes := make(chan struct{}), 0
	seen := uint64(0)
	reading, err := consumer.Consume(func(m natsjs.Msg) {
		bytes += len(m.Data())
		if seen++; seen == uint64(all) {
			close(done)
		}
	}, natsjs.PullMaxMessages(5000))
	w.must(err)
	select {
	case <-done:
	case <-time.After(patience):
		w.t.Fatal("the consumer does not come to the end")
	}
	took := time.Since(began)
	reading.Stop()
	w.t.Logf("a consumer: %d events in %v, %.0f/s, %d bytes each", all, took.Round(time.Millisecond), float64(all)/took.Seconds(), bytes/int(all))
	return took
}

// verifier is a sidecar, with a folder for its snapshots.
type verifier struct {
	*program.Process
	*program.Door
	w       *world
	command []string
	folder  string
}

// verifier lets one in.
func (w *world) verifier(name string) *verifier {
	w.t.Helper()
	dir := w.t.TempDir()
	creds, socket := filepath.Join(dir, "creds"), filepath.Join(dir, "s")
	v := &verifier{w: w, folder: filepath.Join(dir, "snapshots"), Door: program.At("unix:"+socket, "")}
	w.operate("nats-auth", "verifier", name, "--out", creds, "--nats", w.nodes.URL(0), "--auth", w.auth, "--replicas", "1")
	v.command = []string{
		w.binary, "sidecar", "--nats", w.nodes.URL(0), "--nats-creds", creds, "--listen", "unix:" + socket,
		"--log-vkey", w.vkey, "--snapshot-dir", v.folder, "--snapshot-every", "0", "--start-jitter", "0",
	}
	return v
}

// start starts it, holds it to its verdicts and to where it must have begun, and
// returns how long it took until it was ready to give them.
func (v *verifier) start(what string, from verify.Source) time.Duration {
	t := v.w.t
	t.Helper()
	due := v.w.expect()
	last, err := v.w.ledger.Last(t.Context())
	v.w.must(err)
	began := time.Now()
	v.Process = program.Start(t, v.command...).ReadyWithin(patience)
	took, worked := time.Since(began), v.worked()
	atOnce, highest := v.memory("VmRSS:"), v.memory("VmHWM:")
	if !strings.Contains(v.Logged(), " from="+string(from)+" ") {
		t.Errorf("it did not start from %s", what)
	}
	v.gives(due)
	time.Sleep(time.Second) // what the start has left behind is given back meanwhile
	t.Logf("from %s: ready in %v, %v of processor time, %.0f events/s; %d bytes of memory a key then, %d at most, %d a second after %d verdicts",
		what, took.Round(time.Millisecond), worked, float64(last)/took.Seconds(), atOnce / *keys, highest / *keys, v.memory("VmRSS:") / *keys, len(due))
	return took
}

// gives holds it to the verdicts that are due.
func (v *verifier) gives(due []verdict) {
	t := v.w.t
	t.Helper()
	type question struct {
		Secret     string `json:"secret"`
		Permission string `json:"permission"`
	}
	wrong := 0
	for len(due) > 0 {
		some := due[:min(len(due), 100)]
		due = due[len(some):]
		asked := make([]question, len(some))
		for i, d := range some {
			asked[i] = question{d.secret, "doc:read"}
		}
		var answer struct {
			Verdicts []struct {
				Code events.Code `json:"code"`
			} `json:"verdicts"`
		}
		v.w.must(json.Unmarshal(v.Must(t, 200, "POST", "/v1/verify/batch", map[string]any{"requests": asked}).Body, &answer))
		if len(answer.Verdicts) != len(some) {
			t.Fatalf("%d verdicts on %d keys", len(answer.Verdicts), len(some))
		}
		for i, d := range some {
			if got := answer.Verdicts[i].Code; got != d.code && wrong < 10 {
				wrong++
				t.Errorf("%s: %s instead of %s", d.key, got, d.code)
			}
		}
	}
}

// saved stops it, which saves a snapshot, and tells how long that takes.
func (v *verifier) saved() {
	t := v.w.t
	t.Helper()
	began := time.Now()
	v.Stop()
	took := time.Since(began)
	var size int64
	files, err := filepath.Glob(filepath.Join(v.folder, "*.snapshot"))
	v.w.must(err)
	for _, f := range files {
		var info fs.FileInfo
		info, err = os.Stat(f)
		v.w.must(err)
		size += info.Size()
	}
	if len(files) != 1 {
		t.Fatalf("it left %d snapshots", len(files))
	}
	t.Logf("stopped in %v, with a snapshot of %d bytes a key on disk", took.Round(time.Millisecond), size/int64(*keys))
}

// worked is how long its process has worked so far, all threads: on a machine that
// does other work too, it says more than what passed meanwhile.
func (v *verifier) worked() time.Duration {
	t := v.w.t
	t.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(v.Pid()) + "/stat")
	v.w.must(err)
	// Behind the name, which may hold anything: the 12th and 13th are its time and the
	// system's for it, in hundredths of a second.
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	var worked time.Duration
	for _, field := range fields[11:13] {
		n, err := strconv.Atoi(field)
		v.w.must(err)
		worked += time.Duration(n) * 10 * time.Millisecond
	}
	return worked
}

// memory is what its process holds in memory, in bytes, by a line of its status.
func (v *verifier) memory(line string) int {
	t := v.w.t
	t.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(v.Pid()) + "/status")
	v.w.must(err)
	for l := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(l, line); ok {
			kib, err := strconv.Atoi(strings.Fields(rest)[0])
			v.w.must(err)
			return kib * 1024
		}
	}
	t.Fatalf("no %s among the status of a process", line)
	return 0
}
