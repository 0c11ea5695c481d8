package jetstream

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
)

// said is what a leader of so many seconds in office says of its peers, heard so
// many milliseconds ago.
func said(t *testing.T, office time.Duration, last int, peers ...time.Duration) announcement {
	t.Helper()
	now := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	replicas := ""
	for i, p := range peers {
		if i > 0 {
			replicas += ","
		}
		replicas += fmt.Sprintf(`{"name":"n%d","current":true,"active":%d}`, i, p)
	}
	a, err := announcementOf(&nats.Msg{Data: fmt.Appendf(nil, `{"ts":%q,"state":{"last_seq":%d},"cluster":{"leader":"n9","leader_since":%q,"replicas":[%s]}}`,
		now.Format(time.RFC3339Nano), last, now.Add(-office).Format(time.RFC3339Nano), replicas)})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestJudge(t *testing.T) {
	const ms = time.Millisecond
	long := time.Hour
	for _, test := range []struct {
		name  string
		want  verdict
		said  announcement
		seen  events.Position
		since time.Duration
	}{
		{"all are near", standing, said(t, long, 9, 900*ms, 20*ms), 9, 0},
		{"one of five is not", doubtful, said(t, long, 9, 20*ms, 20*ms, 20*ms, 5000*ms), 9, 0},
		{"one of three is not", doubtful, said(t, long, 9, 20*ms, 5000*ms), 9, 100 * ms},
		{"one of three is not, the other answered after the reading", standing, said(t, long, 9, 20*ms, 5000*ms), 9, 300 * ms},
		{"it may have been on its way", doubtful, said(t, long, 9, 100*ms, 5000*ms), 9, 300 * ms},
		{"none is", deserted, said(t, long, 9, 3100*ms, 5000*ms), 9, 0},
		{"none is, after long reading", standing, said(t, long, 9, 3100*ms, 5000*ms), 9, 10_000 * ms},
		{"never heard", deserted, said(t, long, 9, 0, 0), 9, 0},
		{"one never heard", doubtful, said(t, long, 9, 20*ms, 0), 9, 0},
		{"new in office", standing, said(t, 2*time.Second, 9, 900*ms, 20*ms), 9, 0},
		{"new in office, one heard before", doubtful, said(t, 500*ms, 9, 900*ms, 20*ms), 9, 0},
		{"new in office, none heard since", doubtful, said(t, 10*ms, 9, 900*ms, 20*ms), 9, 0},
		{"no more new in office, none heard since", deserted, said(t, 7*time.Second, 9, 3900*ms, 6000*ms), 9, 0},
		{"ends before what was seen", doubtful, said(t, long, 8, 20*ms, 20*ms), 9, 0},
		{"a peer is missing", doubtful, said(t, long, 9, 20*ms), 9, 0},
		{"not in office", doubtful, announcement{}, 0, 0},
	} {
		replicas := 3
		if len(test.said.Cluster.Peers) == 4 {
			replicas = 5
		}
		if got := test.said.judge(replicas, test.seen, test.since); got != test.want {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
		test.said.rivals = true
		if got := test.said.judge(replicas, test.seen, test.since); got != doubtful {
			t.Errorf("%s, with a rival: %d", test.name, got)
		}
	}
}

// What was read while a leader was not yet known to be the only one is read again.
func TestSole(t *testing.T) {
	var c confirming
	a := said(t, time.Second, 9, 20*time.Millisecond, 20*time.Millisecond)
	read := time.Now()
	a.received = read.Add(time.Second)
	if got := c.sole(a, read); got != replaced {
		t.Errorf("read before: %d", got)
	}
	a.received = read.Add(3 * time.Second)
	if got := c.sole(a, read.Add(2*time.Second)); got != standing {
		t.Errorf("read between: %d", got)
	}
	next := a
	next.Cluster.Leader = "n8"
	if got := c.sole(next, read.Add(2*time.Second)); got != replaced {
		t.Errorf("another leader: %d", got)
	}
	if got := c.sole(a, read.Add(2*time.Second)); got != replaced {
		t.Errorf("and back: %d", got)
	}
}

// slowly answers the question who leads, after a while, as a leader would that has
// heard one of its peers at an instant for the last time, and the other never.
func slowly(t *testing.T, heard time.Time, underway time.Duration) *Ledger {
	t.Helper()
	conn := plain(t)
	_, err := conn.Subscribe("$JS.API.STREAM.INFO.LEDGER", func(m *nats.Msg) {
		now := time.Now().UTC()
		body := fmt.Appendf(nil, `{"ts":%q,"state":{"last_seq":9},"cluster":{"leader":"n9","leader_since":%q,"replicas":[{"name":"n0","active":%d},{"name":"n1"}]}}`,
			now.Format(time.RFC3339Nano), now.Add(-time.Hour).Format(time.RFC3339Nano), now.Sub(heard))
		time.Sleep(underway)
		_ = m.Respond(body)
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := New(Config{Conn: conn, Ledger: events.LedgerID{1}, Replicas: 3, LoadTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// However long an answer is on its way, it tells what was when its leader spoke.
func TestSlowAnswerConfirmsNothing(t *testing.T) {
	t.Parallel()
	now := time.Now()
	if _, err := slowly(t, now, 600*time.Millisecond).Confirm(t.Context(), now.Add(time.Millisecond)); !errors.Is(err, events.ErrUnavailable) {
		t.Errorf("its peer was heard before the reading: %v", err)
	}
	if end, err := slowly(t, now, 0).Confirm(t.Context(), now.Add(-time.Second)); err != nil || end != 9 {
		t.Errorf("its peer was heard after the reading: %d, %v", end, err)
	}
}
