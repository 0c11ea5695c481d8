package sidecar

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/cmd/nodes"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/snapshot"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/recording"
	"github.com/keyledger/keyledger/verify/verifytest"
)

const acme events.OrgID = "acme"

// begin returns a ledger with an organization and a key, and what a sidecar of it is
// run with.
func begin(t *testing.T) (*verifytest.Ledger, string, events.KeyID, Config) {
	t.Helper()
	ledger := verifytest.Begin(t)
	ledger.Organization(acme)
	secret, id := ledger.Key(acme, "doc:read")
	creds := filepath.Join(t.TempDir(), "edge.creds")
	if err := os.WriteFile(creds, ledger.Verifier("edge", 0), 0o600); err != nil {
		t.Fatal(err)
	}
	return ledger, secret, id, Config{
		Nodes:  nodes.Config{URL: ledger.URL(), Creds: creds},
		Listen: []string{"127.0.0.1:0", "unix:" + filepath.Join(t.TempDir(), "s")}, SocketMode: 0o660,
		LogKeys: []string{ledger.LogKey()}, MaxStaleness: 30 * time.Second, MaxWait: 2 * time.Second,
		SnapshotEvery: time.Minute, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), Version: "test",
	}
}

// running is a sidecar that runs.
type running struct {
	addresses []string
	stop      context.CancelFunc
	ended     chan error
}

// start runs a sidecar until the test ends, or somebody stops it.
func start(t *testing.T, cfg Config) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{stop: cancel, ended: make(chan error, 1)}
	ready := make(chan []string, 1)
	cfg.Ready = func(addresses []string) { ready <- addresses }
	go func() { r.ended <- Run(ctx, cfg); close(r.ended) }()
	t.Cleanup(func() {
		cancel()
		for err := range r.ended {
			if err != nil {
				t.Errorf("it ended with %v", err)
			}
		}
	})
	select {
	case r.addresses = <-ready:
	case err := <-r.ended:
		t.Fatalf("it did not start: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("it does not become ready")
	}
	return r
}

// client asks at an address of the line ready.
func client(t *testing.T, address string) (*http.Client, string) {
	t.Helper()
	path, ok := strings.CutPrefix(address, unixPrefix)
	if !ok {
		return &http.Client{Timeout: time.Minute}, address
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Timeout: time.Minute, Transport: transport}, "http://sidecar"
}

