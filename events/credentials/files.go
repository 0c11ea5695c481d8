package credentials

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// once writes a file if it is not there. Of two who do so at a time one wins, and
// both go on with his.
func once(path string, content func() ([]byte, error)) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	b, err := content()
	if err != nil {
		return fmt.Errorf("credentials: draw %s: %w", filepath.Base(path), err)
	}
	return place(path, b, func(from string) error {
		err := os.Link(from, path)
		if errors.Is(err, fs.ErrExist) {
			err = nil
		}
		return errors.Join(err, os.Remove(from))
	})
}

// replace puts a whole file in the place of what is there.
func replace(path string, content []byte) error {
	return place(path, content, func(from string) error { return os.Rename(from, path) })
}

// WriteFile puts a secret, or what stands beside one, in a file that only its owner
// can read, whole or not at all, on disk when it returns.
func WriteFile(path string, content []byte) error { return replace(path, content) }

// CreateFile is WriteFile where nothing is; where something is it is [fs.ErrExist], and
// that stays as it was.
func CreateFile(path string, content []byte) error {
	return place(path, content, func(from string) error { return errors.Join(os.Link(from, path), os.Remove(from)) })
}

// ErrBusy says that somebody else changes a file at this moment.
var ErrBusy = errors.New("credentials: another program is changing the file")

// Claim lets one program at a time read a file, change it and put it in place by
// [WriteFile], of those that claim it; another meanwhile is [ErrBusy]. It holds the
// folder, since the file itself is replaced, and leaves nothing there.
func Claim(path string) (release func(), err error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = dir.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s; try again when that has ended", ErrBusy, path)
		}
		return nil, fmt.Errorf("credentials: claim %s: %w", path, err)
	}
	return func() { _ = dir.Close() }, nil
}

// ErrNotOwn says that a file is not this user's alone, so that somebody else may
// know what it holds, or have put it there.
var ErrNotOwn = errors.New("credentials: the file is not this user's alone")

// ReadOwn reads a secret that an earlier attempt drew and left behind. What others
// could have put there, in a folder that they may write to, is [ErrNotOwn]: going
// on with it would hand them what it becomes.
func ReadOwn(path string) ([]byte, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); !ok || int(owner.Uid) != os.Geteuid() || !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%w: %s; if you did not make it, remove it, else take everybody else's rights to it away", ErrNotOwn, path)
	}
	return os.ReadFile(path)
}

func place(path string, content []byte, settle func(from string) error) error {
	dir := filepath.Dir(path)
	// Files of this kind are made with mode 0600.
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("credentials: write %s: %w", filepath.Base(path), err)
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = settle(f.Name())
	}
	if err == nil {
		err = SyncDir(dir)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("credentials: write %s: %w", filepath.Base(path), err), remove(f.Name()))
	}
	return nil
}

func remove(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// SyncDir has what was renamed in a folder on disk when it returns.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
