package integration

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"sync"
	"testing"
	"time"
)

// TestAnsweredResolvesAreOnRecord kills the program while many resolve at once, again
// and again: whatever secret was handed out before, there is a record of it, one, and
// never more records of one request than that.
func TestAnsweredResolvesAreOnRecord(t *testing.T) {
	t.Parallel()
	const kills, callers = 6, 12
	data := t.TempDir()
	s := start(t, data)
	owner := s.owner()
	s.organization(owner, "acme", "")
	s.connect(owner, "openai", 1)
	var mu sync.Mutex
	answered, asked, count := map[string]bool{}, 0, 0
	for n := range kills {
		var all sync.WaitGroup
		for caller := range callers {
			all.Go(func() {
				for i := 0; ; i++ {
					id := fmt.Sprintf("resolve-%d-%d-%d", n, caller, i)
					a, err := s.ask(owner, "POST", acmeProviderKeys+"/resolve", `{"provider":"openai"}`, "X-Request-Id", id)
					mu.Lock()
					asked++
					if answered[id] = err == nil && a.Status == 200 && a.Text("secret") == providerSecret(1); answered[id] {
						count++
					}
					mu.Unlock()
					if err != nil {
						return
					}
				}
			})
		}
		s.until("enough are answered", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return count >= (n+1)*5*callers
		})
		time.Sleep(rand.N(10 * time.Millisecond))
		s.Kill()
		all.Wait()
		s = start(t, data)
	}
	told := s.resolvesTold(owner)
	for id, ok := range answered {
		switch {
		case ok && told[id] != 1:
			t.Errorf("%s was answered, and is told of %d times", id, told[id])
		case told[id] > 1:
			t.Errorf("%s is told of %d times", id, told[id])
		}
	}
	t.Logf("%d of %d resolves were answered, %d are on record", count, asked, len(told))
}

// resolvesTold are the requests that resolved, and how often each is on record. It
// waits until the last that was on disk at the start is told.
func (s *server) resolvesTold(owner string) map[string]int {
	s.t.Helper()
	// What is recorded now comes behind all that was.
	s.must(200, owner, "POST", acmeProviderKeys+"/resolve", `{"provider":"openai"}`, "X-Request-Id", "resolve-last")
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		told := map[string]int{}
		for cursor := ""; ; {
			a := s.must(200, owner, "GET", acmeOpenAI+"/resolves?limit=200&cursor="+url.QueryEscape(cursor), "")
			var page struct {
				Items []struct {
					RequestID string `json:"request_id"`
					Count     int    `json:"count"`
				} `json:"items"`
				NextCursor string `json:"next_cursor"`
			}
			if err := json.Unmarshal(a.Body, &page); err != nil {
				s.t.Fatal(err)
			}
			for _, r := range page.Items {
				told[r.RequestID] += r.Count
			}
			if cursor = page.NextCursor; cursor == "" {
				break
			}
		}
		if told["resolve-last"] == 1 {
			return told
		}
		if time.Now().After(deadline) {
			s.t.Fatal("what was resolved is not told of")
		}
	}
}
