package load_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/events/uses"
	"github.com/keyledger/keyledger/integration/program"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/projections/audit"
	"github.com/keyledger/keyledger/projections/catalog"
	"github.com/keyledger/keyledger/projections/usage"
)

// What is loaded. The figures of docs/performance.md are of a million changes and
// ten million uses.
var (
	changes = flag.Int("changes", 1_200, "changes to append")
	used    = flag.Int("uses", 4_000, "uses to record")
	asked   = flag.Int("asked", 4, "questions of each kind")
)

const (
	callers = 8
	// perImport and perVerify are how many keys or questions one request holds.
	perImport = 1000
	perVerify = 100
	// edits is the share of the changes that are made one by one, in percent; the
	// others are keys that are imported.
	edits = 5
)

var permissions = []string{"interview:read", "interview:start", "interview:complete", "report:read"}

// TestAuditLog loads a ledger, asks it, and makes its views anew. As it stands it
// shows that all of that holds together; the figures are printed by
//
//	go test -v -run AuditLog -timeout 2h ./integration/load -changes 1000000 -uses 10000000 -asked 300
func TestAuditLog(t *testing.T) {
	l := &load{t: t, data: t.TempDir(), random: rand.New(rand.NewPCG(1, 2))}
	l.binary = program.Build(l.t, l.t.TempDir())
	l.start()
	l.organization()
	l.change()
	l.use()
	l.ask()
	l.rebuild()
}

type load struct {
	t      *testing.T
	binary string
	data   string
	random *rand.Rand

	cmd   *exec.Cmd
	url   string
	owner string
	ids   []string
	began time.Time
}

func (l *load) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// start runs the server and waits until it is ready.
func (l *load) start() {
	l.cmd = exec.Command(l.binary, "serve", "--data", l.data, "--listen", "127.0.0.1:0", "--nats-listen", "", "--record-client-ip")
	log, err := os.OpenFile(filepath.Join(l.data, "..", "serve.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	l.must(err)
	l.cmd.Stderr = log
	out, err := l.cmd.StdoutPipe()
	l.must(err)
	l.must(l.cmd.Start())
	cmd := l.cmd
	l.t.Cleanup(func() { _ = cmd.Process.Kill() })
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if words := strings.Fields(lines.Text()); len(words) > 1 && words[0] == "ready" {
			l.url = words[1]
			go func() { _, _ = io.Copy(io.Discard, out) }()
			owner, err := os.ReadFile(filepath.Join(l.data, "owner.key"))
			l.must(err)
			l.owner = strings.TrimSpace(string(owner))
			return
		}
	}
	l.t.Fatal("the server ended before it was ready")
}

func (l *load) stop() {
	l.must(l.cmd.Process.Signal(syscall.SIGTERM))
	l.must(l.cmd.Wait())
}

// client keeps a connection for each caller.
var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: callers}, Timeout: 5 * time.Minute}

func (l *load) call(method, path string, body, answer any) error {
	var in io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		in = bytes.NewReader(text)
	}
	for {
		req, err := http.NewRequestWithContext(l.t.Context(), method, l.url+"/v1"+path, in)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+l.owner)
		if body != nil {
			req.Header.Set("Content-Type", "application/json")
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		switch {
		case err != nil:
			return err
		case resp.StatusCode == http.StatusServiceUnavailable && body == nil:
			time.Sleep(10 * time.Millisecond)
			continue
		case resp.StatusCode >= 300:
			return fmt.Errorf("%s %s: %d %s", method, path, resp.StatusCode, text)
		case answer == nil:
			return nil
		}
		return json.Unmarshal(text, answer)
	}
}

func (l *load) organization() {
	l.must(l.call("POST", "/organizations", map[string]any{"id": "acme", "name": "Acme", "policy": map[string]any{"signals": map[string]string{"new_source": "off", "denials_spike": "off"}}}, nil))
	list := make([]map[string]string, len(permissions))
	for i, p := range permissions {
		list[i] = map[string]string{"name": p, "access": "write"}
	}
	l.must(l.call("PUT", "/organizations/acme/permissions", map[string]any{"permissions": list}, nil))
	for i := range 20 {
		l.must(l.call("POST", "/organizations/acme/workspaces", map[string]any{"id": workspace(i), "name": "W"}, nil))
	}
}

func workspace(i int) string { return "w" + strconv.Itoa(i%20) }

// secretOf is the key string of the n-th key, in a form that another system may
// have used.
func secretOf(n int) string { return fmt.Sprintf("legacy_%024d", n) }

