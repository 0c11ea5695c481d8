package natstest_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/integration/natstest"
)

// The conf makes a cluster that takes nobody who has no credentials, neither as a
// client nor as a node, and that syncs what it answers; and the ledger's streams
// are there after each node in turn was killed, stopped, and stood still.
//
// Breaking it: without the nodes' authorization anybody is a node, and with another
// sync_interval each node shows it.
func TestConf(t *testing.T) {
	c := natstest.Reserve(t)
	auth, operator, password := authority(t, c.Members())
	c.Start(auth)

	for name, option := range map[string]nats.Option{
		"nobody": nats.Name("nobody"), "a password": nats.UserInfo("node", password), "a token": nats.Token(password),
	} {
		if conn, err := nats.Connect(c.URL(0), option); err == nil {
			conn.Close()
			t.Errorf("%s comes in", name)
		}
	}
	for name, credentials := range map[string]string{
		"nobody": `{}`, "another password": `{"user":"node","pass":"another"}`,
	} {
		if said := knock(t, c.Member(0), credentials); !strings.Contains(said, "Authorization Violation") {
			t.Errorf("%s as a node is told %q", name, said)
		}
	}
	if said := knock(t, c.Member(0), fmt.Sprintf(`{"user":"node","pass":%q}`, password)); strings.Contains(said, "Authorization Violation") {
		t.Errorf("a node is told %q", said)
	}

	conn, err := nats.Connect(c.URL(0), nats.UserCredentials(operator), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond),
		// A node that stands still keeps its connections: only silence tells.
		nats.PingInterval(2*time.Second), nats.MaxPingsOutstanding(2))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	for begun := false; !begun; {
		err := jetstream.EnsureStreams(t.Context(), conn, natstest.Nodes)
		if err != nil && !errors.Is(err, events.ErrUnavailable) {
			t.Fatal(err)
		}
		begun = err == nil
	}
	for i := range natstest.Nodes {
		config(t, c, i)
	}
	lost := append(publish(t, conn, 1), through(t, c, conn)...)
	js, err := natsjs.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), jetstream.StreamUses)
	if err != nil {
		t.Fatal(err)
	}
	for _, seq := range lost {
		if _, err := stream.GetMsg(t.Context(), seq); err != nil {
			t.Errorf("message %d was answered, and is gone: %v", seq, err)
		}
	}
}

// through publishes while each node in turn is away, in each of three ways.
func through(t *testing.T, c *natstest.Cluster, conn *nats.Conn) (answered []uint64) {
	for i, away := range []struct{ leave, back func(int) }{
		{c.Kill, c.Restart}, {c.Stop, c.Restart}, {c.Pause, func(i int) { c.Resume(i); c.Healthy(i) }},
	} {
		node := c.Leader(jetstream.StreamUses)
		away.leave(node)
		answered = append(answered, publish(t, conn, 3)...)
		away.back(node)
		t.Logf("%d: node %d was away", i, node)
	}
	return answered
}

// publish publishes until n messages were answered.
func publish(t *testing.T, conn *nats.Conn, n int) (answered []uint64) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); len(answered) < n; {
		if time.Now().After(deadline) {
			t.Fatal("nobody answers")
		}
		var ack struct{ Seq uint64 }
		if msg, err := conn.Request("uses.0000.acme.test", []byte("use"), time.Second); err == nil && json.Unmarshal(msg.Data, &ack) == nil && ack.Seq > 0 {
			answered = append(answered, ack.Seq)
		}
	}
	return answered
}

// authority makes what the nodes' conf includes, and the credentials of who may make
// streams.
func authority(t *testing.T, members []string) (auth, operator, password string) {
	t.Helper()
	made := t.TempDir()
	a, err := credentials.Create(made)
	if err == nil {
		err = a.WriteCluster(members)
	}
	if err != nil {
		t.Fatal(err)
	}
	// The nodes get these two files and nothing else.
	auth = t.TempDir()
	for _, name := range []string{credentials.ConfFile, credentials.ClusterFile} {
		text, err := os.ReadFile(filepath.Join(made, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(auth, name), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if found := regexp.MustCompile(`user: node, password: "([^"]+)"`).FindSubmatch(text); found != nil {
			password = string(found[1])
		}
	}
	if password == "" {
		t.Fatal("the nodes have no password")
	}
	return auth, filepath.Join(made, credentials.OperatorCreds), password
}

// config compares what a node runs with with what the conf promises.
func config(t *testing.T, c *natstest.Cluster, i int) {
	t.Helper()
	body, err := c.Ask(i, "/varz")
	if err != nil {
		t.Fatal(err)
	}
	var told struct {
		Name         string `json:"server_name"`
		AuthRequired bool   `json:"auth_required"`
		MaxPayload   int    `json:"max_payload"`
		Operators    []any  `json:"trusted_operators_claim"`
		Cluster      struct{ Name string }
		JetStream    struct {
			Config struct {
				SyncAlways bool `json:"sync_always"`
			}
		}
	}
	if err := json.Unmarshal(body, &told); err != nil {
		t.Fatal(err)
	}
	if !told.JetStream.Config.SyncAlways || !told.AuthRequired || len(told.Operators) != 1 ||
		told.MaxPayload != 256*1024 || told.Cluster.Name != "keyledger" || told.Name != fmt.Sprintf("nats-%d", i+1) {
		t.Errorf("node %d runs with %+v", i, told)
	}
}

// knock tries to come in as a node, and returns what it is told.
func knock(t *testing.T, address, credentials string) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(conn)
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "CONNECT %s\r\nPING\r\n", credentials); err != nil {
		t.Fatal(err)
	}
	said, err := lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return said
}
