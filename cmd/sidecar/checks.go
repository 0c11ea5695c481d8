package sidecar

import (
	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/verify"
)

// checks are what readiness consists of, by the names of [verify.Status.Failing].
var checks = []string{"open", "broker", "index", "fresh", "ticks", "problems", "clock", "uses", "shared"}

// checks say by name why the sidecar is not ready. The reasons are open to everybody.
func (s *sidecar) checks() map[string]func() error {
	out := make(map[string]func() error, len(checks))
	for _, name := range checks {
		out[name] = func() error { return check(s.client.Status(), name) }
	}
	return out
}

func check(s verify.Status, name string) error {
	for _, f := range s.Failing() {
		if f.Check == name {
			return &gate.Failing{Reason: f.Reason, Err: f.Err}
		}
	}
	return nil
}
