package expiry

import (
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/catalog"
)

// DoubtAll has a keeper that does not run doubt as many keys as it can.
func (k *Keeper) DoubtAll() {
	for i := range maxDoubts {
		k.doubts[catalog.Due{Org: "gone", At: events.Time(i + 1)}] = doubt{until: time.Now().Add(longestDoubt), wait: longestDoubt, sweep: -1}
	}
}

// Doubts returns how many keys a keeper that does not run any more doubts.
func (k *Keeper) Doubts() int { return len(k.doubts) }
