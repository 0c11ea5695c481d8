//go:build unix

package listen

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// maxPath is what Linux and BSD take for a socket's path, one less for its end.
const maxPath = 103

// patience bounds how long a program that is busy may take to be found alive. One
// that is alive and takes longer is taken for alive.
const patience = time.Second

// socket is a listener whose file is its own to remove.
type socket struct {
	*net.UnixListener
	path  string
	made  fs.FileInfo
	close sync.Once
	err   error
}

// openSocket makes the socket beside its place and moves it there, so that nobody
// connects to one with another mode, nor finds none where one was.
func openSocket(path string, mode fs.FileMode) (net.Listener, error) {
	if path == "" || len(path) > maxPath-len(beside) {
		return nil, fmt.Errorf("listen: the path of a socket has 1 to %d bytes", maxPath-len(beside))
	}
	if mode&^fs.ModePerm != 0 {
		return nil, fmt.Errorf("listen: %v is no mode of a socket", mode)
	}
	unlock, err := lockFolder(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := vacant(path); err != nil {
		return nil, err
	}
	// Whoever was here with the lock has gone, and what it left is nobody's.
	making := path + beside
	if err := os.Remove(making); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listen: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: making, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	l.SetUnlinkOnClose(false)
	s := &socket{UnixListener: l, path: path}
	if err := s.settle(making, mode); err != nil {
		_ = l.Close()
		_ = os.Remove(making)
		return nil, fmt.Errorf("listen: %w", err)
	}
	return s, nil
}

// beside ends the name of a socket that is being made.
const beside = ".new"

func (s *socket) settle(making string, mode fs.FileMode) (err error) {
	if err = os.Chmod(making, mode); err != nil {
		return err
	}
	if err = os.Rename(making, s.path); err != nil {
		return err
	}
	s.made, err = os.Lstat(s.path)
	return err
}

// vacant reports whether a socket may be put at a path: in the place of none, or
// of one that nobody listens at any more. Nothing else is ever removed.
func vacant(path string) error {
	there, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("listen: %w", err)
	case there.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%w: %s is there and is no socket", ErrInUse, path)
	}
	conn, err := net.DialTimeout("unix", path, patience)
	if err == nil {
		_ = conn.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w: another program listens at %s", ErrInUse, path)
	}
	return nil
}

// lockFolder lets one program at a time look and put a socket in a folder.
func lockFolder(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("listen: lock %s: %w", dir, err)
	}
	return func() { _ = f.Close() }, nil
}

// Close stops listening and removes the socket, unless another stands in its place.
func (s *socket) Close() error {
	s.close.Do(func() {
		if there, err := os.Lstat(s.path); err == nil && os.SameFile(there, s.made) {
			s.err = os.Remove(s.path)
		}
		s.err = errors.Join(s.err, s.UnixListener.Close())
	})
	return s.err
}

// Addr is where clients connect.
func (s *socket) Addr() net.Addr { return &net.UnixAddr{Name: s.path, Net: "unix"} }
