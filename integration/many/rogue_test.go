package many

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/keyledger/keyledger/cmd/access"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/events/presence"
	"github.com/keyledger/keyledger/events/snapshots"
	"github.com/keyledger/keyledger/integration/natstest"
)

// rogue speaks as a leaf node does, and says what no honest one would: nothing at its
// own end checks where it wants the answers.
type rogue struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func newRogue(t *testing.T, hub, file string) *rogue {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	token, err := nkeys.ParseDecoratedJWT(content)
	if err != nil {
		t.Fatal(err)
	}
	key, err := nkeys.ParseDecoratedUserNKey(content)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(hub, "nats-leaf://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	r := &rogue{t, conn, bufio.NewReader(conn)}
	line, err := r.in.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var info struct {
		Nonce string `json:"nonce"`
	}
	if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "INFO ")), &info); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	sig, err := key.Sign([]byte(info.Nonce))
	if err != nil {
		t.Fatal(err)
	}
	hello, err := json.Marshal(map[string]any{
		"version": "2.15.2", "jwt": token, "sig": base64.RawURLEncoding.EncodeToString(sig), "server_id": "NROGUE", "name": "rogue",
		"domain": "rogue", "headers": true, "jetstream": true,
	})
	if err != nil {
		t.Fatal(err)
	}
	r.send("CONNECT " + string(hello) + "\r\n")
	r.settle()
	return r
}

func (r *rogue) send(text string) {
	r.t.Helper()
	if _, err := r.conn.Write([]byte(text)); err != nil {
		r.t.Fatal(err)
	}
}

// settle returns when the broker has taken what was sent, and fails if it threw it out.
func (r *rogue) settle() {
	r.t.Helper()
	r.send("PING\r\n")
	_ = r.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	for {
		line, err := r.in.ReadString('\n')
		if err != nil || strings.HasPrefix(line, "-ERR") {
			r.t.Fatalf("it was thrown out: %q %v", line, err)
		}
		if strings.HasPrefix(line, "PING") {
			r.send("PONG\r\n")
		}
		if strings.HasPrefix(line, "PONG") {
			return
		}
	}
}

func (r *rogue) message(subject, reply, headers, body string) {
	if headers == "" {
		r.send(fmt.Sprintf("LMSG %s %s %d\r\n%s\r\n", subject, reply, len(body), body))
		return
	}
	headers = "NATS/1.0\r\n" + headers + "\r\n"
	r.send(fmt.Sprintf("HMSG %s %s %d %d\r\n%s%s\r\n", subject, reply, len(headers), len(headers)+len(body), headers, body))
}

