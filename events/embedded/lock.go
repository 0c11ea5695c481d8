//go:build unix

package embedded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// ErrLocked says that another process has the data folder open. Two brokers on
// one folder would each append to the same files.
var ErrLocked = errors.New("embedded: data folder is in use")

// Lock takes a folder for this process, as [Start] does; it is exported for who
// keeps files there without a broker. The system gives it back when the process
// ends, however it ends; the file itself stays.
func Lock(dir string) (release func(), err error) {
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("embedded: lock data folder: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: another process has %s open; stop it, or choose another folder", ErrLocked, dir)
		}
		return nil, fmt.Errorf("embedded: lock data folder %s: %w", dir, err)
	}
	return func() { _ = file.Close() }, nil
}
