package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// accessRow is an access record as the API shows it.
type accessRow struct {
	Minute       time.Time `json:"minute"`
	Kind         string    `json:"kind"`
	Organization string    `json:"organization"`
	Server       string    `json:"server"`
	What         string    `json:"what"`
	Code         string    `json:"code"`
	Source       string    `json:"source"`
	Count        int       `json:"count"`
}

// accesses lists access records of all organizations, of a kind.
func (s *server) accesses(owner, kind string) []accessRow {
	s.t.Helper()
	var all []accessRow
	for cursor := ""; ; {
		var page struct {
			Items      []accessRow `json:"items"`
			NextCursor string      `json:"next_cursor"`
		}
		a := s.must(200, owner, "GET", "/v1/organizations/_system/audit/access?all=true&limit=200&kind="+kind+cursor, "")
		if err := json.Unmarshal(a.Body, &page); err != nil {
			s.t.Fatal(err)
		}
		all = append(all, page.Items...)
		if page.NextCursor == "" {
			return all
		}
		cursor = "&cursor=" + page.NextCursor
	}
}

func sumOf(rows []accessRow) (sum int) {
	for _, r := range rows {
		sum += r.Count
	}
	return sum
}

// strangers try secrets that nobody has at a server, each from another address, from
// several connections at a time, and come back with how long the slowest waited.
func (s *server) strangers(tries int) (slowest time.Duration) {
	s.t.Helper()
	const at = 8
	var (
		all sync.WaitGroup
		mu  sync.Mutex
	)
	for n := range at {
		all.Go(func() {
			for i := n; i < tries; i += at {
				began := time.Now()
				a, err := s.ask("", "GET", "/v1/authorize", "", "X-Api-Key", fmt.Sprint("nobodys-", i), "X-Forwarded-For", fmt.Sprintf("2001:db8::%x", i))
				if err != nil || a.Status != 401 {
					s.t.Errorf("a stranger got %v (%v)", a, err)
				}
				mu.Lock()
				slowest = max(slowest, time.Since(began))
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return slowest
}

// Of a flood every try is counted, also those of the last moment before a stop; it is
// told in a bounded number of rows, and the view is rebuilt as it was.
func TestAccessRecordsOfAFlood(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	owner := s.owner()
	const tries = 2000
	s.strangers(tries)
	for range 20 {
		s.must(401, "nobodys", "GET", "/v1/organizations", "")
	}
	s.Stop()
	s = start(t, s.data)
	s.until("what was tried is counted", func() bool {
		return sumOf(s.accesses(owner, "secret.unknown")) >= tries && sumOf(s.accesses(owner, "login.failed")) >= 20
	})
	rows, logins := s.accesses(owner, "secret.unknown"), s.accesses(owner, "login.failed")
	if sumOf(rows) != tries || sumOf(logins) != 20 {
		t.Errorf("%d tries and %d logins", sumOf(rows), sumOf(logins))
	}
	minutes, others := map[time.Time]int{}, 0
	for _, r := range rows {
		minutes[r.Minute]++
		if r.What == "others" {
			others += r.Count
		}
	}
	for minute, n := range minutes {
		if n > 31 {
			t.Errorf("%d rows in %v", n, minute)
		}
	}
	if others == 0 {
		t.Error("nothing is among others")
	}
	s.Stop()
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(filepath.Join(s.data, "access.db"+suffix)); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	s = start(t, s.data)
	s.until("the view is there again", func() bool { return sumOf(s.accesses(owner, "secret.unknown")) == tries })
	if again := s.accesses(owner, "secret.unknown"); !slices.Equal(rows, again) {
		t.Errorf("%v, and rebuilt %v", rows, again)
	}
}

// Servers tell of each other's records. While the brokers are away requests are
// answered as before, and what they were is on record afterwards.
func TestAccessRecordsOfACluster(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	begun := c.begin()
	owner := ownerIn(t, begun)
	a, b := c.join(begun), c.join(begun)
	a.strangers(10)
	b.strangers(20)
	for _, s := range []*server{a, b} {
		s.until("both servers' records", func() bool { return sumOf(s.accesses(owner, "secret.unknown")) == 30 })
	}
	servers := map[string]int{}
	for _, r := range a.accesses(owner, "secret.unknown") {
		servers[r.Server] += r.Count
	}
	if len(servers) != 2 {
		t.Errorf("%v", servers)
	}
	c.Stop(1)
	c.Stop(2)
	if slowest := a.strangers(100); slowest > 5*time.Second {
		t.Errorf("a stranger waited %v", slowest)
	}
	c.Restart(1)
	c.Restart(2)
	for _, s := range []*server{a, b} {
		s.until("what was tried meanwhile", func() bool { return sumOf(s.accesses(owner, "secret.unknown")) >= 130 })
	}
	a.Stop()
	if n := sumOf(b.accesses(owner, "secret.unknown")); n != 130 {
		t.Errorf("%d", n)
	}
}
