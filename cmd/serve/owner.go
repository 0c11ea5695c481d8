package serve

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/jetstream"
)

// ErrNotBegun says that the data folder holds no ledger.
var ErrNotBegun = errors.New("serve: no ledger has begun in the data folder")

// OwnerConfig says which installation gets a new owner.
type OwnerConfig struct {
	// Data is the folder of a server that is stopped; on a cluster, any folder: it
	// gets the owner's key.
	Data string
	// Cluster is where the ledger lies; its zero value is Data.
	Cluster Cluster
	// Out is the file that gets the owner's key; empty: the one in Data. A key that
	// is there is kept beside it.
	Out string
	// RevokeOthers revokes every other owner's key.
	RevokeOthers bool
	// Reason is why, for the ledger.
	Reason string
	// Logger takes what operators should know.
	Logger *slog.Logger
}

// Validate reports every fault at once.
func (c OwnerConfig) Validate() error {
	var faults []error
	if c.Data == "" {
		faults = append(faults, errors.New("serve: --data is needed"))
	}
	if c.Reason == "" {
		faults = append(faults, errors.New("serve: --reason is needed: the ledger remembers it"))
	}
	faults = append(faults, c.Cluster.validate()...)
	if c.Logger == nil {
		faults = append(faults, errors.New("serve: Logger is needed"))
	}
	return errors.Join(faults...)
}

// OwnerReset is a new owner, and where its key lies.
type OwnerReset struct {
	Ledger events.LedgerID
	commands.OwnerResetOutcome
	// Path is the file of the new key, Kept that of the one that was there before,
	// "" if there was none.
	Path, Kept string
}

// ResetOwner gives an installation a new owner's key, by the rights of whoever
// runs its broker: the embedded one's folder, which no server may have open, or
// a cluster's credentials. Interrupted, it goes on when it is called again.
func ResetOwner(ctx context.Context, cfg OwnerConfig) (OwnerReset, error) {
	if err := cfg.Validate(); err != nil {
		return OwnerReset{}, err
	}
	b, err := cfg.broker(ctx)
	if err != nil {
		return OwnerReset{}, err
	}
	defer b.stop()
	conn, err := b.connect(ctx, "keyledger owner reset")
	if err != nil {
		return OwnerReset{}, err
	}
	defer conn.Close()
	out := OwnerReset{Path: cfg.Out}
	if out.Path == "" {
		out.Path = filepath.Join(cfg.Data, OwnerFile)
	}
	err = b.ask(ctx, func() error {
		var exists bool
		var err error
		if out.Ledger, exists, err = jetstream.Identify(ctx, conn); err == nil && !exists {
			err = ErrNoLedger
		}
		return err
	})
	if err != nil {
		return OwnerReset{}, err
	}
	ledger, err := newLedger(conn, out.Ledger, b.replicas(), cfg.Logger)
	if err != nil {
		return OwnerReset{}, err
	}
	if err := b.ask(ctx, func() error { return ledger.Check(ctx) }); err != nil {
		return OwnerReset{}, err
	}
	err = cfg.reset(ctx, ledger, &out)
	return out, err
}

// broker reaches the ledger as whoever runs it.
func (c OwnerConfig) broker(ctx context.Context) (broker, error) {
	if c.Cluster.URL != "" {
		if err := os.MkdirAll(c.Data, 0o700); err != nil {
			return nil, fmt.Errorf("serve: data folder: %w", err)
		}
		return &onCluster{Cluster: c.Cluster, log: c.Logger, release: func() {}}, nil
	}
	if _, seen, err := folderOf(c.Data, "").begun(); err != nil || !seen {
		return nil, errors.Join(err, fmt.Errorf("%w %s", ErrNotBegun, c.Data))
	}
	return startEmbedded(ctx, Config{Data: c.Data, Logger: c.Logger})
}

// reset makes the new owner. Its key is on disk before the ledger knows of it, and
// in its place when all is done.
func (c OwnerConfig) reset(ctx context.Context, ledger *jetstream.Ledger, out *OwnerReset) error {
	pending := out.Path + pendingSuffix
	owner, err := pendingOwner(pending)
	if err != nil {
		return err
	}
	service, err := operatorService(ctx, ledger, out.Ledger, c.Logger)
	if err != nil {
		return err
	}
	out.OwnerResetOutcome, err = service.ResetOwner(ctx, commands.OwnerReset{
		Owner: owner, Reason: c.Reason, RevokeOthers: c.RevokeOthers,
		Keys: func(ctx context.Context) ([]events.KeyID, error) { return installationKeys(ctx, ledger) },
	})
	if errors.Is(err, commands.ErrOwnerRevoked) {
		// It serves for nothing any more; the next attempt draws another.
		return errors.Join(err, os.Remove(pending))
	}
	if err != nil {
		return err
	}
	if out.Kept, err = keepOld(out.Path); err != nil {
		return err
	}
	return promote(out.Path)
}

// keepOld moves an owner's key out of the way of the next one, and returns where
// to. Its name tells them apart as people do, by the last four characters.
func keepOld(path string) (string, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("serve: keep the owner's key that is there: %w", err)
	}
	old := path + ".old"
	if secret := strings.TrimSpace(string(text)); keystring.Check(secret) == nil {
		old += "-" + keystring.LastFour(secret)
	}
	if err := os.Rename(path, old); err != nil {
		return "", fmt.Errorf("serve: keep the owner's key that is there: %w", err)
	}
	return old, nil
}

// operatorService is what an operator's wishes are carried out with. It knows the
// installation's organization as it began: limits and policies that somebody set
// since bind those who have a key, and not the operator who has none.
func operatorService(ctx context.Context, ledger *jetstream.Ledger, id events.LedgerID, log *slog.Logger) (*commands.Service, error) {
	facts, err := ledger.Load(ctx, events.OrganizationSubject(events.System), 0)
	if err != nil {
		return nil, err
	}
	if len(facts) == 0 {
		return nil, fmt.Errorf("%w: the installation has no organization", events.ErrCorrupt)
	}
	configuration := commands.NewConfiguration()
	if err := configuration.Apply(ctx, facts[:1]); err != nil {
		return nil, err
	}
	return commands.New(commands.Config{
		Log: ledger, Ledger: id, Configuration: configuration, Logger: log,
		// Management keys hold no places, and nobody asks this program for verdicts.
		Holders: func(context.Context, events.OrgID) ([]events.KeyID, error) { return nil, nil },
		Await:   func(context.Context, events.Position) error { return nil },
	})
}

// installationKeys lists the keys of the installation's own organization.
func installationKeys(ctx context.Context, ledger *jetstream.Ledger) ([]events.KeyID, error) {
	subjects, err := ledger.Aggregates(ctx, events.System, events.AggregateKey)
	if err != nil {
		return nil, err
	}
	keys := make([]events.KeyID, len(subjects))
	for i, subject := range subjects {
		if keys[i], err = events.ParseKeyID(subject.ID); err != nil {
			return nil, err
		}
	}
	return keys, nil
}
