package jetstream

import (
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/events"
)

func TestPlace(t *testing.T) {
	at := time.Unix(1_795_240_000, 123_456_789)
	for _, reply := range []string{
		"$JS.ACK.LEDGER.kl_x.1.42.7.1795240000123456789.3",
		"$JS.ACK.hub.ACCOUNTHASH.LEDGER.kl_x.1.42.7.1795240000123456789.3",
		"$JS.ACK._.ACCOUNTHASH.LEDGER.kl_x.1.42.7.1795240000123456789.3.rAnDoM",
	} {
		got, ok := placeOf(reply)
		if want := (place{seq: 42, delivery: 7, stored: events.TimeOf(at), pending: 3}); !ok || got != want {
			t.Errorf("%s: %+v %t", reply, got, ok)
		}
	}
	for _, reply := range []string{"", "_INBOX.x", "$JS.ACK.LEDGER", "$JS.ACK.LEDGER.c.1.x.7.1.3", "$JS.ACK.LEDGER.c.1.-4.7.1.3", "$JS.ACK.LEDGER.c.1.4.7.1."} {
		if _, ok := placeOf(reply); ok {
			t.Errorf("%q has a place", reply)
		}
	}
}

func TestConfigValidate(t *testing.T) {
	err := Config{AppendTimeout: -1, LoadTimeout: -1, Heartbeat: time.Hour, CatchUp: -1}.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, member := range []string{"Conn", "Ledger", "Replicas", "AppendTimeout", "LoadTimeout", "Heartbeat", "CatchUp"} {
		if !strings.Contains(err.Error(), member) {
			t.Errorf("%q does not name %s", err, member)
		}
	}
	if _, err := New(Config{}); err == nil {
		t.Fatal("accepted")
	}
}
