package snapshot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/events"
)

var (
	// ErrNone says that a folder holds no snapshot that can be loaded.
	ErrNone = errors.New("snapshot: there is none")
	// ErrInUse says that another process has a folder open.
	ErrInUse = errors.New("snapshot: the folder is in use")
	// ErrOpen says that others could have written what is in a folder, or can.
	ErrOpen = errors.New("snapshot: the folder is not this user's alone")
)

// kept is how many snapshots a folder keeps: the newest, and the one before it for
// who looks into what happened.
const kept = 2

// Names in a folder.
const (
	lockName    = "lock"
	seenName    = "seen"
	spoolPrefix = "spool-"
)

// named is what snapshots are called: their position and the beginning of their
// digest.
var named = regexp.MustCompile(`^([0-9]{20})-([0-9a-f]{16})\.snapshot$`)

func nameOf(w Written) string {
	return fmt.Sprintf("%020d-%.16s.snapshot", w.Position, w.Digest.String())
}

// Folder keeps a reader's snapshots. It is this user's alone, and one process's at a
// time. What lies in it with other rights, or belongs to somebody else, is not read.
type Folder struct {
	path string
	lock *os.File
	mu   sync.Mutex
}

// Seen is the newest snapshot that a folder has kept or loaded. What is older is
// refused from then on, wherever it comes from.
type Seen struct {
	Ledger   events.LedgerID `json:"ledger"`
	Position events.Position `json:"position"`
	// Signers are the keys that the ledger named then as those that sign for it.
	Signers []string `json:"signers,omitempty"`
}

// Skipped is a snapshot that was not loaded, and why.
type Skipped struct {
	Name string
	Err  error
}

// OpenFolder opens a folder, and makes it if there is none.
func OpenFolder(path string) (*Folder, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("snapshot: folder: %w", err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		return nil, fmt.Errorf("snapshot: folder: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%w: %s is no folder", ErrOpen, path)
	}
	if err := private(path, info); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("snapshot: folder: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: each verifier needs one of its own, and another has %s", ErrInUse, path)
		}
		return nil, fmt.Errorf("snapshot: lock folder: %w", err)
	}
	f := &Folder{path: path, lock: lock}
	f.sweep()
	return f, nil
}

// Close gives the folder back.
func (f *Folder) Close() error { return f.lock.Close() }

// private holds what lies in a folder to being this user's alone.
func private(path string, info fs.FileInfo) error {
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%w: others have rights on %s (%o)", ErrOpen, path, info.Mode().Perm())
	}
	if of, ok := info.Sys().(*syscall.Stat_t); !ok || int(of.Uid) != os.Geteuid() {
		return fmt.Errorf("%w: %s is another user's", ErrOpen, path)
	}
	return nil
}

// open opens a file of the folder for reading.
func (f *Folder) open(name string) (*os.File, int64, error) {
	file, err := os.OpenFile(filepath.Join(f.path, name), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("snapshot: %w", err)
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%w: %s is no file", ErrOpen, name)
	}
	if err == nil {
		err = private(name, info)
	}
	if err != nil {
		_ = file.Close()
		return nil, 0, err
	}
	return file, info.Size(), nil
}

// sweep removes what a process left that did not end well.
func (f *Folder) sweep() {
	left, _ := filepath.Glob(filepath.Join(f.path, spoolPrefix+"*"))
	for _, name := range left {
		_ = os.Remove(name)
	}
}

