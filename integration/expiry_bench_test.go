package integration

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkCreatesWhileKeysEnd creates keys with 64 callers for some seconds,
// before and while the ends of thousands of keys are recorded that all have come
// in the same second. It tells both rates, the slowest hundredth of both, and
// how many ends a second were recorded meanwhile, and with nothing else to do.
//
//	go test ./integration -run '^$' -bench CreatesWhileKeysEnd -benchtime 1x
func BenchmarkCreatesWhileKeysEnd(b *testing.B) {
	const (
		keys    = 20_000
		callers = 64
		window  = 10 * time.Second
	)
	for b.Loop() {
		s := start(b, b.TempDir())
		owner := s.owner()
		s.organization(owner, "acme", "")
		s.organization(owner, "other", "")
		end := time.Now().Add(time.Minute).Truncate(time.Second)
		s.create(owner, "acme", callers, time.Minute, fmt.Sprintf(`,"expires_at":%q`, end.UTC().Format(time.RFC3339)), keys)
		before := s.create(owner, "other", callers, window, "")
		if left := time.Until(end); left > 0 {
			time.Sleep(left)
		} else {
			b.Fatalf("the end came %s ago", -left)
		}
		time.Sleep(time.Second)
		recorded := s.expired()
		during := s.create(owner, "other", callers, window, "")
		recorded = s.expired() - recorded
		alone := s.expired()
		time.Sleep(window)
		alone = s.expired() - alone
		b.ReportMetric(float64(len(before))/window.Seconds(), "creates/s")
		b.ReportMetric(float64(len(during))/window.Seconds(), "creates-during/s")
		b.ReportMetric(float64(slowest(before).Milliseconds()), "p99-ms")
		b.ReportMetric(float64(slowest(during).Milliseconds()), "p99-during-ms")
		b.ReportMetric(float64(recorded)/window.Seconds(), "ends-during/s")
		b.ReportMetric(float64(alone)/window.Seconds(), "ends-after/s")
		s.Stop()
	}
}

// BenchmarkCreatesWhileAnOrganizationEnds is the same while the keys of an
// organization that was deleted are revoked one by one.
//
//	go test ./integration -run '^$' -bench CreatesWhileAnOrganizationEnds -benchtime 1x
func BenchmarkCreatesWhileAnOrganizationEnds(b *testing.B) {
	const (
		keys    = 20_000
		callers = 64
		window  = 5 * time.Second
	)
	for b.Loop() {
		s := start(b, b.TempDir())
		owner := s.owner()
		s.organization(owner, "acme", "")
		s.organization(owner, "other", "")
		s.create(owner, "acme", callers, time.Minute, "", keys)
		before := s.create(owner, "other", callers, window, "")
		s.must(200, owner, "DELETE", "/v1/organizations/acme", "")
		time.Sleep(time.Second)
		revoked := s.recorded("revoked")
		during := s.create(owner, "other", callers, window, "")
		revoked = s.recorded("revoked") - revoked
		alone := s.recorded("revoked")
		time.Sleep(window)
		alone = s.recorded("revoked") - alone
		b.ReportMetric(float64(len(before))/window.Seconds(), "creates/s")
		b.ReportMetric(float64(len(during))/window.Seconds(), "creates-during/s")
		b.ReportMetric(float64(slowest(before).Milliseconds()), "p99-ms")
		b.ReportMetric(float64(slowest(during).Milliseconds()), "p99-during-ms")
		b.ReportMetric(float64(revoked)/window.Seconds(), "revocations-during/s")
		b.ReportMetric(float64(alone)/window.Seconds(), "revocations-after/s")
		s.Stop()
	}
}

// create makes keys until a time has passed, or as many as there shall be, and
// returns how long each took.
func (s *server) create(owner, org string, callers int, during time.Duration, more string, most ...int) []time.Duration {
	body := `{"permissions":{"level":"all"},"scope":{"all_workspaces":true}` + more + `}`
	until := time.Now().Add(during)
	var (
		mu   sync.Mutex
		took []time.Duration
		n    atomic.Int64
		wg   sync.WaitGroup
	)
	for range callers {
		wg.Go(func() {
			var own []time.Duration
			for time.Now().Before(until) && (len(most) == 0 || n.Add(1) <= int64(most[0])) {
				began := time.Now()
				if a, err := s.ask(owner, "POST", "/v1/organizations/"+org+"/keys", body); err != nil || a.Status != 201 {
					s.t.Errorf("%v %v", a, err)
					return
				}
				own = append(own, time.Since(began))
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, own...)
		})
	}
	wg.Wait()
	return took
}

// slowest is what a hundredth took longer than.
func slowest(took []time.Duration) time.Duration {
	slices.Sort(took)
	return took[len(took)*99/100]
}

// expired is how many ends a server has recorded.
func (s *server) expired() int { return s.recorded("expired") }

// recorded is how much of something that is due a server has recorded.
func (s *server) recorded(what string) int {
	n := 0
	for line := range strings.Lines(string(s.must(200, "", "GET", "/metrics", "").Body)) {
		_, _ = fmt.Sscanf(line, `keyledger_expiry_tries_total{outcome="`+what+`"} %d`, &n)
	}
	return n
}