// code asks for a verdict.
func code(t *testing.T, address, secret string) string {
	t.Helper()
	c, base := client(t, address)
	res, err := c.Post(base+"/v1/verify", "application/json", strings.NewReader(`{"secret":"`+secret+`","permission":"doc:read"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var d struct {
		Code string `json:"code"`
	}
	if body, err := io.ReadAll(res.Body); err != nil || json.Unmarshal(body, &d) != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %v\n%s", res.Status, err, body)
	}
	return d.Code
}

func get(t *testing.T, address, path string) (int, string) {
	t.Helper()
	c, base := client(t, address)
	res, err := c.Get(base + path)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

// TestSidecar asks on a port and on a socket, revokes, and stops.
func TestSidecar(t *testing.T) {
	ledger, secret, id, cfg := begin(t)
	cfg.GRPCListen = []string{"127.0.0.1:0"}
	var line bytes.Buffer
	cfg.Out = &line
	r := start(t, cfg)
	if len(r.addresses) != 3 || !strings.HasPrefix(r.addresses[0], "http://127.0.0.1:") || r.addresses[1] != cfg.Listen[1] || !strings.HasPrefix(r.addresses[2], "grpc://") {
		t.Fatalf("%q", r.addresses)
	}
	for _, address := range r.addresses[:2] {
		if got := code(t, address, secret); got != "VALID" {
			t.Errorf("%s: %s", address, got)
		}
		if status, body := get(t, address, "/readyz"); status != http.StatusOK {
			t.Errorf("%s: %d %s", address, status, body)
		}
	}
	if info, err := os.Stat(strings.TrimPrefix(r.addresses[1], unixPrefix)); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("socket: %v %v", info.Mode(), err)
	}
	_, metrics := get(t, r.addresses[0], "/metrics")
	for _, want := range []string{
		`keyledger_verify_duration_seconds_count{code="VALID",path="verify"} 2`, `keyledger_build_info{version="test"} 1`,
		`keyledger_start_position{source="replay"} 0`, "keyledger_ready 1", "keyledger_index_keys 1", "keyledger_verify_max_staleness_seconds 30", `keyledger_check_failing{check="fresh"} 0`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	ledger.Revoke(acme, id)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		got := code(t, r.addresses[1], secret)
		if got == "REVOKED" {
			break
		}
		if got != "VALID" || time.Now().After(deadline) {
			t.Fatalf("revoked, and it answers %s", got)
		}
	}
	r.stop()
	if err := <-r.ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
	if want := "ready " + strings.Join(r.addresses, " ") + "\n"; line.String() != want {
		t.Errorf("it printed %q", line.String())
	}
	// Every verdict but that of /readyz is recorded, and the run has ended.
	recorded, findings := ledger.Uses()
	if recorded["edge"] < 3 || len(findings) != 0 {
		t.Errorf("%d uses, findings %+v", recorded["edge"], findings)
	}
	if _, err := os.Stat(strings.TrimPrefix(r.addresses[1], unixPrefix)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// TestBrokerAway starts a sidecar before its broker: it answers STALE and says why, and
// goes on when the broker is there.
func TestBrokerAway(t *testing.T) {
	t.Parallel()
	ledger, secret, _, cfg := begin(t)
	ledger.Stop()
	cfg.Listen = []string{"127.0.0.1:0"}
	free, err := net.Listen("tcp", cfg.Listen[0])
	if err != nil {
		t.Fatal(err)
	}
	taken := free.Addr().String()
	free.Close()
	cfg.Listen[0] = taken
	address := "http://" + taken
	ctx, stop := context.WithCancel(t.Context())
	ended, ready := make(chan error, 1), make(chan struct{})
	cfg.Ready = func([]string) { close(ready) }
	go func() { ended <- Run(ctx, cfg) }()
	for {
		if conn, err := net.Dial("tcp", taken); err == nil {
			conn.Close()
			break
		}
		time.Sleep(time.Millisecond)
	}
	if got := code(t, address, secret); got != "STALE" {
		t.Errorf("without a broker it answers %s", got)
	}
	status, body := get(t, address, "/readyz")
	if status != http.StatusServiceUnavailable || !strings.Contains(body, `"broker"`) || strings.Contains(body, string(acme)) {
		t.Errorf("%d %s", status, body)
	}
	if status, _ := get(t, address, "/livez"); status != http.StatusOK {
		t.Errorf("livez: %d", status)
	}
	ledger.Start()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	case <-time.After(time.Minute):
		t.Fatal("it does not go on")
	}
	if got := code(t, address, secret); got != "VALID" {
		t.Errorf("with the broker it answers %s", got)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestOfflineStart starts a sidecar without its broker from the snapshot that it left,
// where that is wanted: its verdicts are flagged, readiness fails, and what it recorded
// is stored when the broker is back.
func TestOfflineStart(t *testing.T) {
	t.Parallel()
	ledger, secret, id, cfg := begin(t)
	cfg.Listen, cfg.SnapshotDir = cfg.Listen[:1], filepath.Join(t.TempDir(), "snapshots")
	first := start(t, cfg)
	first.stop()
	if err := <-first.ended; err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(cfg.SnapshotDir); err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("%v %v", info, err)
	}
	ledger.Stop()
	cfg.OfflineStartMaxAge = time.Hour
	r := start(t, cfg)
	if got := code(t, r.addresses[0], secret); got != "VALID" {
		t.Errorf("from the snapshot: %s", got)
	}
	c, base := client(t, r.addresses[0])
	res, err := c.Post(base+"/v1/verify", "application/json", strings.NewReader(`{"secret":"`+secret+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if !strings.Contains(string(body), `"stale":true`) {
		t.Errorf("not flagged: %s", body)
	}
	if status, body := get(t, r.addresses[0], "/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, `"broker"`) {
		t.Errorf("%d %s", status, body)
	}
	if _, metrics := get(t, r.addresses[0], "/metrics"); !strings.Contains(metrics, "keyledger_offline 1") {
		t.Error("metrics do not tell that it is offline")
	}
	ledger.Start()
	ledger.Revoke(acme, id)
	for deadline := time.Now().Add(time.Minute); code(t, r.addresses[0], secret) != "REVOKED"; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the revocation does not arrive")
		}
	}
	r.stop()
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
	if recorded, findings := ledger.Uses(); recorded["edge"] < 3 || len(findings) != 0 {
		t.Errorf("%d uses, findings %+v", recorded["edge"], findings)
	}
}