// side runs n pieces of work by some callers.
func (l *load) side(n int, f func(i int) error) {
	var next atomic.Int64
	var callersDone sync.WaitGroup
	var failed atomic.Pointer[error]
	for range callers {
		callersDone.Go(func() {
			for failed.Load() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := f(i); err != nil {
					failed.Store(&err)
				}
			}
		})
	}
	callersDone.Wait()
	if err := failed.Load(); err != nil {
		l.t.Fatal(*err)
	}
}

// change imports keys, and changes some of them one by one.
func (l *load) change() {
	keys := *changes * (100 - edits) / 100
	l.ids = make([]string, keys)
	began := time.Now()
	l.side((keys+perImport-1)/perImport, func(i int) error {
		from, to := i*perImport, min((i+1)*perImport, keys)
		list := make([]map[string]any, 0, to-from)
		for n := from; n < to; n++ {
			sum := sha256.Sum256([]byte(secretOf(n)))
			list = append(list, map[string]any{
				"digest": map[string]string{"alg": "sha256", "value": hex.EncodeToString(sum[:])}, "prefix": "legacy", "name": "service " + strconv.Itoa(n),
				"permissions": permissions[:1+n%len(permissions)], "scope": map[string]any{"workspaces": []string{workspace(n)}},
				"metadata": map[string]string{"team": "t" + strconv.Itoa(n%100)}, "external_id": "ext-" + strconv.Itoa(n),
			})
		}
		var answer struct {
			Items []struct {
				KeyID string `json:"key_id"`
			} `json:"items"`
		}
		if err := l.call("POST", "/organizations/acme/keys/import", map[string]any{"keys": list, "reason": "moved, CHG-" + strconv.Itoa(i)}, &answer); err != nil {
			return err
		}
		for k, item := range answer.Items {
			l.ids[from+k] = item.KeyID
		}
		return nil
	})
	imported := time.Since(began)
	began = time.Now()
	single := *changes - keys
	l.side(single, func(i int) error {
		id := l.ids[(i*7919)%keys]
		return l.call("PATCH", "/organizations/acme/keys/"+id, map[string]any{"name": "renamed " + strconv.Itoa(i), "reason": "tidying up, CHG-" + strconv.Itoa(i)}, nil)
	})
	edited := time.Since(began)
	behind := l.caughtUp("catalog", "audit")
	l.t.Logf("%d keys imported at %.0f/s, %d changed at %.0f/s by %d callers; the views were %v behind at the end",
		keys, rate(keys, imported), single, rate(single, edited), callers, behind.Round(time.Millisecond))
}

// use verifies keys: a tenth of them ten times as often as the others, as it goes.
func (l *load) use() {
	began := time.Now()
	l.began = began
	var stepped atomic.Int64
	l.side((*used+perVerify-1)/perVerify, func(i int) error {
		random := rand.New(rand.NewPCG(3, uint64(i)))
		list := make([]map[string]any, perVerify)
		for n := range list {
			k := random.IntN(len(l.ids))
			if random.IntN(2) == 0 {
				k = random.IntN(max(len(l.ids)/10, 1))
			}
			list[n] = map[string]any{
				"secret": secretOf(k), "permission": permissions[random.IntN(len(permissions))], "workspace": workspace(k),
				"context": map[string]string{
					"request_id": strconv.FormatUint(random.Uint64(), 36), "method": "POST", "path": "/api/v1/interviews",
					"client_ip": fmt.Sprintf("192.0.2.%d", k%250), "user_agent": "service/1.0",
				},
			}
		}
		stepped.Add(perVerify)
		return l.call("POST", "/verify/batch", map[string]any{"requests": list}, nil)
	})
	took := time.Since(began)
	behind := l.caughtUp("usage")
	l.t.Logf("%d uses recorded at %.0f/s by %d callers; the view was %v behind at the end, memory %d MiB",
		*used, rate(*used, took), callers, behind.Round(time.Millisecond), l.memory())
}

