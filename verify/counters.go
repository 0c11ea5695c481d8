package verify

import (
	"math/rand/v2"
	"sync/atomic"

	"github.com/keyledger/keyledger/events"
)

// counters count by code, spread so that processors do not fight over one cache
// line while strangers try keys.
type counters [8]struct {
	byCode [len(events.Codes) + 1]atomic.Uint64
	_      [128]byte
}

func (c *counters) add(code events.Code) {
	if spread := &c[rand.Uint32()%uint32(len(c))].byCode; int(code) < len(spread) {
		spread[code].Add(1)
	}
}

func (c *counters) sum(code events.Code) (n uint64) {
	for i := range c {
		if int(code) < len(c[i].byCode) {
			n += c[i].byCode[code].Load()
		}
	}
	return n
}
