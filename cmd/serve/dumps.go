package serve

import (
	"errors"
	"fmt"
	"syscall"
)

// withholdDumps keeps what this process has in memory out of core dumps, and out of
// the reach of other processes of its user: keys in clear pass through it.
func withholdDumps() error {
	err := errors.Join(syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}), undumpable())
	if err != nil {
		return fmt.Errorf("serve: core dumps cannot be turned off: %w", err)
	}
	return nil
}
