package sqlview

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/keyledger/keyledger/events"
)

// DefaultReaders is how many queries run beside each other: more than cores,
// since some wait for the disk, and few enough that their caches stay small.
const DefaultReaders = 8

// Config says what a view keeps in its file.
type Config struct {
	// Path is the file. Its folder must exist. Required.
	Path string
	// Name is the view's name, for logs and errors. Required.
	Name string
	// Version is the projection's: raised whenever the same facts come to mean
	// other rows. Required, from 1.
	Version int
	// Schema creates the view's tables. A file with another one is rebuilt.
	// Required.
	Schema string
	// Of is the ledger that the view is of. A file of another ledger, or of
	// another epoch of this one, is rebuilt.
	Of events.Positions
	// Attach is another view's file that queries may join, none if nil.
	Attach *Attachment
	// Readers bounds the queries that run beside each other. 0 is
	// [DefaultReaders].
	Readers int
	// Logger takes rebuilds and waits. Nothing is logged without one.
	Logger *slog.Logger
}

// Attachment is a file of another view, written by others. It may not exist
// yet, and it may be rebuilt at any time: the newest one is found within about
// a second, and an empty stand-in takes its place meanwhile.
type Attachment struct {
	// Path is the file. Without one, queries see the stand-in for ever.
	Path string
	// Schema is the name its tables are reached by in queries.
	Schema string
	// StandIn creates what queries need, as tables of that schema, empty.
	StandIn string
	// Probe is a query that fails unless the file has what queries need.
	Probe string
}

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("sqlview: "+format, args...))
	}
	if c.Path == "" {
		fault("no path")
	}
	if c.Name == "" {
		fault("no name")
	}
	if c.Version < 1 {
		fault("version %d, the first is 1", c.Version)
	}
	if c.Schema == "" {
		fault("no schema")
	}
	if c.Readers < 0 {
		fault("%d readers", c.Readers)
	}
	if a := c.Attach; a != nil && (a.Schema == "" || a.StandIn == "" || a.Probe == "") {
		fault("attachment is incomplete")
	}
	return errors.Join(faults...)
}