// names are those of all snapshots, the newest first.
func (f *Folder) names() ([]string, error) {
	entries, err := os.ReadDir(f.path)
	if err != nil {
		return nil, fmt.Errorf("snapshot: folder: %w", err)
	}
	var names []string
	for _, e := range entries {
		if named.MatchString(e.Name()) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	slices.Reverse(names)
	return names, nil
}

// Newest loads the newest snapshot that a reader can go on from. It also tells those
// that it passed over. That there is none is [ErrNone]; a mark of what was seen that
// cannot be read, is of another ledger, or is gone, lets none be loaded.
func (f *Folder) Newest(who Reader) (*Loaded, []Skipped, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	seen, known, err := f.seen()
	if err != nil {
		return nil, nil, err
	}
	names, err := f.names()
	if err != nil {
		return nil, nil, err
	}
	var skipped []Skipped
	for _, name := range names {
		if !known {
			skipped = append(skipped, Skipped{Name: name, Err: errUnseen})
			continue
		}
		loaded, err := f.load(name, who)
		if err == nil {
			err = seen.admits(loaded.Header)
		}
		if err == nil {
			err = f.raise(loaded)
		}
		if err == nil {
			return loaded, skipped, nil
		}
		skipped = append(skipped, Skipped{Name: name, Err: err})
	}
	return nil, skipped, ErrNone
}

func (f *Folder) load(name string, who Reader) (*Loaded, error) {
	file, size, err := f.open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	loaded, err := Read(file, size, who)
	if err != nil {
		return nil, err
	}
	if nameOf(loaded.Written) != name {
		return nil, fmt.Errorf("%w: it is not what its name says", ErrDamaged)
	}
	return loaded, nil
}

// errUnseen says that a snapshot lies in a folder that has seen none: it was put there, or
// the mark was taken away.
var errUnseen = fmt.Errorf("%w: the folder's mark of what was seen is gone", ErrOlder)

// admits tells whether a snapshot is no older than what was seen.
func (s Seen) admits(h Header) error {
	switch {
	case s.Position == 0:
		return nil
	case s.Ledger != h.Ledger:
		return fmt.Errorf("%w: the folder is of ledger %s", ErrForeign, s.Ledger)
	case h.Position < s.Position:
		return fmt.Errorf("%w: it is of position %d, and one of %d was seen", ErrOlder, h.Position, s.Position)
	default:
		return nil
	}
}

// Admits tells whether what a header says may be loaded, after all that the folder
// has seen. It is asked before a snapshot is fetched from elsewhere, too.
func (f *Folder) Admits(h Header) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	seen, _, err := f.seen()
	if err != nil {
		return err
	}
	return seen.admits(h)
}

// Seen returns the mark, and whether there is one.
func (f *Folder) Seen() (Seen, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen()
}

func (f *Folder) seen() (Seen, bool, error) {
	file, size, err := f.open(seenName)
	if errors.Is(err, fs.ErrNotExist) {
		return Seen{}, false, nil
	}
	if err != nil {
		return Seen{}, false, err
	}
	defer file.Close()
	var s Seen
	body, err := io.ReadAll(io.LimitReader(file, min(size, maxHeader)))
	if err != nil {
		return Seen{}, false, fmt.Errorf("snapshot: %w", err)
	}
	if err := json.Unmarshal(body, &s); err != nil || s.Position == 0 || s.Ledger.IsZero() {
		return Seen{}, false, fmt.Errorf("%w: the mark of what was seen cannot be read; remove %s once it is known why", ErrDamaged, filepath.Join(f.path, seenName))
	}
	return s, true, nil
}

// raise notes that a snapshot was seen. The mark never goes back.
func (f *Folder) raise(l *Loaded) error {
	return f.mark(Seen{Ledger: l.Ledger, Position: l.Position, Signers: l.Continuity.Signers()})
}

func (f *Folder) mark(next Seen) error {
	seen, known, err := f.seen()
	if err != nil {
		return err
	}
	if err := seen.admits(Header{Ledger: next.Ledger, Position: next.Position}); err != nil {
		return err
	}
	for _, key := range seen.Signers {
		if !slices.Contains(next.Signers, key) {
			next.Signers = append(next.Signers, key)
		}
	}
	slices.Sort(next.Signers)
	if known && seen.Position == next.Position && slices.Equal(seen.Signers, next.Signers) {
		return nil
	}
	body, err := json.Marshal(next, json.Deterministic(true))
	if err != nil {
		return fmt.Errorf("snapshot: encode mark: %w", err)
	}
	file, err := f.create()
	if err != nil {
		return err
	}
	if _, err = file.Write(append(body, '\n')); err == nil {
		err = f.settle(file, seenName)
	}
	if err != nil {
		_ = file.Close()
		_ = os.Remove(file.Name())
		return fmt.Errorf("snapshot: mark: %w", err)
	}
	return nil
}

