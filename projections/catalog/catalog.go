// Package catalog is what people browse: organizations with their workspaces,
// permissions and profiles, and their keys, filtered, searched and paged. It is
// a view of the ledger in one SQLite file.
//
// It shows and never decides. What a key may do is told by the verification
// index, and what a command may change by the aggregate's own facts.
package catalog

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/sqlview"
)

var (
	// ErrNotFound says that the catalog holds no such thing.
	ErrNotFound = errors.New("catalog: not found")

	// ErrBadCursor says that a text is no cursor of this very list.
	ErrBadCursor = sqlview.ErrBadCursor

	// ErrRevision says that a fact is not the next one of its subject.
	ErrRevision = fmt.Errorf("catalog: fact is not the next revision of its subject: %w", events.ErrCorrupt)

	// ErrUnknown says that a fact bears on verdicts and its kind is not known:
	// a later version appended it, and only that one can show what it means.
	ErrUnknown = errors.New("catalog: fact of an unknown kind that bears on verdicts; this program must be updated")
)

// DefaultLimit and MaxLimit bound a page.
const (
	DefaultLimit = sqlview.DefaultLimit
	MaxLimit     = sqlview.MaxLimit
)

// Page is the part of a list that is wanted.
type Page = sqlview.Page

// Config says where the catalog is kept.
type Config struct {
	// Path is the SQLite file. Required.
	Path string
	// Of is the ledger that the catalog is of.
	Of events.Positions
	// UsagePath is the file of the usage view, which knows when keys were last
	// used. It may not exist yet. Without one nothing was ever used.
	UsagePath string
	// Readers bounds the queries that run beside each other. 0 is
	// [sqlview.DefaultReaders].
	Readers int
	// Logger takes rebuilds. Nothing is logged without one.
	Logger *slog.Logger
}

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error { return c.view().Validate() }

func (c Config) view() sqlview.Config {
	return sqlview.Config{
		Path: c.Path, Name: "catalog", Version: version, Schema: schema + metadataSchema + providerSchema, Of: c.Of,
		Attach:  &sqlview.Attachment{Path: c.UsagePath, Schema: "usage", StandIn: usageStandIn, Probe: usageProbe},
		Readers: c.Readers, Logger: c.Logger,
	}
}

// Catalog is the view. Queries may be called by many goroutines.
type Catalog struct {
	db *sqlview.DB
}

// Open opens the catalog's file, or creates it. A file that is not this
// catalog's is replaced by an empty one, to be replayed.
func Open(ctx context.Context, c Config) (*Catalog, error) {
	db, err := sqlview.Open(ctx, c.view())
	if err != nil {
		return nil, err
	}
	return &Catalog{db: db}, nil
}

// Close ends the view.
func (c *Catalog) Close() error { return c.db.Close() }

// Name names the view.
func (c *Catalog) Name() string { return c.db.Name() }

// Position returns the last position whose rows are in the file.
func (c *Catalog) Position(ctx context.Context) (events.Position, error) { return c.db.Position(ctx) }

// Apply applies facts in one transaction.
func (c *Catalog) Apply(ctx context.Context, facts []events.Recorded) error {
	return c.db.Apply(ctx, facts, apply)
}

// Digest returns a hash of all rows and the position it was taken at. Two
// catalogs of one ledger at one position have the same.
func (c *Catalog) Digest(ctx context.Context) (events.Position, [sha256.Size]byte, error) {
	return c.db.Digest(ctx, digestQueries...)
}