// TestEnds has sidecars meet what only a person can mend.
func TestEnds(t *testing.T) {
	t.Parallel()
	ledger, _, _, cfg := begin(t)
	other := verifytest.Begin(t)
	foreign := filepath.Join(t.TempDir(), "foreign.creds")
	if err := os.WriteFile(foreign, other.Verifier("edge", 0), 0o600); err != nil {
		t.Fatal(err)
	}
	narrow := filepath.Join(t.TempDir(), "narrow.creds")
	if err := os.WriteFile(narrow, ledger.Verifier("narrow", 0, acme), 0o600); err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"a port that is taken":               {func(c *Config) { c.Listen = []string{taken.Addr().String()} }, "--listen"},
		"a credential of another broker":     {func(c *Config) { c.Nodes.Creds = foreign }, "refuses the credentials"},
		"a credential that shows too much":   {func(c *Config) { c.Organizations = []events.OrgID{acme} }, "it shows everything, and acme is expected"},
		"a credential that shows too little": {func(c *Config) { c.Nodes.Creds, c.Organizations = narrow, []events.OrgID{"globex"} }, "it shows acme, and globex is expected"},
		"a key file that is not there":       {func(c *Config) { c.Server, c.ServerKeyFile = "https://127.0.0.1:1", "/absent" }, "--server-key-file"},
		"a log key that is none":             {func(c *Config) { c.LogKeys = []string{"?"} }, "--log-vkey"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := cfg
			cfg.Listen = []string{"127.0.0.1:0"}
			c.change(&cfg)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := Run(ctx, cfg); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want something of %s", err, c.want)
			}
		})
	}
}

// TestRefusedLater has the broker come after the sidecar and refuse its credentials.
func TestRefusedLater(t *testing.T) {
	t.Parallel()
	ledger, _, _, cfg := begin(t)
	other := verifytest.Begin(t)
	if err := os.WriteFile(cfg.Nodes.Creds, other.Verifier("edge", 0), 0o600); err != nil {
		t.Fatal(err)
	}
	ledger.Stop()
	cfg.Listen = cfg.Listen[1:]
	ended := make(chan error, 1)
	go func() { ended <- Run(t.Context(), cfg) }()
	for c, base := client(t, cfg.Listen[0]); ; time.Sleep(time.Millisecond) {
		if res, err := c.Get(base + "/livez"); err == nil {
			res.Body.Close()
			break
		}
	}
	ledger.Start()
	if err := <-ended; !errors.Is(err, nodes.ErrRefused) {
		t.Errorf("%v, want it refused", err)
	}
}