func (f *Folder) create() (*os.File, error) {
	file, err := os.CreateTemp(f.path, spoolPrefix+"*")
	if err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	return file, nil
}

// settle puts a file that is written under its name, so that it is there whole or
// not at all, whatever happens.
func (f *Folder) settle(file *os.File, name string) error {
	if err := file.Sync(); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), filepath.Join(f.path, name)); err != nil {
		return err
	}
	folder, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer folder.Close()
	return folder.Sync()
}

// prune removes all but the newest snapshots, as seen from the one that has just been
// kept: whatever else is called newer is none of this folder's, and takes no place.
func (f *Folder) prune(newest string) {
	names, err := f.names()
	if err != nil {
		return
	}
	own := max(slices.Index(names, newest), 0)
	for _, name := range names[min(own+kept, len(names)):] {
		_ = os.Remove(filepath.Join(f.path, name))
	}
}

// Save writes a picture into the folder, for the view's own scope, and keeps it.
func (f *Folder) Save(p *Picture, createdAt events.Time) (Written, error) {
	file, err := f.Create()
	if err != nil {
		return Written{}, err
	}
	written, err := p.Write(file, "", createdAt)
	if err == nil {
		err = file.keep(written, p.continuity.Signers())
	}
	if err != nil {
		file.Discard()
		return Written{}, err
	}
	return written, nil
}

// Create begins a snapshot that comes from elsewhere. It has to be kept or
// discarded.
func (f *Folder) Create() (*File, error) {
	file, err := f.create()
	if err != nil {
		return nil, err
	}
	return &File{folder: f, file: file}, nil
}

// File is a snapshot that is not a folder's yet.
type File struct {
	folder *Folder
	file   *os.File
	size   int64
}

// Write adds to it.
func (f *File) Write(b []byte) (int, error) {
	n, err := f.file.Write(b)
	f.size += int64(n)
	if err != nil {
		return n, fmt.Errorf("snapshot: %s: %w", strings.TrimPrefix(filepath.Base(f.file.Name()), spoolPrefix), err)
	}
	return n, nil
}

// Reset begins anew.
func (f *File) Reset() error {
	if err := f.file.Truncate(0); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	if _, err := f.file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	f.size = 0
	return nil
}

// Load loads what was written, unless the folder has seen a newer one.
func (f *File) Load(who Reader) (*Loaded, error) {
	if _, err := f.file.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	loaded, err := Read(f.file, f.size, who)
	if err != nil {
		return nil, err
	}
	if err := f.folder.Admits(loaded.Header); err != nil {
		return nil, err
	}
	return loaded, nil
}

// Keep makes what was loaded one of the folder's, and the newest it has seen.
func (f *File) Keep(l *Loaded) error { return f.keep(l.Written, l.Continuity.Signers()) }

func (f *File) keep(w Written, signers []string) error {
	f.folder.mu.Lock()
	defer f.folder.mu.Unlock()
	seen, _, err := f.folder.seen()
	if err != nil {
		return err
	}
	if err := seen.admits(w.Header); err != nil {
		return err
	}
	if err := f.folder.settle(f.file, nameOf(w)); err != nil {
		return fmt.Errorf("snapshot: keep: %w", err)
	}
	if err := f.folder.mark(Seen{Ledger: w.Ledger, Position: w.Position, Signers: signers}); err != nil {
		return err
	}
	f.folder.prune(nameOf(w))
	return nil
}

// Discard removes it, unless it was kept.
func (f *File) Discard() {
	_ = f.file.Close()
	_ = os.Remove(f.file.Name())
}
