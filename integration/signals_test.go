package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// signals counts what the ledger tells of how a key is used.
func (s *server) signals(owner, id string) (sources, spikes int) {
	s.t.Helper()
	history := s.must(200, owner, "GET", "/v1/organizations/acme/keys/"+id+"/history?limit=200", "").String()
	return strings.Count(history, `"key.new_source"`), strings.Count(history, `"key.denials_spike"`)
}

// awaitSignals waits until as much was told of a key, and looks whether it stays so.
func (s *server) awaitSignals(owner, id string, sources, spikes int) {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		a, b := s.signals(owner, id)
		if a == sources && b == spikes {
			return
		}
		if a > sources || b > spikes || time.Now().After(deadline) {
			s.t.Fatalf("%d new sources and %d spikes were told, want %d and %d", a, b, sources, spikes)
		}
	}
}

// Each new source and each spike is told once, though the server is killed right
// behind it, and though its view of uses is made anew: what is told then is what is
// new then.
func TestSignalsAreToldOnce(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	s := run(t, data, "127.0.0.1:0", "--nats-listen", "", "--record-client-ip")
	s.awaitReady()
	owner := s.owner()
	s.organization(owner, "acme", "")
	made := s.must(201, owner, "POST", "/v1/organizations/acme/keys", `{"permissions":{"level":"all"},"scope":{"all_workspaces":true}}`)
	id, secret := made.Text("key.id"), made.Text("secret")
	from := func(ip string) {
		t.Helper()
		s.must(200, owner, "POST", "/v1/verify", fmt.Sprintf(`{"secret":%q,"context":{"client_ip":%q}}`, secret, ip))
	}
	deny := func(n int) {
		t.Helper()
		// Two minutes must not share them.
		if left := time.Until(time.Now().Truncate(time.Minute).Add(time.Minute)); left < 10*time.Second {
			time.Sleep(left)
		}
		for range n {
			s.must(200, owner, "POST", "/v1/verify", fmt.Sprintf(`{"secret":%q,"permission":"no:such"}`, secret))
		}
	}
	from("192.0.2.1")
	from("192.0.2.2")
	deny(25)
	s.awaitSignals(owner, id, 1, 1)
	from("192.0.2.2")
	from("192.0.2.1")
	for n, rebuild := range []bool{false, true} {
		s.Kill()
		if rebuild {
			for _, suffix := range []string{"", "-wal", "-shm"} {
				if err := os.Remove(filepath.Join(data, "usage.db"+suffix)); err != nil && !os.IsNotExist(err) {
					t.Fatal(err)
				}
			}
		}
		s = run(t, data, "127.0.0.1:0", "--nats-listen", "", "--record-client-ip")
		s.awaitReady()
		from("192.0.2.1")
		deny(25)
		// What is told next comes behind what would have been told of these.
		from(fmt.Sprintf("2001:db8::%d", n+1))
		s.awaitSignals(owner, id, 2+n, 1)
	}
}

// A server that is not asked to records no addresses: programs tell sources apart.
func TestNoAddressUnlessAsked(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	s := start(t, data)
	owner := s.owner()
	s.organization(owner, "acme", "")
	made := s.must(201, owner, "POST", "/v1/organizations/acme/keys", `{"permissions":{"level":"all"},"scope":{"all_workspaces":true}}`)
	for _, context := range []string{`"client_ip":"192.0.2.1"`, `"client_ip":"192.0.2.2"`, `"client_ip":"192.0.2.3","user_agent":"one"`, `"user_agent":"two"`} {
		s.must(200, owner, "POST", "/v1/verify", fmt.Sprintf(`{"secret":%q,"context":{%s}}`, made.Text("secret"), context))
	}
	s.awaitSignals(owner, made.Text("key.id"), 1, 0)
	history := s.must(200, owner, "GET", "/v1/organizations/acme/keys/"+made.Text("key.id")+"/history", "")
	if !strings.Contains(history.String(), `"after":"user_agent"`) || strings.Contains(history.String(), "two") {
		t.Errorf("told as %s", history)
	}
	s.Stop()
	for _, name := range []string{"usage.db", "usage.db-wal"} {
		if text, err := os.ReadFile(filepath.Join(data, name)); err == nil && strings.Contains(string(text), "192.0.2") {
			t.Errorf("%s holds an address", name)
		}
	}
}
