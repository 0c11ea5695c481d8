package serve

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/events"
)

// running runs a server in a folder until the returned function, once it is
// ready.
func running(t *testing.T, dir string) (url string, stop func()) {
	t.Helper()
	return runningAs(t, dir, func(*Config) {})
}

// runningAs runs one with another configuration.
func runningAs(t *testing.T, dir string, change func(*Config)) (url string, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan string, 1), make(chan error, 1)
	cfg := Config{Listen: "127.0.0.1:0", Data: dir, Ready: func(url string) { ready <- url }, Logger: slog.New(slog.DiscardHandler)}
	change(&cfg)
	go func() { ended <- Run(ctx, cfg) }()
	select {
	case url = <-ready:
	case err := <-ended:
		cancel()
		t.Fatalf("did not start: %v", err)
	}
	return url, func() {
		t.Helper()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// scrape returns a page of a server.
func scrape(t *testing.T, url string) (int, string) {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

// TestIdleServerStaysFresh: by ticks, the first of them at its start.
func TestIdleServerStaysFresh(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, stop := running(t, dir)
	stop()
	// A verifier that is let in with the smallest bound there is has ticks come
	// every second.
	cfg := Config{Listen: "127.0.0.1:0", Data: dir, Logger: slog.New(slog.DiscardHandler)}
	b, err := startBroker(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ledger, err := open(t.Context(), cfg, b)
	if err != nil {
		t.Fatal(err)
	}
	_, err = ledger.Append(t.Context(), []events.Entry{{
		Subject: events.CredentialSubject("edge-1"), Event: events.CredentialIssued{Name: "edge-1", For: events.CredentialVerifier, Account: "A", MaxStaleness: 3},
		Meta: events.Meta{
			ID: events.EventID(uuid.New()), Ledger: ledger.positions.Ledger, Time: events.TimeOf(time.Now()), Revision: 1,
			Actor: events.Actor{Type: events.ActorSystem, Name: "test"}, Command: events.CommandID(uuid.New()),
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	ledger.close()
	b.stop()
	time.Sleep(1100 * time.Millisecond)

	url, stop := running(t, dir)
	defer stop()
	appended := func() string {
		_, page := scrape(t, url+"/metrics")
		_, rest, _ := strings.Cut(page, `keyledger_ticks_total{result="appended"} `)
		n, _, _ := strings.Cut(rest, "\n")
		return n
	}
	for _, want := range []string{"1", "2", "3"} {
		for end := time.Now().Add(time.Minute); appended() < want; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s ticks after a minute, want %s", appended(), want)
			}
		}
	}
	if status, page := scrape(t, url+"/readyz"); status != http.StatusOK {
		t.Errorf("%d %s", status, page)
	}
	if _, page := scrape(t, url+"/metrics"); !strings.Contains(page, "keyledger_tick_faults_total 0") {
		t.Error("ticks are not agreed with")
	}
}
