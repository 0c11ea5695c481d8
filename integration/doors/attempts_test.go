package doors

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/events/presence"
	"github.com/keyledger/keyledger/events/snapshots"
)

// attempt is one message that somebody sends.
type attempt struct {
	subject string
	body    string
	header  nats.Header
}

// short is how long a request for messages is open here: when it ends unanswered,
// the broker says so with a message that has no body, which is how it reads a
// request to delete.
const short = 100 * time.Millisecond

// where is where an answer may be wanted: in the ledger, among another's uses,
// among the seals, at the broker's own doors, at another's acknowledgements.
func (w *world) where() []string {
	out := []string{
		w.waiting,
		"$JS.API.CONSUMER.DELETE.LEDGER.other", "$JS.API.CONSUMER.DELETE.LEDGER.sub", "$JS.API.CONSUMER.RESET.LEDGER.sub",
		"$JS.API.CONSUMER.DELETE.USES.aud", "$JS.ACK.LEDGER.sub.1.1.1.1.1", "$SYS.REQ.CLAIMS.UPDATE", "_R_.x.y",
		events.WorkspaceSubject("globex", "evil").String(), events.WorkspaceSubject("acme", "w0").String(),
		events.UsesSubject("globex", "other"), events.UsesSubject("globex", "evil"), "seals.installation.signing", access.Subject("globex", access.LoginFailed),
		presence.Subject("other"), snapshots.ManifestSubject(""), snapshots.ManifestSubject(acmeScope), snapshots.ChunkSubject("", "x", 0),
	}
	for _, stream := range jetstream.Streams() {
		for _, verb := range []string{"DELETE", "PURGE", "UPDATE", "CREATE", "RESTORE", "SNAPSHOT", "MSG.DELETE"} {
			out = append(out, "$JS.API.STREAM."+verb+"."+stream)
		}
	}
	return out
}

// asks is what a credential may ask for, each with an answer of another shape.
func asks(g credentials.Grant) []attempt {
	name := string(g.Name)
	next := "$JS.API.CONSUMER.MSG.NEXT.LEDGER." + name
	out := []attempt{
		{subject: next, body: `{"batch":3,"no_wait":true}`},
		{subject: next, body: fmt.Sprintf(`{"batch":500,"expires":%d}`, short)},
		{subject: next, body: fmt.Sprintf(`{"batch":500,"expires":%d,"idle_heartbeat":%d}`, short, short/4)},
		{subject: next, body: `no request`},
		{subject: "$JS.API.CONSUMER.INFO.LEDGER." + name},
		{subject: "$JS.API.CONSUMER.RESET.LEDGER." + name, body: `{"seq":1}`},
		{subject: "$JS.API.CONSUMER.RESET.LEDGER." + name, body: `no request`},
		{subject: "$JS.API.CONSUMER.MSG.NEXT.USES." + name, body: `{"batch":3,"no_wait":true}`},
		{subject: "$JS.API.CONSUMER.RESET.USES." + name, body: `{"seq":1}`},
		{subject: "$JS.API.CONSUMER.MSG.NEXT.ACCESS." + name, body: `{"batch":3,"no_wait":true}`},
		{subject: "$JS.API.CONSUMER.RESET.ACCESS." + name, body: `{"seq":1}`},
		{subject: "$JS.API.DIRECT.GET.SNAPSHOTS." + snapshots.ManifestSubject(g.Scope)},
		{subject: "$JS.API.DIRECT.GET.SNAPSHOTS." + snapshots.ChunkSubject(g.Scope, "none", 0)},
		{subject: presence.Subject(events.VerifierID(name)), body: "own"},
		{subject: "$JS.ACK.LEDGER." + name + ".1.1.1.1.1", body: ""},
		{subject: "$JS.ACK.LEDGER." + name + ".1.2.2.1.1", body: `+NXT {"batch":2,"no_wait":true}`},
	}
	for _, org := range []events.OrgID{"acme", "globex"} {
		own := events.UsesSubject(org, events.VerifierID(name))
		out = append(
			out, attempt{subject: own, body: "own"},
			// The first of an atomic batch is answered without a body.
			attempt{subject: own, body: "own", header: nats.Header{"Nats-Batch-Id": {"b" + name}, "Nats-Batch-Sequence": {"1"}}},
		)
	}
	return out
}