func TestValidate(t *testing.T) {
	good := Config{
		Nodes: nodes.Config{URL: "nats://127.0.0.1:4222", Creds: "absent"}, Listen: []string{"127.0.0.1:0"},
		SocketMode: 0o660, MaxStaleness: events.MinStaleness, MaxWait: 1, Logger: slog.New(slog.DiscardHandler),
	}
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"no broker":               {func(c *Config) { c.Nodes.URL = "" }, "--nats is needed"},
		"no credential":           {func(c *Config) { c.Nodes.Creds = "" }, "--nats-creds is needed"},
		"a credential not there":  {func(*Config) {}, "--nats-creds: "},
		"nowhere to listen":       {func(c *Config) { c.Listen = nil }, "--listen is needed"},
		"everywhere":              {func(c *Config) { c.Listen = []string{":8081"} }, "--insecure-http"},
		"gRPC everywhere":         {func(c *Config) { c.GRPCListen = []string{"0.0.0.0:9002"} }, "--grpc-listen"},
		"no path":                 {func(c *Config) { c.Listen = []string{"unix:"} }, "unix: needs a path"},
		"half of TLS":             {func(c *Config) { c.TLSCert = "cert.pem" }, "go together"},
		"a socket nobody reads":   {func(c *Config) { c.SocketMode = 0o060 }, "--socket-mode"},
		"no bound":                {func(c *Config) { c.MaxStaleness = 0 }, "--max-staleness"},
		"no wait":                 {func(c *Config) { c.MaxWait = 0 }, "--max-wait"},
		"too small a bound":       {func(c *Config) { c.MaxStaleness = events.MinStaleness - 1 }, "--max-staleness must lie within 3s and 24h"},
		"too long a wait":         {func(c *Config) { c.MaxWait = time.Hour }, "--max-wait"},
		"no key of a log":         {func(c *Config) { c.LogKeys = []string{"nonsense"} }, "--log-vkey"},
		"a server over ftp":       {func(c *Config) { c.Server, c.ServerKeyFile = "ftp://x", "key" }, "--server must be a URL"},
		"a server with a user":    {func(c *Config) { c.Server, c.ServerKeyFile = "https://u:p@x", "key" }, "--server must be an address alone"},
		"a server in clear":       {func(c *Config) { c.Server, c.ServerKeyFile = "http://example.com", "key" }, "--insecure-http"},
		"too much room for uses":  {func(c *Config) { c.UsesBuffer = recording.MaxMaxBuffered + 1 }, "--uses-buffer"},
		"offline for long":        {func(c *Config) { c.OfflineStartMaxAge, c.SnapshotDir = verify.MaxOfflineStart+1, "x" }, "--offline-start-max-age is 168h"},
		"offline and durable":     {func(c *Config) { c.OfflineStartMaxAge, c.SnapshotDir, c.Uses = 1, "x", verify.Durable }, "--uses buffered"},
		"nobody to ask":           {func(c *Config) { c.WhenStale = verify.Ask }, "--when-stale ask needs --server"},
		"no key to ask with":      {func(c *Config) { c.Server = "https://x" }, "--server-key-file"},
		"a key for nobody":        {func(c *Config) { c.ServerKeyFile = "x" }, "go with --server"},
		"offline without a store": {func(c *Config) { c.OfflineStartMaxAge = 1 }, "--snapshot-dir"},
		"no room for uses":        {func(c *Config) { c.UsesBuffer = -1 }, "--uses-buffer"},
	} {
		cfg := good
		c.change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want something of %s", name, err, c.want)
		}
	}
}

// TestUnstored holds that a stop which could not store everything says what is lost, and
// not that somebody interrupted it.
func TestUnstored(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("%w: 3 of 5: %w", recording.ErrUnstored, context.Canceled), "are lost: 3;"},
		{fmt.Errorf("the end marks are not stored: %w", context.DeadlineExceeded), "no use is lost"},
		{errors.New("the disk is full"), "the disk is full"},
	} {
		got := unstored(c.err, 3)
		if got == nil || !strings.Contains(got.Error(), c.want) || errors.Is(got, context.Canceled) {
			t.Errorf("%v: %v, want something of %s", c.err, got, c.want)
		}
	}
	if err := unstored(nil, 3); err != nil {
		t.Error(err)
	}
}

// TestFailsForGood holds that a sidecar ends over what only a person can mend, rather
// than deny for ever: a folder of another ledger.
func TestFailsForGood(t *testing.T) {
	t.Parallel()
	_, _, _, one := begin(t)
	_, _, _, other := begin(t)
	one.SnapshotDir = filepath.Join(t.TempDir(), "snapshots")
	other.SnapshotDir = one.SnapshotDir
	r := start(t, one)
	r.stop()
	if err := <-r.ended; err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := Run(ctx, other); !errors.Is(err, snapshot.ErrForeign) {
		t.Errorf("it ended with %v", err)
	}
}

// TestChecks holds that every reason not to be ready has a place in /readyz.
func TestChecks(t *testing.T) {
	fault := errors.New("secret")
	for _, s := range []verify.Status{
		{},
		{Closed: true},
		{Opened: true, Stale: true, Err: fault, Ticks: fault, Problems: fault, Shared: true, Clock: verify.Clock{Ahead: time.Hour}},
	} {
		for _, f := range s.Failing() {
			if !slices.Contains(checks, f.Check) {
				t.Errorf("check %s is shown nowhere", f.Check)
			}
			if err := check(s, f.Check); err == nil {
				t.Errorf("%s does not fail", f.Check)
			}
		}
	}
	if err := check(verify.Status{Opened: true, Connected: true, Recording: true}, "broker"); err != nil {
		t.Error(err)
	}
}

// TestNoSecretInErrors has a key in the file for the server, and nothing repeat it.
func TestNoSecretInErrors(t *testing.T) {
	_, secret, _, cfg := begin(t)
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(secret+" "+secret), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Server, cfg.ServerKeyFile = "https://127.0.0.1:1", file
	err := Run(t.Context(), cfg)
	if err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("%v", err)
	}
}
