package gateways

import (
	"strings"
	"testing"
)

// programs are the gateways that are installed here.
var programs = []struct {
	name  string
	start func(t *testing.T, ask, application string) *gateway
}{{"nginx", nginx}, {"caddy", caddy}, {"haproxy", haproxy}}

// Every gateway keeps every promise, wherever it asks.
func TestGateways(t *testing.T) {
	w := newWorld(t)
	gateways := make(map[string]*gateway)
	for _, p := range programs {
		gateways[p.name] = p.start(t, strings.TrimPrefix(w.server.Address("http://"), "http://"), w.application.address)
	}
	for name, g := range gateways {
		for _, p := range promises {
			t.Run(name+"/"+p.name, func(t *testing.T) { p.shown(t, w, g) })
		}
	}
}