// alone is what a credential sends without caring for an answer.
func (w *world) alone(g credentials.Grant) []attempt {
	name := string(g.Name)
	evil := events.WorkspaceSubject("globex", "evil").String()
	out := []attempt{
		{subject: evil, body: "forged"},
		{subject: events.TickSubject().String(), body: "forged"},
		{subject: events.CredentialSubject("evil").String(), body: "forged"},
		{subject: events.UsesSubject("acme", "other"), body: "forged"},
		{subject: "uses.0000.globex.other", body: "forged"},
		{subject: "seals.installation.signing", body: "forged"},
		{subject: access.Subject("globex", access.LoginFailed), body: "forged"},
		{subject: presence.Subject("other"), body: "forged"},
		{subject: presence.Subject("evil"), body: "forged"},
		{subject: presence.Subject(events.VerifierID(name)) + ".more", body: "forged"},
		{subject: snapshots.ManifestSubject(""), body: "forged"},
		{subject: snapshots.ManifestSubject(acmeScope), body: "forged"},
		{subject: snapshots.ChunkSubject(acmeScope, "x", 0), body: "forged"},
		{subject: w.waiting},
		{subject: w.waiting, body: "+ACK"},
		{subject: w.waiting, body: "+TERM"},
		{subject: "$SYS.REQ.CLAIMS.UPDATE", body: "forged"},
		{subject: "$SYS.REQ.CLAIMS.DELETE", body: "forged"},
		{subject: "$SYS.REQ.SERVER.PING"},
		{subject: "$SYS.REQ.SERVER.PING.JSZ"},
		{subject: "$JS.API.INFO"},
		{subject: "$JS.API.STREAM.NAMES"},
		{subject: "$JS.API.STREAM.LIST"},
		{subject: "$JS.API.META.LEADER.STEPDOWN"},
		{subject: "$JS.API.CONSUMER.MSG.NEXT.LEDGER.other", body: `{"batch":10,"no_wait":true}`},
		{subject: "$JS.API.CONSUMER.MSG.NEXT.LEDGER.sub", body: `{"batch":10,"no_wait":true}`},
		{subject: "$JS.API.CONSUMER.MSG.NEXT.USES.aud", body: `{"batch":10,"no_wait":true}`},
		{subject: "$JS.API.CONSUMER.MSG.NEXT.ACCESS.aud", body: `{"batch":10,"no_wait":true}`},
		{subject: "$JS.API.DIRECT.GET.SNAPSHOTS", body: `{"seq":1}`},
		{subject: "$JS.API.DIRECT.GET.SNAPSHOTS.snapshots.beef.manifest"},
		{subject: "$JS.API.CONSUMER.RESET.LEDGER.other", body: `{"seq":1}`},
		{subject: "$JS.API.CONSUMER.INFO.LEDGER.other"},
		{subject: "$JS.API.CONSUMER.LEADER.STEPDOWN.LEDGER.other"},
		{subject: "$JS.API.CONSUMER.PAUSE.LEDGER.other", body: `{"pause_until":"2100-01-01T00:00:00Z"}`},
		{subject: "$JS.API.DIRECT.GET.LEDGER", body: `{"seq":1}`},
		{subject: "$JS.API.DIRECT.GET.LEDGER." + evil},
	}
	for _, stream := range jetstream.Streams() {
		out = append(
			out,
			attempt{subject: "$JS.API.STREAM.INFO." + stream},
			attempt{subject: "$JS.API.STREAM.MSG.GET." + stream, body: `{"seq":1}`},
			attempt{subject: "$JS.API.STREAM.MSG.DELETE." + stream, body: `{"seq":1}`},
			attempt{subject: "$JS.API.STREAM.DELETE." + stream},
			attempt{subject: "$JS.API.STREAM.PURGE." + stream},
			attempt{subject: "$JS.API.STREAM.UPDATE." + stream, body: `{"name":"` + stream + `","subjects":["` + strings.ToLower(stream) + `.>"],"max_msgs":1}`},
			attempt{subject: "$JS.API.STREAM.RESTORE." + stream, body: `{"config":{"name":"` + stream + `"}}`},
			attempt{subject: "$JS.API.STREAM.SNAPSHOT." + stream, body: `{"deliver_subject":"_INBOX.snapshot"}`},
			attempt{subject: "$JS.API.STREAM.LEADER.STEPDOWN." + stream},
			attempt{subject: "$JS.API.STREAM.PEER.REMOVE." + stream, body: `{"peer":"n0"}`},
			attempt{subject: "$JS.API.CONSUMER.NAMES." + stream},
			attempt{subject: "$JS.API.CONSUMER.LIST." + stream},
			attempt{subject: "$JS.API.CONSUMER.DELETE." + stream + ".other"},
			attempt{subject: "$JS.API.CONSUMER.DELETE." + stream + "." + name},
		)
		for _, consumer := range []string{name, "other", "evil"} {
			config := fmt.Sprintf(`"name":%q,"durable_name":%q,"ack_policy":"none","deliver_policy":"all"`, consumer, consumer)
			for _, more := range []string{"", `,"deliver_subject":"` + evil + `","idle_heartbeat":100000000`, `,"deliver_subject":"_INBOX.pushed"`} {
				body := fmt.Sprintf(`{"stream_name":%q,"config":{%s%s}}`, stream, config, more)
				out = append(
					out,
					attempt{subject: "$JS.API.CONSUMER.CREATE." + stream + "." + consumer, body: body},
					attempt{subject: "$JS.API.CONSUMER.DURABLE.CREATE." + stream + "." + consumer, body: body},
					attempt{subject: "$JS.API.CONSUMER.CREATE." + stream + "." + consumer + ".ledger.>", body: body},
				)
			}
		}
	}
	return out
}

