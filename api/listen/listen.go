// Package listen opens the addresses that doors are reached at: TCP ports and unix
// sockets, by one text.
//
//	l, err := listen.Open("unix:/run/keyledger/sidecar.sock", 0o660)
package listen

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
)

// Unix begins the address of a unix socket; its path follows.
const Unix = "unix:"

// ErrInUse says that another program listens there, or that what is there is no
// socket.
var ErrInUse = errors.New("listen: address is in use")

// Open listens at host:port or at unix:PATH. A socket is there from one moment to
// the next with the mode that it is to have, in the place of one that a program left
// which has ended; it is removed when the listener is closed.
func Open(address string, mode fs.FileMode) (net.Listener, error) {
	path, ok := strings.CutPrefix(address, Unix)
	if ok {
		return openSocket(path, mode)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}
