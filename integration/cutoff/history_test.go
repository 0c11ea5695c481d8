package cutoff

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyledger/keyledger/integration/program"
)

// nothingIsValidAfterTheReceipt records what three verifiers say of keys under
// load while the keys are revoked one after another, with wires that are cut now and
// then. Once a receipt says that a revocation is applied everywhere, nobody it counts
// accepts the key; and nobody at all by the time the receipt tells.
func nothingIsValidAfterTheReceipt(t *testing.T, w *world) {
	const verifiers, keys = 3, 16
	var all []key
	for range keys {
		all = append(all, w.key())
	}
	var sidecars []*sidecar
	var watches []*witness
	for i := range verifiers {
		s := w.sidecar(fmt.Sprint("history-", i+1))
		sidecars, watches = append(sidecars, s), append(watches, s.watch(all...))
	}
	for i := range sidecars {
		for _, k := range all {
			watches[i].until(t, k, time.Time{}, "VALID")
		}
	}
	// The wire of the last one is cut now and then, for longer than its bound.
	stop := make(chan struct{})
	var cutting sync.WaitGroup
	cutting.Go(func() {
		for {
			for _, f := range []func(){sidecars[verifiers-1].wire.cut, sidecars[verifiers-1].wire.mend} {
				select {
				case <-stop:
					return
				case <-time.After(bound + rand.N(bound)):
				}
				f()
			}
		}
	})
	type receipt struct {
		key key
		at  time.Time
		// applied is when each had applied it, by the receipt.
		applied map[string]time.Time
		denied  time.Time
	}
	var receipts []receipt
	for _, k := range all {
		w.revoke(k)
		a := w.owner.Must(t, 200, "GET", "/v1/organizations/acme/keys/"+k.id+"/receipt?wait=1s", nil)
		r := receipt{key: k, at: time.Now(), applied: map[string]time.Time{}}
		items, _ := a.Get("items").([]any)
		named := map[string]bool{}
		for _, item := range items {
			v := item.(obj)
			name, _ := v["verifier"].(string)
			named[name] = true
			if v["applied"] == true {
				r.applied[name] = r.at
			}
			since, _ := v["applied_at"].(string)
			if at, err := time.Parse(time.RFC3339Nano, since); err == nil {
				r.applied[name] = at
			}
			by, _ := v["denies_by"].(string)
			if at, err := time.Parse(time.RFC3339Nano, by); err == nil && at.After(r.denied) {
				r.denied = at
			}
		}
		for _, s := range sidecars {
			if !named[s.name] {
				t.Fatalf("the receipt does not name %s: %s", s.name, a)
			}
			if r.applied[s.name].IsZero() && r.denied.IsZero() {
				t.Fatalf("the receipt does not tell by when %s denies: %s", s.name, a)
			}
		}
		receipts = append(receipts, r)
	}
	close(stop)
	cutting.Wait()
	sidecars[verifiers-1].wire.mend()
	for i := range sidecars {
		for _, k := range all {
			watches[i].until(t, k, time.Time{}, "REVOKED")
		}
		watches[i].stop()
	}
	judged := 0
	for i, s := range sidecars {
		for _, r := range receipts {
			watches[i].neverUndone(t, r.key)
			if at := r.applied[s.name]; !at.IsZero() {
				judged++
				watches[i].neverAfter(t, r.key, at, "VALID", "the receipt says that "+s.name+" had applied the revocation")
			} else {
				watches[i].neverAfter(t, r.key, r.denied, "VALID", "the receipt says that "+s.name+" denies by then")
			}
		}
	}
	if judged < 2*keys {
		t.Errorf("only %d of %d were applied when the receipt came", judged, verifiers*keys)
	}
	for _, s := range sidecars {
		s.Stop()
	}
	for _, k := range all {
		want := &witness{said: map[string][]said{}}
		for _, watch := range watches {
			want.said[k.id] = append(want.said[k.id], watch.of(k)...)
		}
		w.allRecorded(want, k)
	}
}

// isNamed by the fleet and by the receipt, with the time by which its
// bound has it deny.
func isNamed(t *testing.T, w *world) {
	k := w.key()
	s := w.sidecar("named")
	s.says("VALID", k)
	state := func(want string) {
		t.Helper()
		program.Until(t, "the verifier to be "+want, func() bool {
			a, err := w.owner.Ask(t.Context(), "GET", "/v1/verifiers", nil)
			return err == nil && strings.Contains(string(a.Body), `"named"`) && has(a, "name", "named", "state", want)
		})
	}
	state("live")
	s.wire.cut()
	state("lost")
	w.revoke(k)
	a := w.owner.Must(t, 200, "GET", "/v1/organizations/acme/keys/"+k.id+"/receipt", nil)
	if !has(a, "verifier", "named", "state", "lost") || !has(a, "verifier", "named", "applied", false) {
		t.Errorf("%s", a)
	}
	s.wire.mend()
	state("live")
	program.Until(t, "the revocation to be applied by it", func() bool {
		a, err := w.owner.Ask(t.Context(), "GET", "/v1/organizations/acme/keys/"+k.id+"/receipt", nil)
		return err == nil && has(a, "verifier", "named", "applied", true)
	})
	s.Stop()
	state("ended")
}

// has tells whether the item of a list that has one member has another, too.
func has(a program.Answer, member, value, other string, want any) bool {
	items, _ := a.Get("items").([]any)
	for _, item := range items {
		if v, ok := item.(obj); ok && v[member] == value {
			return v[other] == want
		}
	}
	return false
}