// disguised are requests whose headers ask the broker to send something on, or say
// that they come from somewhere else.
func (w *world) disguised(g credentials.Grant) []attempt {
	evil := events.WorkspaceSubject("globex", "evil").String()
	headers := []nats.Header{
		{"Nats-Trace-Dest": {evil}},
		{"Nats-Trace-Dest": {evil}, "Nats-Trace-Only": {"true"}},
		{"Nats-Trace-Dest": {"$JS.API.STREAM.DELETE.LEDGER"}},
		{"Nats-Request-Info": {fmt.Sprintf(`{"acc":%q,"svc":%q,"user":"operator"}`, w.authority.LedgerAccount(), w.authority.LedgerAccount())}},
	}
	var out []attempt
	for _, h := range headers {
		for _, a := range asks(g) {
			if a.header == nil {
				out = append(out, attempt{a.subject, a.body, h})
			}
		}
		for _, subject := range []string{evil, "$JS.API.STREAM.DELETE.LEDGER", "$JS.API.STREAM.MSG.GET.LEDGER"} {
			out = append(out, attempt{subject, `{"seq":1}`, h})
		}
	}
	return out
}

// try sends every attempt, and returns when the broker has dealt with all of them.
// It returns what came back to who sent those that are not his to ask.
func (w *world) try(conn *nats.Conn, g credentials.Grant) []string {
	w.Helper()
	send := func(a attempt, reply string) {
		if err := conn.PublishMsg(&nats.Msg{Subject: a.subject, Reply: reply, Data: []byte(a.body), Header: a.header}); err != nil {
			w.Fatal(err)
		}
	}
	// Answers to what is his own are not looked at.
	for _, a := range asks(g) {
		for _, reply := range w.where() {
			send(a, reply)
		}
	}
	got := make(chan *nats.Msg, 4096)
	inbox := conn.NewInbox()
	sub, err := conn.ChanSubscribe(inbox, got)
	if err != nil {
		w.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	for _, a := range w.alone(g) {
		send(a, inbox)
		send(a, "")
	}
	for _, a := range w.disguised(g) {
		send(a, conn.NewInbox())
	}
	w.settle(conn, g)
	var out []string
	for len(got) > 0 {
		m := <-got
		if m.Header.Get("Status") != "503" {
			out = append(out, fmt.Sprintf("%s %v %.120s", m.Subject, m.Header, m.Data))
		}
	}
	return out
}

// settle waits until the broker has dealt with what was sent over a connection, and
// the requests for messages in it have ended.
func (w *world) settle(conn *nats.Conn, g credentials.Grant) {
	w.Helper()
	if err := conn.FlushTimeout(30 * time.Second); err != nil {
		w.Fatal(err)
	}
	// A consumer takes requests in their order, and they end in their order: the
	// last of them ends after all the others.
	sub, err := conn.SubscribeSync(conn.NewInbox())
	if err != nil {
		w.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	body := fmt.Appendf(nil, `{"batch":500,"expires":%d}`, 2*short)
	if err := conn.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.LEDGER."+string(g.Name), sub.Subject, body); err != nil {
		w.Fatal(err)
	}
	for {
		m, err := sub.NextMsg(30 * time.Second)
		if err != nil {
			w.Fatalf("the consumer of %s answers nothing: %v", g.Name, err)
		}
		if m.Header.Get("Status") != "" {
			break
		}
	}
	// What that led to has gone through the streams when something later has.
	for range 2 {
		w.ask("$JS.API.INFO", "", &struct{}{})
	}
}

// unchanged fails unless what was there is there, and nothing else, but the uses that
// those who have tried may record under their own names, what they may say of
// themselves, and how far they have read.
func (w *world) unchanged(before, after state) {
	w.Helper()
	for what, lines := range map[string][2][]string{
		"messages": {but(before.messages, w.own), but(after.messages, w.own)},
		"configs":  {before.configs, after.configs},
		"acked":    {but(before.acked, w.own), but(after.acked, w.own)},
	} {
		if diff := cmp.Diff(lines[0], lines[1]); diff != "" {
			w.Errorf("the %s of the streams were changed (-before +after):\n%s", what, diff)
		}
	}
}

func grants() []credentials.Grant {
	return []credentials.Grant{
		grant("ver", events.CredentialVerifier), grant("ver-acme", events.CredentialVerifier, "acme"),
		grant("sub1", events.CredentialSubscriber), grant("sub-acme", events.CredentialSubscriber, "acme"),
		grant("aud1", events.CredentialAuditor), grant("aud-acme", events.CredentialAuditor, "acme"),
	}
}

// targets are those whose names the attempts use.
func (w *world) targets() {
	w.admit(grant("other", events.CredentialVerifier))
	w.admit(grant("aud", events.CredentialAuditor))
	// The subscriber was told of a revocation, and has not said that it dealt with it.
	conn := w.connect(nats.UserCredentialBytes(w.admit(grant("sub", events.CredentialSubscriber))))
	m, err := conn.Request("$JS.API.CONSUMER.MSG.NEXT.LEDGER.sub", []byte(`{"batch":1,"expires":10000000000}`), 30*time.Second)
	if err != nil || m.Reply == "" {
		w.Fatalf("the subscriber was told nothing: %v", err)
	}
	w.waiting = m.Reply
}

// Nobody who is let in changes anything but the uses that he records under his own
// name, and nobody is told anything that is not his, whatever he sends and wherever
// he wants the answer: neither as he is let in, nor if his user's own rights were
// no wall, because his account is one. Those rights only take away: on three nodes it
// is tried without them alone.
func TestNobodyGetsIn(t *testing.T) {
	both(t, func(w *world) {
		w.targets()
		type intruder struct {
			grant credentials.Grant
			conn  *nats.Conn
		}
		var all []intruder
		for _, g := range grants() {
			if w.replicas == 1 {
				all = append(all, intruder{g, w.connect(nats.UserCredentialBytes(w.admit(g)))})
			}
			g.Name += "-bare"
			all = append(all, intruder{g, w.connect(w.admitBare(g))})
		}
		before := w.look()
		for _, i := range all {
			w.own = append(w.own, string(i.grant.Name))
			if told := w.try(i.conn, i.grant); len(told) > 0 {
				w.Errorf("%s was told: %s", i.grant.Name, strings.Join(told, "\n"))
			}
			after := w.look()
			w.unchanged(before, after)
			if w.Failed() {
				w.Fatalf("by %s", i.grant.Name)
			}
			before = after
		}
	})
}

// A credential within the account that holds the streams, which may ask for what
// comes next and nothing else, stores what it likes by where it wants the answer.
// This is why nobody gets one.
func TestInsideAnAnswerIsAnAppend(t *testing.T) {
	w := oneNode(t)
	g := grant("reader", events.CredentialVerifier)
	w.admit(g)
	conn := w.connect(w.inside("$JS.API.CONSUMER.MSG.NEXT.LEDGER.reader", "$JS.API.CONSUMER.INFO.LEDGER.reader"))
	before := w.look()
	evil := events.WorkspaceSubject("globex", "evil").String()
	if err := conn.PublishRequest("$JS.API.CONSUMER.INFO.LEDGER.reader", evil, nil); err != nil {
		w.Fatal(err)
	}
	w.settle(conn, g)
	stored := slices.DeleteFunc(w.look().messages, func(l line) bool { return slices.Contains(before.messages, l) })
	if len(stored) != 1 || !strings.Contains(stored[0].text, evil) {
		w.Errorf("stored by asking, where the broker has become stricter if nothing was: %q", stored)
	}
}

// The connection that the server works with cannot delete, purge, update or restore
// a stream either, by whatever it may ask for, and wherever it wants the answer.
func TestTheServerKeepsTheStreams(t *testing.T) {
	both(t, func(w *world) {
		w.targets()
		g := grant("own", events.CredentialVerifier)
		w.admit(g)
		before := w.look()
		w.asTheServer(w.server, g)
		after := w.look()
		if !slices.ContainsFunc(after.configs, func(c string) bool { return strings.Contains(c, `"deliver_subject":"$JS.API.STREAM.DELETE.LEDGER"`) }) {
			w.Error("no consumer was made that delivers to the broker's doors: this shows nothing of them")
		}
		// What it may append, it may; all that was there is there as it was, but for what
		// is there to be replaced: what is said later of a verifier, and a newer snapshot.
		for _, m := range before.messages {
			replaced := strings.HasPrefix(m.text, jetstream.StreamPresence) || strings.HasPrefix(m.text, jetstream.StreamSnapshots)
			if !replaced && !slices.Contains(after.messages, m) {
				w.Errorf("gone: %s", m.text)
			}
		}
		streams := func(s state) []string {
			return slices.DeleteFunc(s.configs, func(c string) bool { return !strings.Contains(c, `"retention"`) })
		}
		if diff := cmp.Diff(streams(before), streams(after)); diff != "" || len(streams(after)) != len(jetstream.Streams()) {
			w.Errorf("configured otherwise:\n%s", diff)
		}
		if err := w.ledger.CheckStreams(w.Context()); err != nil {
			w.Error(err)
		}
	})
}

// The same rights within the account that holds the streams delete them. This is
// why the server has an account of its own.
func TestInsideTheServerWouldDelete(t *testing.T) {
	w := oneNode(t)
	g := grant("own", events.CredentialVerifier)
	w.admit(g)
	conn := w.connect(w.inside(jetstream.Subjects()...))
	body := fmt.Sprintf(`{"batch":500,"expires":%d}`, short)
	if err := conn.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.LEDGER.own", "$JS.API.STREAM.DELETE.LEDGER", []byte(body)); err != nil {
		w.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); w.ledger.CheckStreams(w.Context()) == nil; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.Fatal("the stream is still there: the broker has become stricter, and this account could go")
		}
	}
}

