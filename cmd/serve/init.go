package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/cmd/nodes"
	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
)

// ErrBegun says that there is a ledger already, and that it was begun elsewhere.
var ErrBegun = errors.New("serve: a ledger has begun on this cluster already")

// InitConfig is what an installation on a cluster is begun with.
type InitConfig struct {
	// Data is the folder that gets the owner's key, the installation key, the
	// verifier key and the ledger's id.
	Data string
	// Cluster is where the ledger shall lie. Its credentials may create streams.
	Cluster Cluster
	// InstallationKey is the file of the installation key, which is made unless
	// it is there; empty: the one in Data.
	InstallationKey string
	// KEKs are the key-encryption keys that the servers will have, as in [Config]. The
	// first is made unless it is there, if it is a file; empty: the one in Data.
	KEKs []string
	// Logger takes what operators should know.
	Logger *slog.Logger
}

// Validate reports every fault at once.
func (c InitConfig) Validate() error {
	var faults []error
	if c.Data == "" {
		faults = append(faults, errors.New("serve: --data is needed"))
	}
	if c.Cluster.URL == "" {
		faults = append(faults, errors.New("serve: --nats is needed: an embedded broker's ledger begins with keyledger serve"))
	}
	faults = append(faults, c.Cluster.validate()...)
	if err := validateKEKs(c.KEKs); err != nil {
		faults = append(faults, err)
	}
	if c.Logger == nil {
		faults = append(faults, errors.New("serve: Logger is needed"))
	}
	return errors.Join(faults...)
}

// Begun is an installation that has begun, and where its secrets lie.
type Begun struct {
	Ledger events.LedgerID
	// Again says that this folder had begun it before.
	Again bool
	// Owner, InstallationKey and VerifierKey are the paths of these files.
	Owner, InstallationKey, VerifierKey string
	// KEK is the path of the key-encryption key; empty if it is no file, or is not there
	// though provider keys are kept with it.
	KEK string
}

// Init makes the streams and begins the ledger, once. Interrupted, it goes on
// when it is called again with the same folder. Of two who do it at once with
// folders of their own, one gets [ErrBegun] and keeps no key.
func Init(ctx context.Context, cfg InitConfig) (Begun, error) {
	if err := cfg.Validate(); err != nil {
		return Begun{}, err
	}
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return Begun{}, fmt.Errorf("serve: data folder: %w", err)
	}
	f := folderOf(cfg.Data, cfg.InstallationKey)
	_, seen, err := f.begun()
	if err != nil {
		return Begun{}, err
	}
	// A folder that has begun is only read, and may be a running server's.
	if !seen {
		release, err := embedded.Lock(cfg.Data)
		if err != nil {
			return Begun{}, err
		}
		defer release()
	}
	conn, err := cfg.Cluster.nodes().Connect(ctx, "keyledger init", connectPatience, cfg.Logger)
	if err != nil {
		return Begun{}, err
	}
	defer conn.Close()
	at := brokerPlace{conn: conn, replicas: cfg.Cluster.Replicas, log: cfg.Logger}
	out := Begun{Owner: f.path(OwnerFile), InstallationKey: f.installationKey, VerifierKey: f.path(VerifierKeyFile)}
	err = patiently(ctx, func() error {
		var err error
		out.Ledger, out.Again, err = at.begin(ctx, f)
		return denied(conn, err)
	})
	if err == nil {
		err = patiently(ctx, func() error { return at.verify(ctx, f, out.Ledger) })
	}
	if err == nil {
		err = patiently(ctx, func() error {
			out.KEK, err = at.drawKEK(ctx, cfg, out.Ledger)
			return err
		})
	}
	return out, err
}

// denied tells a broker that does not allow something from one that does not
// answer: it says so beside the answer.
func denied(conn *nats.Conn, err error) error {
	if said := conn.LastError(); err != nil && errors.Is(said, nats.ErrPermissionViolation) {
		return fmt.Errorf("%w: %w", nodes.ErrRefused, said)
	}
	return err
}

// begin begins the ledger unless this folder has.
func (p brokerPlace) begin(ctx context.Context, f folder) (id events.LedgerID, again bool, err error) {
	id, seen, err := f.begun()
	if err != nil {
		return id, false, err
	}
	found, exists, err := p.identify(ctx)
	if errors.Is(err, jetstream.ErrStreamMissing) && !seen {
		exists, err = false, nil
	}
	switch {
	case err != nil:
		return id, false, err
	case seen && found != id:
		return id, false, fmt.Errorf("%w: the folder is of ledger %s", ErrForeignLedger, id)
	case seen:
		return id, true, nil
	case !exists:
		if err := jetstream.EnsureStreams(ctx, p.conn, p.replicas); err != nil {
			return id, false, err
		}
	}
	id, ours, err := begin(ctx, p, f, time.Now())
	if err == nil && !ours {
		err = fmt.Errorf("%w, and not from this folder: ledger %s. Servers join it with its installation key", ErrBegun, id)
	}
	return id, false, err
}

// verify checks that servers will find what they need.
func (p brokerPlace) verify(ctx context.Context, f folder, id events.LedgerID) error {
	ledger, err := newLedger(p.conn, id, p.replicas, p.log)
	if err != nil {
		return err
	}
	if err := ledger.Check(ctx); err != nil {
		return err
	}
	state, err := commands.Installation(ctx, ledger)
	if err != nil {
		return err
	}
	_, err = f.unseal(ctx, ledger, id, state)
	return err
}

// drawKEK makes the key-encryption key that servers will keep provider keys with, unless
// it is there. Where provider keys are kept already, another would open none of them.
func (p brokerPlace) drawKEK(ctx context.Context, cfg InitConfig, id events.LedgerID) (string, error) {
	path := folderOf(cfg.Data, "").path(KEKFile)
	if len(cfg.KEKs) > 0 {
		var file bool
		if path, file = strings.CutPrefix(cfg.KEKs[0], kekFile); !file {
			return "", nil
		}
	}
	ledger, err := newLedger(p.conn, id, p.replicas, p.log)
	if err != nil {
		return "", err
	}
	kept, err := keeps(ctx, ledger, id)
	if err != nil {
		return "", err
	}
	there, err := defaultKEK(path, !kept)
	if err != nil || !there {
		return "", err
	}
	return path, nil
}