// caughtUp waits until views have applied everything, and tells how long that took.
func (l *load) caughtUp(views ...string) time.Duration {
	began := time.Now()
	for {
		lag := l.lag()
		if !slices.ContainsFunc(views, func(v string) bool { n, known := lag[v]; return !known || n != 0 }) {
			return time.Since(began)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// lag reads how many events each view has not applied.
func (l *load) lag() map[string]float64 {
	ctx, cancel := context.WithTimeout(l.t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", l.url+"/metrics", nil)
	l.must(err)
	req.Header.Set("Authorization", "Bearer "+l.owner)
	resp, err := client.Do(req)
	l.must(err)
	defer resp.Body.Close()
	lag := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), `keyledger_projection_lag_events{view="`)
		if !ok {
			continue
		}
		view, value, _ := strings.Cut(rest, `"} `)
		if lag[view], err = strconv.ParseFloat(value, 64); err != nil {
			l.t.Fatal(err)
		}
	}
	return lag
}

// memory is what the server holds in memory, in MiB.
func (l *load) memory() int {
	return memoryOf(l.t, strconv.Itoa(l.cmd.Process.Pid), "VmRSS:")
}

func memoryOf(t *testing.T, pid, line string) int {
	t.Helper()
	text, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(l, line); ok {
			if kib, err := strconv.Atoi(strings.Fields(rest)[0]); err == nil {
				return kib / 1024
			}
		}
	}
	return 0
}

func rate(n int, took time.Duration) float64 { return float64(n) / took.Seconds() }

// ask asks what auditors ask, one after another, and tells how long answers took.
func (l *load) ask() {
	key := func() string { return l.ids[l.random.IntN(len(l.ids))] }
	// then is a time at which all keys were there.
	then := func() time.Time {
		return l.began.Add(time.Duration(l.random.Int64N(int64(time.Since(l.began)))))
	}
	since := func() url.Values {
		at := then()
		return url.Values{"from": {at.UTC().Format(time.RFC3339Nano)}, "to": {at.Add(time.Minute).UTC().Format(time.RFC3339Nano)}}
	}
	org := "/organizations/acme"
	var whoami struct {
		KeyID string `json:"key_id"`
	}
	l.must(l.call("GET", "/whoami", nil, &whoami))
	for _, q := range []struct {
		name string
		path func() string
	}{
		{"changes of a key", func() string { return org + "/keys/" + key() + "/history" }},
		{"changes in a minute", func() string { return org + "/audit/events?" + since().Encode() }},
		{"changes of a kind", func() string { return org + "/audit/events?type=key.renamed" }},
		{"changes by an actor", func() string { return org + "/audit/events?actor=key/_system/" + whoami.KeyID }},
		{"changes in a workspace", func() string { return org + "/audit/events?workspace=" + workspace(l.random.IntN(20)) }},
		{"changes with a text", func() string {
			return org + "/audit/events?q=CHG-" + strconv.Itoa(l.random.IntN(max(*changes*edits/100, 1)))
		}},
		{"uses of a key", func() string { return org + "/keys/" + key() + "/uses" }},
		{"denied uses of a key", func() string { return org + "/keys/" + key() + "/uses?code=INSUFFICIENT_PERMISSIONS" }},
		{"uses of a key in a minute", func() string { return org + "/keys/" + key() + "/uses?" + since().Encode() }},
		{"uses in a minute", func() string { return org + "/audit/uses?" + since().Encode() }},
		{"uses by the hour of a key", func() string { return org + "/audit/uses/counts?unit=hour&key=" + key() }},
		{"uses by the minute", func() string { return org + "/audit/uses/counts?unit=minute" }},
		{"sources of a key", func() string { return org + "/keys/" + key() + "/sources" }},
		{"a key as of a time", func() string {
			return org + "/keys/" + l.ids[0] + "?as_of=" + then().UTC().Format(time.RFC3339Nano)
		}},
		{"a verdict as of a time", func() string {
			return org + "/keys/" + l.ids[0] + "?permission=interview:read&as_of=" + then().UTC().Format(time.RFC3339Nano)
		}},
	} {
		took := make([]time.Duration, *asked)
		for i := range took {
			path := q.path()
			began := time.Now()
			l.must(l.call("GET", path, nil, nil))
			took[i] = time.Since(began)
		}
		slices.Sort(took)
		at := func(p float64) time.Duration {
			return took[min(int(p*float64(len(took))), len(took)-1)].Round(10 * time.Microsecond)
		}
		l.t.Logf("%-28s p50 %8v  p99 %8v  max %8v", q.name, at(0.5), at(0.99), at(1))
	}
}

