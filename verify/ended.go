package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/projections/index"
)

const (
	// endedFile names what has ended since the newest snapshot of the folder.
	endedFile = "ended"
	// maxEnded bounds it: some 5 MiB, and a hundred revocations a second between two
	// snapshots. With more there is no start without the broker until the next one.
	maxEnded = 1 << 16
)

// ending is a key that was revoked, or an organization that was ended.
type ending struct {
	position events.Position
	org      events.OrgID
	id       string
}

func (e ending) appendTo(b []byte) []byte {
	return fmt.Appendf(b, "%d %s %s\n", e.position, e.org, e.id)
}

// endings is a view that notes in the folder what ends and its newest snapshot does not
// know of. A start without the broker goes by the snapshot, and must not take back what
// was denied, and announced as applied, before it.
//
// It stands before the index: nothing has ended there that is not noted.
type endings struct {
	path string
	log  *slog.Logger

	mu sync.Mutex // guards the following
	// list is all that has ended after floor, in order, as far as through.
	list           []ending
	floor, through events.Position
	// file takes what comes; it is nil while what stands there would not be all.
	file  *os.File
	dirty bool
}

// endingsOf returns those of a folder, for a run that begins at a position with a
// snapshot of the folder, or without one.
func endingsOf(folder string, from events.Position, fromSnapshot bool, log *slog.Logger) *endings {
	e := &endings{path: filepath.Join(folder, endedFile), log: log, floor: from, through: from}
	if fromSnapshot {
		// What an earlier run has noted is met again, and must be there until then.
		list, err := readEndings(e.path, from)
		if err == nil {
			e.list = list
			e.rewrite()
			return e
		}
		if !errors.Is(err, fs.ErrNotExist) {
			log.Warn("what has ended since the last snapshot is noted from the next one on", "error", err)
		}
	}
	e.drop()
	return e
}

// readEndings reads what has ended after a position. That it is not known is an error.
func readEndings(path string, after events.Position) ([]ending, error) {
	body, err := credentials.ReadOwn(path)
	if err != nil {
		return nil, fmt.Errorf("verify: what has ended: %w", err)
	}
	bad := func(what string) error { return fmt.Errorf("verify: what has ended: %s: %s", path, what) }
	// What comes after the last whole line was being written when everything ended.
	lines := strings.Split(string(body[:bytes.LastIndexByte(body, '\n')+1]), "\n")
	var since events.Position
	if n, err := fmt.Sscanf(lines[0], "since %d", &since); n != 1 || err != nil {
		return nil, bad("it cannot be read")
	}
	if since > after {
		return nil, bad("it begins after the snapshot")
	}
	var list []ending
	for _, line := range lines[1 : len(lines)-1] {
		part := strings.Split(line, " ")
		at, err := strconv.ParseUint(part[0], 10, 64)
		if len(part) != 3 || err != nil {
			return nil, bad("it cannot be read")
		}
		if e := (ending{events.Position(at), events.OrgID(part[1]), part[2]}); e.position > after {
			list = append(list, e)
		}
	}
	return list, nil
}

// last is how far the ledger goes at least.
func (e *endings) last() events.Position {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.list) == 0 {
		return 0
	}
	return e.list[len(e.list)-1].position
}

// foretell tells an index what has ended after it.
func foretell(x *index.Index, list []ending) {
	for _, e := range list {
		x.Foretell(e.org, e.id)
	}
}

// Name names the view.
func (e *endings) Name() string { return "ended" }

// Position returns the last position applied.
func (e *endings) Position(context.Context) (events.Position, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.through, nil
}

// Apply notes what ends. It never fails: where it cannot be noted there is no start
// without the broker.
func (e *endings) Apply(_ context.Context, facts []events.Recorded) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	known := e.through
	if n := len(e.list); n > 0 {
		known = max(known, e.list[n-1].position)
	}
	var lines []byte
	for i := range facts {
		if s := facts[i].Subject; s.Aggregate == events.AggregateRevoked && facts[i].Position > known {
			next := ending{facts[i].Position, events.OrgID(strings.Clone(string(s.Org))), strings.Clone(s.ID)}
			e.list = append(e.list, next)
			lines = next.appendTo(lines)
		}
	}
	e.through = facts[len(facts)-1].Position
	switch {
	case len(e.list) > maxEnded && e.file == nil:
		e.floor, e.list = e.through, nil // Nobody needs it yet, as in a replay.
	case len(e.list) > maxEnded:
		e.lost(errors.New("more has ended than is noted"))
	case len(lines) > 0 && e.file != nil:
		e.dirty = true
		if _, err := e.file.Write(lines); err != nil {
			e.lost(err)
		}
	}
	return nil
}

// sync has what was noted on disk when it returns, before anybody is told of it. The
// index does not wait for the disk.
func (e *endings) sync() {
	e.mu.Lock()
	file, dirty := e.file, e.dirty
	e.dirty = false
	e.mu.Unlock()
	if !dirty || file == nil {
		return
	}
	// One that was closed meanwhile was written anew, and is on disk.
	if err := file.Sync(); err != nil && !errors.Is(err, os.ErrClosed) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.lost(err)
	}
}

// saved forgets what a snapshot of the folder knows of.
func (e *endings) saved(at events.Position) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if at < e.floor {
		return // What has ended since is not known.
	}
	n, _ := slices.BinarySearchFunc(e.list, at+1, func(of ending, at events.Position) int { return int(int64(of.position) - int64(at)) })
	e.list, e.floor = slices.Clone(e.list[n:]), at
	e.rewrite()
}

// rewrite begins the file anew with what is known.
func (e *endings) rewrite() {
	e.closeFile()
	body := fmt.Appendf(nil, "since %d\n", e.floor)
	for _, of := range e.list {
		body = of.appendTo(body)
	}
	err := credentials.WriteFile(e.path, body)
	if err == nil {
		e.file, err = os.OpenFile(e.path, os.O_WRONLY|os.O_APPEND|syscall.O_NOFOLLOW, 0)
	}
	if err != nil {
		e.lost(err)
	}
}

// lost gives up what was noted: from now on it would not be all. The next snapshot
// begins anew.
func (e *endings) lost(err error) {
	e.log.Error("what ends is not noted: without the broker there is no start until the next snapshot", "error", err)
	e.floor, e.list = e.through, nil
	e.drop()
}

// drop removes the file.
func (e *endings) drop() {
	e.closeFile()
	if err := os.Remove(e.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		e.log.Error("remove it by hand before a start without the broker", "file", e.path, "error", err)
	}
}

func (e *endings) closeFile() {
	if e.file != nil {
		_ = e.file.Close()
		e.file = nil
	}
}

// close ends the noting.
func (e *endings) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.dirty && e.file != nil {
		_ = e.file.Sync()
	}
	e.closeFile()
}
