package apitest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"sync"
	"testing"
	"time"

	"github.com/keyledger/keyledger/events"
	records "github.com/keyledger/keyledger/events/access"
	"github.com/keyledger/keyledger/projections/access"
	gather "github.com/keyledger/keyledger/relay/access"
)

// Accesses are a server's access records, without a broker between what gathers them
// and the view.
type Accesses struct {
	view     *access.View
	gatherer *gather.Gatherer

	mu   sync.Mutex
	last events.Position
}

func newAccesses(t testing.TB, of events.Positions, path string, name events.VerifierID) *Accesses {
	t.Helper()
	a := &Accesses{}
	var err error
	a.view, err = access.Open(context.Background(), access.Config{Path: path, Of: of})
	must(t, err)
	a.gatherer, err = gather.New(gather.Config{
		Ledger: of.Ledger, Server: name, Sink: a, FlushEvery: 10 * time.Millisecond,
		Tell: func(_ context.Context, day, source string) (string, records.SourceKind) {
			label := sha256.Sum256([]byte(day + source))
			return hex.EncodeToString(label[:16]), records.SourceLabel
		},
	})
	must(t, err)
	a.gatherer.Start()
	t.Cleanup(func() {
		if err := a.gatherer.Close(context.Background()); err != nil {
			t.Error(err)
		}
		must(t, a.view.Close())
	})
	return a
}

// PublishAccess hands records to the view.
func (a *Accesses) PublishAccess(ctx context.Context, list []records.Message) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range list {
		a.last++
		list[i].Position, list[i].Stored = a.last, events.TimeOf(time.Now())
	}
	return a.view.Apply(ctx, list)
}