// rebuild makes the views of the stopped server anew, one after another and in this
// process, brings those that it had up to the same position, and holds both
// against each other.
func (l *load) rebuild() {
	l.stop()
	ctx := l.t.Context()
	broker, err := embedded.Start(ctx, embedded.Config{Dir: l.data})
	l.must(err)
	defer broker.Shutdown()
	conn, err := broker.Connect(ctx, "server")
	l.must(err)
	defer conn.Close()
	text, err := os.ReadFile(filepath.Join(l.data, "ledger.id"))
	l.must(err)
	id, err := events.ParseLedgerID(strings.TrimSpace(string(text)))
	l.must(err)
	ledger, err := jetstream.New(jetstream.Config{Conn: conn, Ledger: id, Replicas: 1})
	l.must(err)
	of, again := events.Positions{Ledger: id, Epoch: 1}, l.t.TempDir()

	facts, err := ledger.Last(ctx)
	l.must(err)
	blocks, err := ledger.LastUses(ctx)
	l.must(err)
	raw, rawUses := l.follow(ledger, nil, facts), l.followUses(ledger, nil, blocks)
	l.t.Logf("read, decoded and nothing more: %.0f changes/s, %.0f uses/s", rate(int(facts), raw), rate(*used, rawUses))

	for _, v := range []struct {
		name string
		open func(dir string) view
	}{
		{"usage", func(dir string) view {
			u, err := usage.Open(ctx, usage.Config{Path: filepath.Join(dir, "usage.db"), Of: of})
			l.must(err)
			return u
		}},
		{"catalog", func(dir string) view {
			c, err := catalog.Open(ctx, catalog.Config{Path: filepath.Join(dir, "catalog.db"), Of: of, UsagePath: filepath.Join(dir, "usage.db")})
			l.must(err)
			return c
		}},
		{"audit", func(dir string) view {
			a, err := audit.Open(ctx, audit.Config{Path: filepath.Join(dir, "audit.db"), Of: of})
			l.must(err)
			return a
		}},
	} {
		var digests [2]string
		for i, dir := range []string{l.data, again} {
			opened := v.open(dir)
			took, n, base := time.Duration(0), int(facts), raw
			if u, ok := opened.(*usage.View); ok {
				took, n, base = l.followUses(ledger, u, blocks), *used, rawUses
			} else {
				took = l.follow(ledger, opened.(projections.View), facts)
			}
			_, sum, err := opened.Digest(ctx)
			l.must(err)
			digests[i] = fmt.Sprintf("%x", sum)
			l.must(opened.Close())
			if dir == again {
				info, err := os.Stat(filepath.Join(dir, v.name+".db"))
				l.must(err)
				l.t.Logf("%s rebuilt at %.0f/s, %.2f of reading alone; %d bytes each, memory of this process at most %d MiB",
					v.name, rate(n, took), base.Seconds()/took.Seconds(), info.Size()/int64(n), highest(l.t))
			}
		}
		if digests[0] != digests[1] {
			l.t.Errorf("%s is %.16s, and rebuilt it is %.16s", v.name, digests[0], digests[1])
		}
	}
}

type view interface {
	Digest(context.Context) (events.Position, [32]byte, error)
	Close() error
}

var errArrived = errors.New("arrived")

// follow applies the ledger's facts to a view, or to nothing, up to a position.
func (l *load) follow(ledger *jetstream.Ledger, v projections.View, last events.Position) time.Duration {
	ctx, after := l.t.Context(), events.Position(0)
	began := time.Now()
	if v != nil {
		var err error
		after, err = v.Position(ctx)
		l.must(err)
	}
	if after >= last {
		return time.Since(began)
	}
	err := ledger.Follow(ctx, after, func(facts []events.Recorded) error {
		if v != nil {
			if err := v.Apply(ctx, facts); err != nil {
				return err
			}
		}
		if facts[len(facts)-1].Position >= last {
			return errArrived
		}
		return nil
	})
	if !errors.Is(err, errArrived) {
		l.t.Fatal(err)
	}
	return time.Since(began)
}

// followUses is follow for blocks of uses.
func (l *load) followUses(ledger *jetstream.Ledger, v *usage.View, last events.Position) time.Duration {
	ctx, after := l.t.Context(), events.Position(0)
	began := time.Now()
	decoder, err := uses.NewDecoder()
	l.must(err)
	if v != nil {
		after, err = v.Position(ctx)
		l.must(err)
	}
	if after >= last {
		return time.Since(began)
	}
	err = ledger.FollowUses(ctx, after, func(blocks []events.UsesMessage) error {
		for _, m := range blocks {
			if v != nil {
				break
			}
			if _, err := decoder.Decode(m.Subject, m.Body); err != nil {
				return err
			}
		}
		if v != nil {
			if err := v.Apply(ctx, blocks); err != nil {
				return err
			}
		}
		if blocks[len(blocks)-1].Position >= last {
			return errArrived
		}
		return nil
	})
	if !errors.Is(err, errArrived) {
		l.t.Fatal(err)
	}
	return time.Since(began)
}

// highest is the most memory that this process has held, in MiB.
func highest(t *testing.T) int {
	t.Helper()
	return memoryOf(t, "self", "VmHWM:")
}
