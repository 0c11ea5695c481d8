package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/seals"
	"github.com/keyledger/keyledger/events/wrapping"
	"github.com/keyledger/keyledger/events/wrapping/kms"
)

// KEKFile holds the key-encryption key of a data folder, mode 0600, where no other is
// named.
const KEKFile = "provider.kek"

// ErrKEK says that a key-encryption key is not there, is none, or is not the one that
// provider keys are kept with.
var ErrKEK = errors.New("serve: the key-encryption key")

// Where a key-encryption key may be.
const (
	kekFile = "file:"
	kekEnv  = "env:"
	kekKMS  = "kms:"
	// kekNone is a server without one.
	kekNone = "none"
)

// variable is what may be the name of a variable of the environment.
var variable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// validateKEKs checks how keys are named. What was given is not repeated: somebody may
// have given a key.
func validateKEKs(specs []string) error {
	for _, spec := range specs {
		path, file := strings.CutPrefix(spec, kekFile)
		name, env := strings.CutPrefix(spec, kekEnv)
		endpoint, service := strings.CutPrefix(spec, kekKMS)
		switch {
		case spec == kekNone && len(specs) == 1:
		case file && path != "" && !strings.Contains(path, "{"):
		case env && variable.MatchString(name):
		case service && kms.Config{Endpoint: endpoint}.Validate() == nil:
		default:
			return errors.New("serve: --kek must be file:PATH, env:NAME or kms:unix:///PATH, or none by itself")
		}
	}
	return nil
}

// envelop readies what provider keys are kept in. Without a key-encryption key the
// server runs, and has no provider keys.
func (o *opened) envelop(ctx context.Context, cfg Config, b broker) error {
	ledger := o.positions.Ledger
	var kept bool
	err := b.ask(ctx, func() (err error) {
		kept, err = keeps(ctx, o.Ledger, ledger)
		return err
	})
	if err != nil {
		return err
	}
	specs, err := settleKEKs(cfg, kept)
	if err != nil || len(specs) == 0 {
		return err
	}
	var ring wrapping.Ring
	for i, spec := range specs {
		key, err := openKEK(spec)
		if err != nil {
			return err
		}
		if held, ok := key.(io.Closer); ok {
			o.services = append(o.services, held)
		}
		if i == 0 {
			ring.Primary = key
		} else {
			ring.Others = append(ring.Others, key)
		}
	}
	o.envelopes = seals.NewEnvelopes(ring, o.Ledger, ledger)
	if !kept {
		return nil
	}
	return o.checkKEKs(ctx, cfg)
}

// settleKEKs says where the key-encryption keys are, or that there is none: where none
// is named, the one in the data folder. What a server with the embedded broker had
// drawn there, and kept provider keys with, is missed; on a cluster others may have it.
func settleKEKs(cfg Config, kept bool) ([]string, error) {
	if len(cfg.KEKs) == 1 && cfg.KEKs[0] == kekNone {
		return nil, nil
	}
	if len(cfg.KEKs) > 0 {
		return cfg.KEKs, nil
	}
	path, alone := folderOf(cfg.Data, "").path(KEKFile), cfg.Cluster.URL == ""
	switch there, err := defaultKEK(path, alone && (!kept || cfg.KEKLost)); {
	case err != nil:
		return nil, err
	case there:
		return []string{kekFile + path}, nil
	case alone:
		return nil, fmt.Errorf("%w is not at %s, and provider keys are kept with it: put it back, or name it by --kek; without it, --kek none runs without provider keys, and --kek-lost with new ones", ErrKEK, path)
	case kept:
		cfg.Logger.Error("there are provider keys and no key-encryption key: this server cannot use any of them until it is given the one that they are kept with, by --kek", "missing", path)
	default:
		cfg.Logger.Info("this server keeps no provider keys: it has no key-encryption key (--kek)")
	}
	return nil, nil
}

// keeps reports whether a ledger has data keys of provider keys.
func keeps(ctx context.Context, at seals.EnvelopeStore, id events.LedgerID) (bool, error) {
	// Nothing opens without a key: the first one there is fails.
	err := seals.NewEnvelopes(wrapping.Ring{}, at, id).Check(ctx)
	if errors.Is(err, wrapping.ErrWrongKey) {
		return true, nil
	}
	return false, err
}

// checkKEKs refuses keys that open none of the data keys there are: what is added with
// them would be lost to the servers that have the right ones. A key management service
// that does not answer stops nobody, and neither does one that is lost.
func (o *opened) checkKEKs(ctx context.Context, cfg Config) error {
	switch err := o.envelopes.Check(ctx); {
	case errors.Is(err, wrapping.ErrWrongKey) && cfg.KEKLost:
		cfg.Logger.Error("no key-encryption key opens the provider keys there are: they are lost until they are replaced, each by its owner")
		return nil
	case errors.Is(err, wrapping.ErrWrongKey):
		return fmt.Errorf("%w opens none of the provider keys there are: name the one that they are kept with by --kek, or say --kek-lost (%w)", ErrKEK, err)
	case errors.Is(err, events.ErrUnavailable):
		cfg.Logger.Warn("it cannot be told whether the key-encryption keys open the provider keys", "error", err)
		return nil
	default:
		return err
	}
}

// defaultKEK looks for the key of a data folder, and draws it there if that is wanted.
func defaultKEK(path string, draw bool) (there bool, err error) {
	_, err = os.Stat(path)
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("%w: %w", ErrKEK, err)
	}
	if !draw {
		return false, nil
	}
	return true, drawKEK(path)
}

// drawKEK makes a key-encryption key where none is.
func drawKEK(path string) error {
	keys, err := wrapping.NewKeyset()
	if err != nil {
		return err
	}
	text, err := keys.Marshal()
	if err != nil {
		return err
	}
	if err := credentials.CreateFile(path, text); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: %w", ErrKEK, err)
	}
	return nil
}

// openKEK opens a key by where it is.
func openKEK(spec string) (wrapping.Key, error) {
	scheme, at, _ := strings.Cut(spec, ":")
	if scheme+":" == kekKMS {
		key, err := kms.New(kms.Config{Endpoint: at})
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrKEK, err)
		}
		return key, nil
	}
	var text []byte
	switch scheme + ":" {
	case kekFile:
		var err error
		if text, err = os.ReadFile(at); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrKEK, err)
		}
	case kekEnv:
		value, there := os.LookupEnv(at)
		if !there || value == "" {
			return nil, fmt.Errorf("%w: the environment has no %s", ErrKEK, at)
		}
		// Whatever this process starts, or shows of its environment, has it not.
		if err := os.Unsetenv(at); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrKEK, err)
		}
		text = []byte(value)
	}
	key, err := wrapping.ParseKeyset(text)
	clear(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrKEK, spec, err)
	}
	return key, nil
}
