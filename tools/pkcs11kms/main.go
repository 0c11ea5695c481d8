// Command pkcs11kms lets whatever speaks the KMS v2 protocol of Kubernetes, as keyledger does
// for its key-encryption key, use a key that is kept in a PKCS #11 token and never
// leaves it. It is what keyledger's tests run, with SoftHSM, and small enough to be
// read whole.
//
//	pkcs11kms [flags] rotate           draw a key, with which is encrypted from then on
//	pkcs11kms [flags] serve SOCKET     answer on a socket that only this user may use
//	pkcs11kms [flags] list             the keys' ids, the one that encrypts last
//	pkcs11kms [flags] destroy KEY-ID   destroy a key, and what is encrypted with it
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "pkcs11kms:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("usage: pkcs11kms -module FILE -token LABEL -pin-file FILE (serve SOCKET | rotate | list | destroy KEY-ID)")

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("pkcs11kms", flag.ContinueOnError)
	module := flags.String("module", "/usr/lib/softhsm/libsofthsm2.so", "the token's PKCS #11 `library`")
	label := flags.String("token", "keyledger", "the token's `label`")
	pinFile := flags.String("pin-file", "", "the `file` that holds the user's PIN")
	if err := flags.Parse(args); err != nil {
		return err
	}
	pin, err := os.ReadFile(*pinFile)
	if err != nil {
		return err
	}
	t, err := open(*module, *label, strings.TrimSpace(string(pin)))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	switch rest := flags.Args(); {
	case len(rest) == 2 && rest[0] == "serve":
		return serve(ctx, t, rest[1], out)
	case len(rest) == 1 && rest[0] == "rotate":
		id, err := t.rotate()
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(out, id)
		return err
	case len(rest) == 1 && rest[0] == "list":
		ids, err := t.keys()
		if err != nil {
			return err
		}
		for _, id := range ids {
			fmt.Fprintln(out, id)
		}
		return nil
	case len(rest) == 2 && rest[0] == "destroy":
		return t.destroy(rest[1])
	}
	return errUsage
}