// What a leaf node can do that somebody has taken over. It reads the ledger, and records
// under the names of those behind it: that is what it is for. It changes no stream, by
// whatever it sends and wherever it wants the answer, with one exception: an answer
// without a body that it wants where a subscriber's acknowledgement is awaited is taken
// for one.
func TestRogueLeaf(t *testing.T) {
	w := begin(t)
	folder := t.TempDir()
	w.doors("", func(d *access.Doors) error { return d.IssueLeaf(t.Context(), "shop", w.cluster.Hubs(), folder) })
	leaf := natstest.ReserveLeaf(t)
	leaf.Start(folder)
	w.issue(leaf.URL(0), access.Wish{Name: "till", Leaf: "shop"})
	leaf.Kill(0)
	told := access.Wish{Name: "told", For: events.CredentialSubscriber, Out: filepath.Join(t.TempDir(), "told.creds")}
	w.doors("", func(d *access.Doors) error {
		_, err := d.Issue(t.Context(), told)
		return err
	})
	w.revoke()
	subscriber := w.connect(w.cluster.URL(0), told.Out)
	var awaited string
	w.until("a revocation to be told", func() error {
		m, err := subscriber.Request("$JS.API.CONSUMER.MSG.NEXT.LEDGER.told", []byte(`{"batch":1,"expires":5000000000}`), 10*time.Second)
		if err == nil && m.Reply == "" {
			err = errors.New("nothing was told")
		}
		if err == nil {
			awaited = m.Reply
		}
		return err
	})
	operator := w.connect(w.cluster.URL(0), filepath.Join(w.auth, credentials.OperatorCreds))
	floor := func() (floor uint64) {
		w.ask(operator, "$JS.API.CONSUMER.INFO.LEDGER.told", func(answer []byte) error {
			var info struct {
				Error any `json:"error"`
				Floor struct {
					Stream uint64 `json:"stream_seq"`
				} `json:"ack_floor"`
			}
			err := json.Unmarshal(answer, &info)
			if info.Error != nil {
				err = fmt.Errorf("%v", info.Error)
			}
			floor = info.Floor.Stream
			return err
		})
		return floor
	}
	streams := func() map[string]string {
		out := map[string]string{}
		for _, stream := range jetstream.Streams() {
			w.ask(operator, "$JS.API.STREAM.INFO."+stream, func(answer []byte) error {
				var info struct {
					Error  any             `json:"error"`
					Config json.RawMessage `json:"config"`
					State  struct {
						Last      uint64 `json:"last_seq"`
						Messages  uint64 `json:"messages"`
						Consumers int    `json:"consumer_count"`
					} `json:"state"`
				}
				err := json.Unmarshal(answer, &info)
				if info.Error != nil {
					err = fmt.Errorf("%v", info.Error)
				}
				if stream == jetstream.StreamUses || stream == jetstream.StreamPresence {
					// What it records under the names of its own is its own.
					info.State.Last, info.State.Messages = 0, 0
				}
				out[stream] = fmt.Sprintf("%s %+v", info.Config, info.State)
				return err
			})
		}
		return out
	}
	before, acked := streams(), floor()
	own := []struct{ subject, headers, body string }{
		{events.UsesSubject("acme", "till"), "", "own"},
		{events.UsesSubject("acme", "till"), "Nats-Batch-Id: rogue\r\nNats-Batch-Sequence: 1\r\n", "own"},
		{presence.Subject("till"), "", "own"},
		{jetstream.HubPrefix + ".DIRECT.GET.SNAPSHOTS." + snapshots.ManifestSubject(""), "", ""},
		{jetstream.HubPrefix + ".CONSUMER.RESET.LEDGER.shop", "", ""},
		{"$JS.FC.LEDGER.shop.x", "", ""},
	}
	evil := events.WorkspaceSubject("globex", "evil").String()
	replies := []string{
		evil, "seals.installation.signing", events.UsesSubject("globex", "other"), presence.Subject("direct"), snapshots.ManifestSubject(""),
		"$JS.API.CONSUMER.DELETE.LEDGER.told", "$JS.API.CONSUMER.RESET.LEDGER.told", "$SYS.REQ.CLAIMS.UPDATE", "_R_.x.y",
	}
	for _, stream := range jetstream.Streams() {
		for _, verb := range []string{"DELETE", "PURGE", "UPDATE"} {
			replies = append(replies, "$JS.API.STREAM."+verb+"."+stream)
		}
	}
	r := newRogue(t, w.cluster.Hubs()[0], filepath.Join(folder, credentials.LeafCreds))
	for _, reply := range replies {
		for _, o := range own {
			r.message(o.subject, reply, o.headers, o.body)
		}
		// As if it was asked for where it is wanted.
		for _, body := range []string{"", "{}"} {
			r.message(reply, "_INBOX.x", "", body)
			r.message(reply, evil, "", body)
		}
	}
	r.settle()
	time.Sleep(3 * time.Second)
	for stream, was := range before {
		if now := streams()[stream]; now != was {
			t.Errorf("%s was %s, and is %s", stream, was, now)
		}
	}
	if now := floor(); now != acked {
		t.Errorf("what was told is taken for done up to %d instead of %d", now, acked)
	}
	r.message(own[3].subject, awaited, "", "")
	w.until("the broker to take an answer for an acknowledgement; if it has become stricter, say so in docs/threat-model.md", func() error {
		if floor() == acked {
			return errors.New("it did not")
		}
		return nil
	})
}

// ask asks until there is an answer that can be taken.
func (w *world) ask(conn *nats.Conn, subject string, take func([]byte) error) {
	w.Helper()
	w.until("an answer to "+subject, func() error {
		answer, err := conn.Request(subject, nil, 5*time.Second)
		if err != nil {
			return err
		}
		return take(answer.Data)
	})
}
