package verify

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/events/uses"
	"github.com/keyledger/keyledger/verify/recording"
)

// The files that a client keeps beside its snapshots.
const (
	// credentialFile says what the credential showed at the last start, for one whose
	// broker is away.
	credentialFile = "credential"
	// bootsFile names runs that have begun to record without a mark that is stored.
	bootsFile = "boots"
)

// maxBoots bounds the runs that are remembered: one that starts again and again
// while its broker is away has answered for some time in each.
const maxBoots = 1024

// remembered is what a credential showed.
type remembered struct {
	Verifier events.VerifierID `json:"verifier"`
	Ledger   events.LedgerID   `json:"ledger"`
	Scope    string            `json:"scope,omitzero"`
	Subjects []string          `json:"subjects,omitempty"`
	// MaxStaleness is in seconds.
	MaxStaleness int64 `json:"max_staleness,omitzero"`
}

// remember keeps what the credential shows.
func (o *options) remember(info jetstream.ReaderInfo) error {
	if o.folder == "" {
		return nil
	}
	body, err := json.Marshal(remembered{o.name, info.Ledger, info.Scope, info.Subjects, int64(info.MaxStaleness / time.Second)}, json.Deterministic(true))
	if err != nil {
		return fmt.Errorf("verify: encode: %w", err)
	}
	return credentials.WriteFile(filepath.Join(o.folder, credentialFile), append(body, '\n'))
}

// recall returns what the credential showed at the last start.
func (o *options) recall() (jetstream.ReaderInfo, error) {
	body, err := credentials.ReadOwn(filepath.Join(o.folder, credentialFile))
	if err != nil {
		return jetstream.ReaderInfo{}, fmt.Errorf("verify: what the credential shows: %w", err)
	}
	var r remembered
	if err := json.Unmarshal(body, &r); err != nil || r.Ledger.IsZero() {
		return jetstream.ReaderInfo{}, fmt.Errorf("verify: what the credential shows cannot be read in %s", credentialFile)
	}
	if r.Verifier != o.name {
		return jetstream.ReaderInfo{}, fmt.Errorf("%w: the folder is that of %s", ErrCredential, r.Verifier)
	}
	return jetstream.ReaderInfo{
		Ledger: r.Ledger, Scope: r.Scope, Subjects: r.Subjects, MaxStaleness: time.Duration(r.MaxStaleness) * time.Second,
	}, nil
}

// boot is a run that records while no mark of it is stored.
type boot struct {
	Ledger   events.LedgerID   `json:"ledger"`
	Verifier events.VerifierID `json:"verifier"`
	Boot     string            `json:"boot"`
	Bound    int               `json:"bound"`
}

// journal names the runs of this folder that have begun to record without a mark at
// the broker. Whatever such a run has lost would be missed by nobody: so the next one
// has its mark stored, and what is missing behind that is seen.
type journal struct {
	path string
	mu   sync.Mutex
}

func (j *journal) read() ([]boot, error) {
	body, err := credentials.ReadOwn(j.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("verify: journal of runs: %w", err)
	}
	var list []boot
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("verify: journal of runs cannot be read; remove %s if it is known what those runs have lost", j.path)
	}
	return list, nil
}

// change rewrites the journal.
func (j *journal) change(f func([]boot) []boot) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	list, err := j.read()
	if err != nil {
		return err
	}
	if list = f(list); len(list) > maxBoots {
		return fmt.Errorf("verify: %d runs have recorded uses since the broker was there last, more than are remembered", len(list))
	}
	body, err := json.Marshal(list, json.Deterministic(true))
	if err != nil {
		return fmt.Errorf("verify: encode: %w", err)
	}
	return credentials.WriteFile(j.path, append(body, '\n'))
}

// add names a run before it records. It is on disk when this returns.
func (j *journal) add(b boot) error {
	return j.change(func(list []boot) []boot { return append(list, b) })
}

// remove forgets runs whose marks are stored.
func (j *journal) remove(gone ...boot) error {
	return j.change(func(list []boot) []boot {
		return slices.DeleteFunc(list, func(b boot) bool { return slices.Contains(gone, b) })
	})
}

// sink stores uses, and before any the marks of earlier runs that have none.
type sink struct {
	recording.Sink
	journal *journal
	ledger  events.LedgerID
	name    events.VerifierID
	// own is the run of this client, which its recorder marks itself.
	own uses.BootID
	log *slog.Logger
	// settled says that earlier runs are marked. It belongs to who publishes.
	settled bool
}

// PublishUses stores blocks, and tries nothing before the marks of earlier runs are
// stored: their uses were given before these.
func (s *sink) PublishUses(ctx context.Context, messages []uses.Message) error {
	if s.journal != nil && !s.settled {
		if err := s.settle(ctx); err != nil {
			return err
		}
		s.settled = true
	}
	return s.Sink.PublishUses(ctx, messages)
}

func (s *sink) settle(ctx context.Context) error {
	s.journal.mu.Lock()
	list, err := s.journal.read()
	s.journal.mu.Unlock()
	if err != nil {
		// Nobody can tell any more which runs there were, and no later one would be
		// recorded either.
		s.log.ErrorContext(ctx, "earlier runs without a mark are not known, and what they lost will not be seen", "error", err)
		return nil
	}
	var done []boot
	var marks []uses.Message
	for _, b := range list {
		id, err := uuid.Parse(b.Boot)
		if err != nil || b.Ledger != s.ledger || b.Verifier != s.name || uses.BootID(id) == s.own {
			continue
		}
		mark, err := recording.BootMark(b.Ledger, b.Verifier, uses.BootID(id), b.Bound)
		if err != nil {
			return err
		}
		marks, done = append(marks, mark), append(done, b)
	}
	if len(marks) == 0 {
		return nil
	}
	if err := s.Sink.PublishUses(ctx, marks); err != nil {
		return err
	}
	return s.journal.remove(done...)
}