// asTheServer sends everything that the server may ask for, and wants the answers
// where they would be taken for requests.
func (w *world) asTheServer(conn *nats.Conn, g credentials.Grant) {
	w.Helper()
	name := string(g.Name)
	var sends []attempt
	for _, stream := range jetstream.Streams() {
		sends = append(
			sends,
			attempt{subject: "$JS.API.STREAM.INFO." + stream},
			attempt{subject: "$JS.API.STREAM.MSG.GET." + stream, body: `{"seq":1}`},
			attempt{subject: "$JS.API.STREAM.MSG.GET." + stream, body: `{"seq":999}`},
			attempt{subject: "$JS.API.CONSUMER.DELETE." + stream + ".nobody"},
			attempt{subject: "$JS.API.CONSUMER.INFO." + stream + "." + name},
		)
	}
	sends = append(sends, asks(g)...)
	for _, reply := range w.where() {
		// What it may ask for itself, it needs no answer for.
		if !strings.HasPrefix(reply, "$JS.API.STREAM.") || slices.Contains(jetstream.Subjects(), reply) {
			continue
		}
		for _, a := range sends {
			if err := conn.PublishMsg(&nats.Msg{Subject: a.subject, Reply: reply, Data: []byte(a.body), Header: a.header}); err != nil {
				w.Fatal(err)
			}
		}
		// A consumer that delivers to the broker's own door, and says there that it
		// is idle, without a body.
		for i, stream := range []string{jetstream.StreamLedger, jetstream.StreamUses} {
			consumer := fmt.Sprintf("push%d%s", i, strings.ReplaceAll(reply, ".", "_"))
			consumer = strings.ReplaceAll(consumer, "$", "")
			body := fmt.Sprintf(`{"stream_name":%q,"config":{"name":%q,"ack_policy":"none","deliver_policy":"new","deliver_subject":%q,`+
				`"idle_heartbeat":%d,"inactive_threshold":60000000000,"mem_storage":true,"num_replicas":1}}`, stream, consumer, reply, short)
			if err := conn.PublishRequest("$JS.API.CONSUMER.CREATE."+stream+"."+consumer, conn.NewInbox(), []byte(body)); err != nil {
				w.Fatal(err)
			}
		}
	}
	w.settle(conn, g)
	// Ten heartbeats of theirs.
	time.Sleep(10 * short)
	w.settle(conn, g)
}
