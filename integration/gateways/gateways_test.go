package gateways

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/keyledger/keyledger/integration/program"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// Tests mostly wait for other processes, however few processors there are.
	if err := flag.Set("test.parallel", "32"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// programs are the gateways, and who each asks: a server, or a sidecar over TCP, over
// a unix socket or over gRPC.
var programs = map[string]struct {
	start  func(t testing.TB, ask, application string) *gateway
	judges []string
}{
	"nginx":   {nginx, []string{"server", "sidecar", "sidecar by socket"}},
	"caddy":   {caddy, []string{"sidecar", "sidecar by socket"}},
	"haproxy": {haproxy, []string{"sidecar", "sidecar by socket"}},
	"traefik": {traefik, []string{"sidecar"}},
	"envoy":   {envoy, []string{"sidecar by gRPC", "sidecar by gRPC on a socket"}},
}

// Every gateway keeps every promise, whomever it asks. And none lets anything pass
// where there is no verdict.
func TestGateways(t *testing.T) {
	w := newWorld(t)
	// Those that ask the sidecar, and all.
	var beside, gateways []*gateway
	for name, p := range programs {
		for _, judge := range p.judges {
			g := p.start(t, w.judges[judge], w.application.address)
			g.name = name + " asks the " + judge
			gateways = append(gateways, g)
			if judge != "server" {
				beside = append(beside, g)
			}
		}
	}
	t.Run("while keyledger answers", func(t *testing.T) {
		for _, g := range gateways {
			t.Run(g.name, func(t *testing.T) {
				t.Parallel()
				for _, p := range promises {
					if !g.standIn || !p.program {
						t.Run(p.name, func(t *testing.T) { p.shown(t, w, g) })
					}
				}
			})
		}
	})
	t.Run("connections to keyledger are kept", func(t *testing.T) {
		for _, name := range []string{"nginx", "caddy", "haproxy"} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				kept(t, w, programs[name].start)
			})
		}
	})
	broken := brokenHAProxy(t, w.judges["sidecar by socket"], w.application.address)
	broken.name = "haproxy"
	closed(t, w, "its code is broken", []*gateway{broken}, func(g *gateway) []int { return g.down })

	// The server holds the broker: without it the sidecar hears of nothing.
	w.server.Pause()
	closed(t, w, "cut off", beside, func(g *gateway) []int { return []int{g.stale} })
	w.server.Resume()
	open(t, w, "no longer cut off", beside)

	// Traefik waits for half a minute, whatever it is told.
	impatient := slices.DeleteFunc(slices.Clone(beside), func(g *gateway) bool { return g.patient })
	w.sidecar.Pause()
	closed(t, w, "nobody answers", impatient, func(g *gateway) []int { return g.down })
	w.sidecar.Resume()
	open(t, w, "somebody answers again", beside)

	w.sidecar.Kill()
	closed(t, w, "nobody is there", beside, func(g *gateway) []int { return g.down })
	w.sidecar = w.follow().Ready()
	open(t, w, "somebody is there again", beside)
}

// closed waits until each gateway refuses what was allowed, with a status, and
// expects that it goes on so.
func closed(t *testing.T, w *world, why string, gateways []*gateway, status func(*gateway) []int) {
	t.Run(why, func(t *testing.T) {
		for _, g := range gateways {
			t.Run(g.name, func(t *testing.T) {
				t.Parallel()
				var res response
				program.Until(t, "the gateway to refuse", func() bool {
					var saw []arrival
					res, saw = w.send(t, g, get(w.reader))
					return len(saw) == 0
				})
				if want := status(g); !slices.Contains(want, res.status) {
					t.Errorf("it answers %s, want %d", res, want)
				}
				for _, r := range []request{get(w.reader), get(w.everything).with("POST", "/api/v1/interviews/start"), get(w.reporter).with("GET", "/reports/7"), {method: "GET", target: "/api/v1/interviews/7"}} {
					t.Run(r.method, func(t *testing.T) {
						t.Parallel()
						if res, saw := w.send(t, g, r); res.status < 400 || len(saw) != 0 {
							t.Errorf("%s: %s, and %d arrived", r.target, res, len(saw))
						}
					})
				}
			})
		}
	})
}

// open waits until each gateway lets pass again what is allowed, and expects that it
// refuses the rest.
func open(t *testing.T, w *world, why string, gateways []*gateway) {
	t.Run(why, func(t *testing.T) {
		for _, g := range gateways {
			t.Run(g.name, func(t *testing.T) {
				t.Parallel()
				program.Until(t, "the gateway to let pass", func() bool {
					res, saw := w.send(t, g, get(w.reader))
					return res.status == 200 && len(saw) == 1
				})
				w.refused(t, g, "no permission", get(w.reader).with("POST", "/api/v1/interviews/start"), 403)
			})
		}
	})
}
