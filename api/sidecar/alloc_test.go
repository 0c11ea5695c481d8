//go:build !race

package sidecar

import "testing"

// A verdict costs nothing that has to be collected later: a request id that is drawn
// and an answer that is written lie in room that is used again. A batch has a time
// until which it waits; a gateway is told the key's id as a text. The race detector has
// pools forget at random.
func TestAllocations(t *testing.T) {
	for name, most := range map[string]float64{"verify": 0, "batch": 4, "authorize": 1} {
		handle := handled(t, requests[name][0], requests[name][1])
		if n := testing.AllocsPerRun(200, handle); n > most {
			t.Errorf("%s: %v allocations, at most %v are expected", name, n, most)
		}
	}
}
