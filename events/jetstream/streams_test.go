package jetstream_test

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
)

// operate runs f with the rights of an operator.
func operate(t testing.TB, b *embedded.Broker, f func(natsjs.JetStream) error) {
	t.Helper()
	err := b.Setup(t.Context(), func(conn *nats.Conn) error {
		js, err := natsjs.New(conn)
		if err != nil {
			return err
		}
		return f(js)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// live returns how a stream is configured.
func live(t testing.TB, b *embedded.Broker, stream string) natsjs.StreamConfig {
	t.Helper()
	var config natsjs.StreamConfig
	operate(t, b, func(js natsjs.JetStream) error {
		s, err := js.Stream(t.Context(), stream)
		if err != nil {
			return err
		}
		config = s.CachedInfo().Config
		return nil
	})
	return config
}

// replace makes a stream anew, empty, configured otherwise.
func replace(t testing.TB, b *embedded.Broker, stream string, change func(*natsjs.StreamConfig)) {
	t.Helper()
	config := live(t, b, stream)
	change(&config)
	operate(t, b, func(js natsjs.JetStream) error {
		if err := js.DeleteStream(t.Context(), stream); err != nil {
			return err
		}
		_, err := js.CreateStream(t.Context(), config)
		return err
	})
}

func TestMissingStreams(t *testing.T) {
	b := start(t, t.TempDir())
	l := ledger(t, b.Conn())
	err := l.CheckStreams(t.Context())
	if !errors.Is(err, jetstream.ErrStreamMissing) || !errors.Is(err, events.ErrCorrupt) {
		t.Fatalf("check: %v", err)
	}
	for _, name := range jetstream.Streams() {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%q does not name %s", err, name)
		}
	}
	// It was not made by looking.
	if err := l.CheckStreams(t.Context()); !errors.Is(err, jetstream.ErrStreamMissing) {
		t.Fatalf("check: %v", err)
	}
}

func TestEnsureStreamsAgain(t *testing.T) {
	b := begin(t, t.TempDir())
	if _, err := ledger(t, b.Conn()).Append(t.Context(), entries(1)); err != nil {
		t.Fatal(err)
	}
	ensure := func(conn *nats.Conn) error { return jetstream.EnsureStreams(t.Context(), conn, 1) }
	if err := b.Setup(t.Context(), ensure); err != nil {
		t.Fatal(err)
	}
	lastBecomes(t, ledger(t, b.Conn()), 1)
	replace(t, b, jetstream.StreamUses, func(c *natsjs.StreamConfig) { c.DenyDelete = false })
	if err := b.Setup(t.Context(), ensure); !errors.Is(err, jetstream.ErrStreamChanged) {
		t.Fatalf("ensure: %v", err)
	}
}

func TestChangedStreams(t *testing.T) {
	b := begin(t, t.TempDir())
	l := ledger(t, b.Conn())
	if err := l.CheckStreams(t.Context()); err != nil {
		t.Fatal(err)
	}
	original := live(t, b, jetstream.StreamLedger)
	for member, change := range map[string]func(*natsjs.StreamConfig){
		"subjects":             func(c *natsjs.StreamConfig) { c.Subjects = append(c.Subjects, "more.>") },
		"retention":            func(c *natsjs.StreamConfig) { c.Retention = natsjs.InterestPolicy },
		"max_msgs":             func(c *natsjs.StreamConfig) { c.MaxMsgs = 1000 },
		"max_bytes":            func(c *natsjs.StreamConfig) { c.MaxBytes = 1 << 20 },
		"max_age":              func(c *natsjs.StreamConfig) { c.MaxAge = time.Hour },
		"max_msgs_per_subject": func(c *natsjs.StreamConfig) { c.MaxMsgsPerSubject = 10 },
		"max_msg_size":         func(c *natsjs.StreamConfig) { c.MaxMsgSize = 1000 },
		"discard":              func(c *natsjs.StreamConfig) { c.Discard = natsjs.DiscardOld },
		"storage":              func(c *natsjs.StreamConfig) { c.Storage = natsjs.MemoryStorage },
		"no_ack":               func(c *natsjs.StreamConfig) { c.NoAck, c.AllowAtomicPublish = true, false },
		"duplicate_window":     func(c *natsjs.StreamConfig) { c.Duplicates = time.Minute },
		"compression":          func(c *natsjs.StreamConfig) { c.Compression = natsjs.S2Compression },
		"first_seq":            func(c *natsjs.StreamConfig) { c.FirstSeq = 5 },
		"subject_transform": func(c *natsjs.StreamConfig) {
			c.SubjectTransform = &natsjs.SubjectTransformConfig{Source: "ledger.>", Destination: "ledger.x.>"}
		},
		"republish":         func(c *natsjs.StreamConfig) { c.RePublish = &natsjs.RePublish{Source: ">", Destination: "copy.>"} },
		"allow_direct":      func(c *natsjs.StreamConfig) { c.AllowDirect = true },
		"deny_delete":       func(c *natsjs.StreamConfig) { c.DenyDelete = false },
		"deny_purge":        func(c *natsjs.StreamConfig) { c.DenyPurge = false },
		"allow_rollup_hdrs": func(c *natsjs.StreamConfig) { c.AllowRollup, c.DenyPurge = true, false },
		"consumer_limits":   func(c *natsjs.StreamConfig) { c.ConsumerLimits.InactiveThreshold = time.Second },
		"allow_msg_ttl":     func(c *natsjs.StreamConfig) { c.AllowMsgTTL = true },
		"allow_msg_counter": func(c *natsjs.StreamConfig) { c.AllowMsgCounter, c.Discard = true, natsjs.DiscardOld },
		"allow_atomic":      func(c *natsjs.StreamConfig) { c.AllowAtomicPublish = false },
		"allow_msg_schedules": func(c *natsjs.StreamConfig) {
			c.AllowMsgSchedules, c.AllowRollup, c.DenyPurge, c.Discard = true, true, false, natsjs.DiscardOld
		},
		"persist_mode":  func(c *natsjs.StreamConfig) { c.PersistMode, c.AllowAtomicPublish = natsjs.AsyncPersistMode, false },
		"allow_batched": func(c *natsjs.StreamConfig) { c.AllowBatchPublish = true },
		"sources":       func(c *natsjs.StreamConfig) { c.Sources = []*natsjs.StreamSource{{Name: "OTHER"}} },
		"mirror": func(c *natsjs.StreamConfig) {
			c.Mirror, c.Subjects, c.AllowAtomicPublish = &natsjs.StreamSource{Name: "OTHER"}, nil, false
		},
		"sealed": nil,
	} {
		t.Run(member, func(t *testing.T) {
			if member == "sealed" {
				operate(t, b, func(js natsjs.JetStream) error {
					c := live(t, b, jetstream.StreamLedger)
					c.Sealed = true
					_, err := js.UpdateStream(t.Context(), c)
					return err
				})
			} else {
				replace(t, b, jetstream.StreamLedger, change)
			}
			err := l.CheckStreams(t.Context())
			if !errors.Is(err, jetstream.ErrStreamChanged) || !errors.Is(err, events.ErrCorrupt) {
				t.Fatalf("check: %v", err)
			}
			if !strings.Contains(err.Error(), member+" is") {
				t.Fatalf("%q does not name %s", err, member)
			}
			replace(t, b, jetstream.StreamLedger, func(c *natsjs.StreamConfig) { *c = original })
			if err := l.CheckStreams(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
	t.Run("num_replicas", func(t *testing.T) {
		three, err := jetstream.New(jetstream.Config{Conn: b.Conn(), Ledger: ledgerID, Replicas: 3})
		if err != nil {
			t.Fatal(err)
		}
		if err := three.CheckStreams(t.Context()); !errors.Is(err, jetstream.ErrStreamChanged) || !strings.Contains(err.Error(), "num_replicas is 1 instead of 3") {
			t.Fatalf("check: %v", err)
		}
	})
}

// What an operator may set is no change.
func TestOperatorsChoices(t *testing.T) {
	b := begin(t, t.TempDir())
	for stream, change := range map[string]func(*natsjs.StreamConfig){
		jetstream.StreamLedger: func(c *natsjs.StreamConfig) { c.Description = "ours" },
		jetstream.StreamUses: func(c *natsjs.StreamConfig) {
			c.MaxAge, c.MaxBytes, c.Discard, c.DenyPurge = 30*24*time.Hour, 1<<30, natsjs.DiscardOld, true
		},
		jetstream.StreamAccess: func(c *natsjs.StreamConfig) {
			c.MaxAge, c.MaxBytes, c.MaxMsgsPerSubject = 30*24*time.Hour, 1<<31, 10
		},
	} {
		config := live(t, b, stream)
		change(&config)
		operate(t, b, func(js natsjs.JetStream) error {
			_, err := js.UpdateStream(t.Context(), config)
			return err
		})
	}
	if err := ledger(t, b.Conn()).CheckStreams(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A seal takes the place of the one before it, which is no loss, and an operator
// can destroy it.
func TestSeals(t *testing.T) {
	b := begin(t, t.TempDir())
	l := ledger(t, b.Conn())
	for _, body := range []string{"first", "second"} {
		plant(t, b.Conn(), "seals.installation.signing", []byte(body))
		plant(t, b.Conn(), "seals.installation.sealing", []byte(body))
	}
	held := func(want uint64) {
		t.Helper()
		operate(t, b, func(js natsjs.JetStream) error {
			s, err := js.Stream(t.Context(), jetstream.StreamSeals)
			if err != nil {
				return err
			}
			if got := s.CachedInfo().State.Msgs; got != want {
				t.Errorf("%d seals, want %d", got, want)
			}
			return nil
		})
		if err := l.CheckStreams(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	held(2)
	answer, err := b.Conn().Request("$JS.API.STREAM.MSG.GET."+jetstream.StreamSeals, []byte(`{"last_by_subj":"seals.installation.signing"}`), 10*time.Second)
	if err != nil || !strings.Contains(string(answer.Data), base64.StdEncoding.EncodeToString([]byte("second"))) {
		t.Fatalf("read: %v", err)
	}
	operate(t, b, func(js natsjs.JetStream) error {
		s, err := js.Stream(t.Context(), jetstream.StreamSeals)
		if err != nil {
			return err
		}
		return s.SecureDeleteMsg(t.Context(), 3)
	})
	held(1)
}

// The connection that the server works with can do none of what would change
// history, and the streams refuse deletion even to an operator.
func TestPermissions(t *testing.T) {
	b := begin(t, t.TempDir())
	l := ledger(t, b.Conn())
	if _, err := l.Append(t.Context(), entries(3)); err != nil {
		t.Fatal(err)
	}
	conn, err := b.Connect(t.Context(), "limits")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	denied := func(what, subject string) {
		t.Helper()
		if err := conn.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := conn.LastError(); !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), `"`+subject+`"`) {
			t.Errorf("%s%s: %v", what, subject, err)
		}
	}
	for _, subject := range []string{
		"$JS.API.STREAM.CREATE.LEDGER", "$JS.API.STREAM.CREATE.OTHER", "$JS.API.STREAM.UPDATE.LEDGER",
		"$JS.API.STREAM.DELETE.LEDGER", "$JS.API.STREAM.PURGE.LEDGER", "$JS.API.STREAM.RESTORE.LEDGER",
		"$JS.API.STREAM.SNAPSHOT.LEDGER", "$JS.API.STREAM.MSG.DELETE.LEDGER", "$JS.API.STREAM.LEADER.STEPDOWN.LEDGER",
		"$JS.API.STREAM.PEER.REMOVE.LEDGER", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.INFO",
		"$JS.API.DIRECT.GET.LEDGER", "$JS.API.CONSUMER.DURABLE.CREATE.LEDGER.x", "$JS.API.META.LEADER.STEPDOWN",
		"$JS.API.ACCOUNT.PURGE.LEDGER", "$SYS.REQ.SERVER.PING", "$SYS.REQ.ACCOUNT.LEDGER.CONNZ", "anything",
		"$JS.API.STREAM.UPDATE.USES", "$JS.API.STREAM.DELETE.USES", "$JS.API.STREAM.PURGE.ACCESS",
		"$JS.API.STREAM.UPDATE.SEALS", "$JS.API.STREAM.DELETE.SEALS", "$JS.API.STREAM.PURGE.SEALS", "$JS.API.STREAM.MSG.DELETE.USES",
		"$JS.API.STREAM.RESTORE.SEALS", "$JS.API.CONSUMER.CREATE.SEALS.x",
	} {
		if err := conn.Publish(subject, []byte("{}")); err != nil {
			t.Fatal(err)
		}
		denied("publish to ", subject)
	}
	for _, subject := range []string{"ledger.>", "uses.>", "$JS.EVENT.>", "_INBOX.>", ">"} {
		if _, err := conn.SubscribeSync(subject); err != nil {
			t.Fatal(err)
		}
		denied("subscribe to ", subject)
	}
	operate(t, b, func(js natsjs.JetStream) error {
		s, err := js.Stream(t.Context(), jetstream.StreamLedger)
		if err != nil {
			return err
		}
		if err := s.DeleteMsg(t.Context(), 2); err == nil {
			t.Error("an operator deleted a message")
		}
		if err := s.Purge(t.Context()); err == nil {
			t.Error("an operator purged the stream")
		}
		return nil
	})
	if err := l.CheckStreams(t.Context()); err != nil {
		t.Fatal(err)
	}
	lastBecomes(t, l, 3)
}
