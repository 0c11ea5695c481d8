package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/miekg/pkcs11"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/kms/pkg/service"
)

// timeout bounds how long a connection may take to come about.
const timeout = 3 * time.Second

// serve answers on a socket until the context ends, and says `ready` once it does.
func serve(ctx context.Context, t *token, socket string, out io.Writer) error {
	if err := clearSocket(ctx, socket); err != nil {
		return err
	}
	// Whoever can connect can decrypt: the socket is made for this user alone.
	syscall.Umask(0o177)
	server := service.NewGRPCService(socket, timeout, plugin{t})
	done := make(chan error, 1)
	go func() { done <- server.ListenAndServe() }()
	for !answers(ctx, socket) {
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
			return nil
		case <-time.After(10 * time.Millisecond):
		}
	}
	if _, err := fmt.Fprintln(out, "ready", "unix://"+socket); err != nil {
		return err
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		server.Shutdown()
		return <-done
	}
}

// clearSocket removes a socket that nobody answers on any more.
func clearSocket(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("%s is there, and no socket", path)
	case answers(ctx, path):
		return fmt.Errorf("somebody answers on %s", path)
	}
	return os.Remove(path)
}

func answers(ctx context.Context, path string) bool {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// plugin answers the protocol. Its codes tell what the token does not know from what
// may go another time.
type plugin struct{ token *token }

var _ service.Service = plugin{}

func (p plugin) Status(context.Context) (*service.StatusResponse, error) {
	id, err := p.token.current()
	if err != nil {
		return &service.StatusResponse{Version: "v2", Healthz: err.Error(), KeyID: "none"}, nil
	}
	return &service.StatusResponse{Version: "v2", Healthz: "ok", KeyID: id}, nil
}

func (p plugin) Encrypt(_ context.Context, _ string, plain []byte) (*service.EncryptResponse, error) {
	id, sealed, err := p.token.encrypt(plain)
	if err != nil {
		return nil, coded(err)
	}
	return &service.EncryptResponse{Ciphertext: sealed, KeyID: id}, nil
}

func (p plugin) Decrypt(_ context.Context, _ string, req *service.DecryptRequest) ([]byte, error) {
	plain, err := p.token.decrypt(req.KeyID, req.Ciphertext)
	if err != nil {
		return nil, coded(err)
	}
	return plain, nil
}

// coded gives an error its code.
func coded(err error) error {
	var of pkcs11.Error
	switch {
	case errors.Is(err, errNoKey):
		return status.Error(codes.NotFound, err.Error())
	case errors.As(err, &of) && (of == pkcs11.CKR_ENCRYPTED_DATA_INVALID || of == pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE):
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return status.Error(codes.Internal, err.Error())
}
