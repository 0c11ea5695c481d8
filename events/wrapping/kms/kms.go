// Package kms wraps data keys with a key that never leaves a key management service
// or a hardware security module: through a plugin that speaks the KMS v2 protocol of
// Kubernetes on a socket of this machine. Such plugins exist for the services of all
// large clouds, for Vault and for PKCS #11.
//
// What is wrapped is not sent to the plugin. It is encrypted here, with a key that is
// drawn for it alone, and only that key goes through the service. The protocol has no
// associated data, and it does not ask a plugin to notice that a ciphertext was
// changed: here both are AES-GCM's, whatever the service does. The plugin never sees
// a key of a customer's secret, and what it is given is always as long, well within
// the kilobyte that the protocol grants.
package kms

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	v2 "k8s.io/kms/apis/v2"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/wrapping"
)

const (
	// name is the same for all services: what is wrapped tells the key's id, and a
	// service that did not wrap it says so.
	name = "kms"

	// DefaultTimeout is what Kubernetes gives a plugin.
	DefaultTimeout = 3 * time.Second

	// reconnectWithin bounds how long a plugin that is back goes unnoticed.
	reconnectWithin = time.Second

	// maxAnswer is the longest message that is read: annotations and what the
	// protocol puts around them.
	maxAnswer = maxAnnotations + 8<<10
)

// ErrPlugin says that a plugin is not one of this protocol, or breaks its rules.
var ErrPlugin = errors.New("kms: the plugin does not keep to the KMS v2 protocol")

// Config says where a plugin is.
type Config struct {
	// Endpoint is its socket, as unix:///run/kms/plugin.sock. Whoever may put a
	// socket there is given what the plugin is given: its folder belongs to the
	// plugin's user alone.
	Endpoint string
	// Timeout bounds each call; 0 is DefaultTimeout.
	Timeout time.Duration
}

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error {
	var faults []error
	if at, ok := strings.CutPrefix(c.Endpoint, "unix://"); !ok || !path.IsAbs(at) || path.Clean(at) != at || at == "/" {
		faults = append(faults, errors.New("kms: a plugin is named by its socket, as unix:///run/kms/plugin.sock"))
	}
	if c.Timeout < 0 {
		faults = append(faults, errors.New("kms: the timeout is negative"))
	}
	return errors.Join(faults...)
}

// Key is the key of a key management service, as [wrapping.Key] has it.
type Key struct {
	conn    *grpc.ClientConn
	service v2.KeyManagementServiceClient
	timeout time.Duration
}

var _ wrapping.Key = (*Key)(nil)

// New returns the key that a plugin wraps with. It connects when it is used, and
// again when the plugin was restarted.
func New(cfg Config) (*Key, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	timeout := cfg.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	wait := backoff.DefaultConfig
	wait.BaseDelay, wait.MaxDelay = reconnectWithin/10, reconnectWithin
	conn, err := grpc.NewClient(cfg.Endpoint,
		// Who may listen on a socket is the file system's to say.
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: wait, MinConnectTimeout: timeout}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
	)
	if err != nil {
		return nil, fmt.Errorf("kms: %w", err)
	}
	return &Key{conn: conn, service: v2.NewKeyManagementServiceClient(conn), timeout: timeout}, nil
}

// Close gives up the connection.
func (k *Key) Close() error { return k.conn.Close() }

// Name is "kms".
func (k *Key) Name() string { return name }

// Check asks the plugin whether it and its service are well.
func (k *Key) Check(ctx context.Context) error {
	_, err := k.current(ctx)
	return err
}

// Wrap draws a key, has the service encrypt it, and encrypts plain with it.
func (k *Key) Wrap(ctx context.Context, plain, bound []byte) ([]byte, error) {
	var drawn [keyBytes]byte
	rand.Read(drawn[:])
	defer clear(drawn[:])
	var sealed envelope
	err := k.call(ctx, "encrypt", func(ctx context.Context, uid string) error {
		answer, err := k.service.Encrypt(ctx, &v2.EncryptRequest{Plaintext: drawn[:], Uid: uid})
		sealed = envelope{keyID: answer.GetKeyId(), key: answer.GetCiphertext(), annotations: answer.GetAnnotations()}
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := sealed.valid(); err != nil {
		return nil, err
	}
	return sealed.seal(drawn[:], plain, bound)
}

// Unwrap opens what Wrap gave.
func (k *Key) Unwrap(ctx context.Context, wrapped, bound []byte) ([]byte, error) {
	sealed, ok := parse(wrapped)
	if !ok {
		return nil, wrapping.ErrWrongKey
	}
	var drawn []byte
	err := k.call(ctx, "decrypt", func(ctx context.Context, uid string) error {
		answer, err := k.service.Decrypt(ctx, &v2.DecryptRequest{
			Ciphertext: sealed.key, Uid: uid, KeyId: sealed.keyID, Annotations: sealed.annotations,
		})
		drawn = answer.GetPlaintext()
		return err
	})
	if err != nil {
		return nil, err
	}
	defer clear(drawn)
	return sealed.open(drawn, bound)
}

// Current reports whether the service would encrypt with the same key today.
func (k *Key) Current(ctx context.Context, wrapped []byte) (bool, error) {
	sealed, ok := parse(wrapped)
	if !ok {
		return false, nil
	}
	id, err := k.current(ctx)
	return err == nil && id == sealed.keyID, err
}

// current asks for the id of the key that encrypts.
func (k *Key) current(ctx context.Context) (string, error) {
	var answer *v2.StatusResponse
	err := k.call(ctx, "status", func(ctx context.Context, _ string) (err error) {
		answer, err = k.service.Status(ctx, &v2.StatusRequest{})
		return err
	})
	switch {
	case err != nil:
		return "", err
	case answer.GetVersion() != "v2" && answer.GetVersion() != "v2beta1":
		return "", fmt.Errorf("%w: its version is %.32q", ErrPlugin, answer.GetVersion())
	case answer.GetHealthz() != "ok":
		// It was asked for nothing, so that its own words hold no secret.
		return "", fmt.Errorf("%w: the key management service is not well: %.200q", events.ErrUnavailable, answer.GetHealthz())
	case answer.GetKeyId() == "" || len(answer.GetKeyId()) > maxKeyID:
		return "", fmt.Errorf("%w: its key's id has %d bytes", ErrPlugin, len(answer.GetKeyId()))
	}
	return answer.GetKeyId(), nil
}

// call asks the plugin within bounds. What the plugin says of a fault is dropped,
// since it may repeat what it was given; the request's id, which it was given too,
// finds it in its log.
func (k *Key) call(ctx context.Context, what string, ask func(ctx context.Context, uid string) error) error {
	ctx, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	var random [8]byte
	rand.Read(random[:])
	uid := hex.EncodeToString(random[:])
	err := ask(ctx, uid)
	if err == nil {
		return nil
	}
	switch code := status.Code(err); {
	case code == codes.Unimplemented:
		return fmt.Errorf("%w: it does not know %s", ErrPlugin, what)
	// Only these say that it is of what was asked. With the others, and with
	// Unknown, which most plugins give for everything, it may go another time.
	case what == "decrypt" && (code == codes.InvalidArgument || code == codes.NotFound || code == codes.DataLoss):
		return fmt.Errorf("%w: the key management service refuses it with %s (request %s)", wrapping.ErrWrongKey, code, uid)
	default:
		return fmt.Errorf("%w: the key management service answers %s with %s (request %s)", events.ErrUnavailable, what, code, uid)
	}
}
