// Package access lets programs in at an installation's broker, and shuts them out
// again: verifiers, subscribers, auditors. It draws a credential, records it,
// makes the consumer it reads by, tells the broker, and hands the file over.
//
// Every step can be repeated, and what a crash or a lost answer left undone is done
// by asking for the same once more.
package access

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/credential"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/jetstream"
)

var (
	// ErrExists says that a file would be overwritten.
	ErrExists = errors.New("access: the file is there already")
	// ErrIssued says that the credential was issued before, and is in no file here.
	ErrIssued = errors.New("access: the credential was issued before")
	// ErrOther says that it was issued before, to do something else.
	ErrOther = errors.New("access: the credential was issued for something else")
	// ErrRevoked says that its name was taken back.
	ErrRevoked = errors.New("access: the credential was revoked")
	// ErrUnknown says that there is no credential of that name.
	ErrUnknown = errors.New("access: there is no such credential")
	// ErrNoLeaf says that there is no leaf node of that name, or that it was revoked.
	ErrNoLeaf = errors.New("access: there is no such leaf node")
	// ErrLeafAway says that something is to be done at a leaf node, and nobody has said
	// where it is.
	ErrLeafAway = errors.New("access: this is done at the leaf node, and it was not said where that is")
)

// MaxBehindLeaf bounds the verifiers behind one leaf node: each stands in its account,
// which has to fit a message of the broker's.
const MaxBehindLeaf = 150

// ErrLeafFull says that a leaf node takes no more verifiers.
var ErrLeafFull = errors.New("access: the leaf node takes no more verifiers")

// pendingSuffix is what a file ends in until its credential opens something.
const pendingSuffix = ".pending"

// Config is what doors are opened with.
type Config struct {
	// Ledger records who comes in, and ID is its id.
	Ledger *jetstream.Ledger
	ID     events.LedgerID
	// Conn makes consumers: the server's connection, or an operator's.
	Conn *nats.Conn
	// Authority signs.
	Authority *credentials.Authority
	// Push makes accounts known to the broker.
	Push func(ctx context.Context, accounts ...credentials.Account) error
	// Operate runs a function with a connection that may do everything with the
	// streams: mirrors, and what reads by them, are beyond what a server may touch.
	Operate func(ctx context.Context, f func(*nats.Conn) error) error
	// Leaf is the leaf node whose verifiers are let in and out; nil is none.
	Leaf *Leaf
	// Logger takes what operators should know.
	Logger *slog.Logger
}

// Leaf reaches a leaf node, as Push and Operate reach the broker.
type Leaf struct {
	Push    func(ctx context.Context, accounts ...credentials.Account) error
	Operate func(ctx context.Context, f func(*nats.Conn) error) error
}

// Validate reports everything that is missing.
func (c Config) Validate() error {
	var faults []error
	for what, missing := range map[string]bool{
		"Ledger": c.Ledger == nil, "ID": c.ID.IsZero(), "Conn": c.Conn == nil,
		"Authority": c.Authority == nil, "Push": c.Push == nil,
		"Operate": c.Operate == nil, "Logger": c.Logger == nil,
	} {
		if missing {
			faults = append(faults, fmt.Errorf("access: config: %s is needed", what))
		}
	}
	return errors.Join(faults...)
}

// Doors lets programs in and out.
type Doors struct {
	cfg     Config
	service *commands.Service
}

// New returns an installation's doors.
func New(cfg Config) (*Doors, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	service, err := commands.New(commands.Config{
		Log: cfg.Ledger, Ledger: cfg.ID, Configuration: commands.NewConfiguration(), Logger: cfg.Logger,
		// Credentials hold no places, and no verdict rests on them.
		Holders: func(context.Context, events.OrgID) ([]events.KeyID, error) { return nil, nil },
		Await:   func(context.Context, events.Position) error { return nil },
	})
	if err != nil {
		return nil, err
	}
	return &Doors{cfg: cfg, service: service}, nil
}

// Wish is a credential to be issued.
type Wish struct {
	Name events.CredentialName
	For  events.CredentialKind
	// Organizations are the only ones it shall reach; none means all.
	Organizations []events.OrgID
	// MaxStaleness is how old a verifier lets its knowledge become; 0 is the default.
	MaxStaleness time.Duration
	// Mirror is the mirror that a verifier shall read by; empty: the ledger itself.
	Mirror events.MirrorName
	// Leaf is the leaf node that a verifier is at; empty: the broker itself.
	Leaf events.CredentialName
	// Out is the file that gets it, readable by its owner alone. It must not be
	// there, except from an earlier attempt at the same.
	Out string
}

// Issue lets a program in: when it returns, the file opens the broker. Called again
// with the same wish it finishes what was left undone, or does nothing. Errors are
// this package's and those of the ledger.
func (d *Doors) Issue(ctx context.Context, w Wish) (events.CredentialIssued, error) {
	state, err := commands.Credential(ctx, d.cfg.Ledger, w.Name)
	if err != nil {
		return events.CredentialIssued{}, err
	}
	if !state.Exists {
		// Before its name is given away.
		if err := d.checkPlace(ctx, w); err != nil {
			return events.CredentialIssued{}, err
		}
	}
	account, file, err := draw(w, state)
	if err != nil {
		return events.CredentialIssued{}, err
	}
	if !state.Exists {
		issued := events.CredentialIssued{
			Name: w.Name, For: w.For, Organizations: w.Organizations, Account: account, MaxStaleness: int(w.MaxStaleness / time.Second),
			Mirror: w.Mirror, Leaf: w.Leaf,
		}
		if w.For != events.CredentialSubscriber && len(w.Organizations) > 0 {
			if issued.Scope, err = label(); err != nil {
				return events.CredentialIssued{}, err
			}
		}
		_, err := d.service.IssueCredential(ctx, commands.Wish{Principal: commands.Operator()}, issued)
		if errors.Is(err, domain.ErrInvalid) {
			// It never opens anything.
			_ = os.Remove(file)
		}
		if err != nil {
			return events.CredentialIssued{}, err
		}
		// As it is recorded, whoever recorded it.
		if state, err = commands.Credential(ctx, d.cfg.Ledger, w.Name); err != nil {
			return events.CredentialIssued{}, err
		}
	}
	if err := d.open(ctx, state.Issued); err != nil {
		return events.CredentialIssued{}, err
	}
	return state.Issued, settle(file, w.Out)
}

// draw finds the file of an earlier attempt, or draws a credential into one. It
// returns the credential's account and where the file is now.
func draw(w Wish, state credential.State) (account, file string, err error) {
	pending := w.Out + pendingSuffix
	for _, path := range []string{w.Out, pending} {
		read := os.ReadFile
		if path == pending {
			// What others have put there would let them in.
			read = credentials.ReadOwn
		}
		content, err := read(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", "", fmt.Errorf("access: read credentials: %w", err)
		}
		held, err := credentials.Holder(content)
		switch {
		case path == w.Out && (err != nil || !state.Exists || held.Account != state.Issued.Account):
			return "", "", fmt.Errorf("%w: %s", ErrExists, path)
		case err != nil || held.Name != w.Name || held.For != w.For:
			// An attempt at something else, which came to nothing.
			continue
		case !state.Exists || held.Account == state.Issued.Account:
			return held.Account, path, refuse(w, state)
		}
	}
	if state.Exists {
		if err := refuse(w, state); err != nil {
			return "", "", err
		}
		return "", "", fmt.Errorf("%w: %s, and %s does not hold it; a name is given once, so choose another", ErrIssued, w.Name, w.Out)
	}
	drawn, err := credentials.Draw(credentials.Grant{Name: w.Name, For: w.For, Organizations: w.Organizations, Mirror: w.Mirror, Leaf: w.Leaf})
	if err != nil {
		return "", "", err
	}
	// Before it is recorded, so that no crash can lose what was recorded.
	return drawn.Account, pending, credentials.WriteFile(pending, drawn.Creds)
}

// refuse tells why a credential that was issued is not the one that is wished for.
func refuse(w Wish, state credential.State) error {
	switch {
	case state.Revoked:
		return fmt.Errorf("%w: %s; a name is given once, so choose another", ErrRevoked, w.Name)
	case state.Exists && !credential.Same(state.Issued, events.CredentialIssued{
		Name: w.Name, For: w.For, Organizations: slices.Sorted(slices.Values(w.Organizations)), MaxStaleness: int(w.MaxStaleness / time.Second),
		Mirror: w.Mirror, Leaf: w.Leaf,
	}):
		return fmt.Errorf("%w: %s; a name is given once, so choose another", ErrOther, w.Name)
	}
	return nil
}

// settle puts the file in its place, once it opens something.
func settle(file, out string) error {
	if file == out {
		return nil
	}
	if err := os.Rename(file, out); err != nil {
		return fmt.Errorf("access: hand credentials over: %w", err)
	}
	return nil
}

// open makes what the credential reads by, and has the broker let it in. Who was
// shut out meanwhile by somebody else is shut out again: [ErrRevoked].
func (d *Doors) open(ctx context.Context, issued events.CredentialIssued) error {
	grant := credentials.GrantOf(issued)
	account, err := d.account(ctx, grant, issued.Account)
	if err != nil {
		return err
	}
	err = d.at(ctx, grant, func(conn *nats.Conn) error {
		var err error
		switch {
		case grant.Mirror != "":
			err = jetstream.CheckMirror(ctx, conn, d.cfg.ID, grant.Mirror)
		case grant.Leaf != "":
			// What feeds it needs its account at the broker.
			if err = d.tellLeaf(ctx, grant.Leaf); err == nil {
				err = jetstream.EnsureCopy(ctx, conn, d.cfg.ID, grant.Leaf)
			}
		}
		if err != nil {
			return err
		}
		for _, reader := range grant.Readers(d.cfg.ID) {
			if err := jetstream.EnsureReader(ctx, conn, reader); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := d.push(grant)(ctx, account); err != nil {
		return err
	}
	// Whoever revokes records it first and tells the broker then. So either it is
	// recorded by now, or he tells the broker after this did.
	state, err := commands.Credential(ctx, d.cfg.Ledger, issued.Name)
	if err != nil || !state.Revoked {
		return err
	}
	if err := d.shut(ctx, issued); err != nil {
		return err
	}
	return fmt.Errorf("%w meanwhile: %s", ErrRevoked, issued.Name)
}

// Revoke shuts a program out, for ever: when it returns, every server of the broker
// that is there has thrown it out, and what it read by is gone. Called again it
// does what was left undone.
func (d *Doors) Revoke(ctx context.Context, name events.CredentialName, reason string) error {
	state, err := commands.Credential(ctx, d.cfg.Ledger, name)
	if err != nil {
		return err
	}
	if !state.Exists {
		return fmt.Errorf("%w: %s", ErrUnknown, name)
	}
	if _, err := d.service.RevokeCredential(ctx, commands.Wish{Principal: commands.Operator(), Reason: reason}, name); err != nil {
		return err
	}
	return d.shut(ctx, state.Issued)
}

func (d *Doors) shut(ctx context.Context, issued events.CredentialIssued) error {
	account, err := d.cfg.Authority.Revoked(issued.Name, issued.Account)
	if err != nil {
		return err
	}
	grant := credentials.GrantOf(issued)
	if grant.Leaf != "" {
		// What it records and says does not cross any more, wherever the leaf node is.
		if err := d.tellLeaf(ctx, grant.Leaf); err != nil && !errors.Is(err, ErrNoLeaf) {
			return err
		}
	}
	if push := d.push(grant); push != nil {
		if err := push(ctx, account); err != nil {
			return err
		}
	}
	return d.at(ctx, grant, func(conn *nats.Conn) error {
		for _, reader := range grant.Readers(d.cfg.ID) {
			err := jetstream.RemoveReader(ctx, conn, reader.Stream, reader.Name)
			// With its mirror it went too.
			if err != nil && (grant.Mirror == "" || !errors.Is(err, jetstream.ErrStreamMissing)) {
				return err
			}
		}
		return nil
	})
}

// at runs a function with a connection that may make what a credential reads by.
func (d *Doors) at(ctx context.Context, g credentials.Grant, f func(*nats.Conn) error) error {
	switch {
	case g.Leaf != "" && d.cfg.Leaf == nil:
		return fmt.Errorf("%w: %s", ErrLeafAway, g.Leaf)
	case g.Leaf != "":
		return d.cfg.Leaf.Operate(ctx, func(conn *nats.Conn) error {
			switch there, err := jetstream.CopyOf(ctx, conn); {
			case err != nil:
				return err
			case there != "" && there != g.Leaf:
				return fmt.Errorf("%w: what was said is %s, and not %s", ErrLeafAway, there, g.Leaf)
			}
			return f(conn)
		})
	case g.Mirror != "":
		return d.cfg.Operate(ctx, f)
	default:
		return f(d.cfg.Conn)
	}
}

// push is how a credential's account is made known where its holder comes in, nil if
// that is at a leaf node which is not reached.
func (d *Doors) push(g credentials.Grant) func(context.Context, ...credentials.Account) error {
	switch {
	case g.Leaf == "":
		return d.cfg.Push
	case d.cfg.Leaf == nil:
		return nil
	default:
		return d.cfg.Leaf.Push
	}
}

// account is a credential's account. That of a leaf node lets through what those behind
// it may, who are looked up.
func (d *Doors) account(ctx context.Context, g credentials.Grant, public string) (credentials.Account, error) {
	if g.For != events.CredentialLeaf {
		return d.cfg.Authority.Account(g, public)
	}
	entries, err := d.List(ctx)
	if err != nil {
		return credentials.Account{}, err
	}
	var behind []credentials.Grant
	for _, e := range entries {
		if e.Leaf == g.Name && e.RevokedAt == 0 {
			behind = append(behind, credentials.GrantOf(e.CredentialIssued))
		}
	}
	if len(behind) > MaxBehindLeaf {
		return credentials.Account{}, fmt.Errorf("%w: %d are behind %s", ErrLeafFull, len(behind), g.Name)
	}
	return d.cfg.Authority.Account(g, public, behind...)
}

// tellLeaf makes a leaf node's account known as it is to be now.
func (d *Doors) tellLeaf(ctx context.Context, name events.CredentialName) error {
	issued, err := d.leaf(ctx, name)
	if err != nil {
		return err
	}
	account, err := d.account(ctx, credentials.GrantOf(issued), issued.Account)
	if err != nil {
		return err
	}
	return d.cfg.Push(ctx, account)
}

// leaf finds a leaf node's credential.
func (d *Doors) leaf(ctx context.Context, name events.CredentialName) (events.CredentialIssued, error) {
	state, err := commands.Credential(ctx, d.cfg.Ledger, name)
	switch {
	case err != nil:
		return events.CredentialIssued{}, err
	case !state.Exists || state.Revoked || state.Issued.For != events.CredentialLeaf:
		return events.CredentialIssued{}, fmt.Errorf("%w: %s", ErrNoLeaf, name)
	}
	return state.Issued, nil
}

// checkPlace says whether there is what a new credential shall read by.
func (d *Doors) checkPlace(ctx context.Context, w Wish) error {
	switch {
	case w.Mirror != "":
		return d.CheckMirror(ctx, w.Mirror)
	case w.Leaf != "" && d.cfg.Leaf == nil:
		return fmt.Errorf("%w: %s", ErrLeafAway, w.Leaf)
	case w.Leaf != "":
		_, err := d.leaf(ctx, w.Leaf)
		return err
	default:
		return nil
	}
}

// Entry is one credential that was ever issued.
type Entry struct {
	events.CredentialIssued
	// At is when, RevokedAt when it was taken back, 0 if it was not.
	At, RevokedAt events.Time
}

// List returns every credential that was ever issued, by name.
func (d *Doors) List(ctx context.Context) ([]Entry, error) {
	subjects, err := d.cfg.Ledger.Aggregates(ctx, events.System, events.AggregateCredential)
	if err != nil {
		return nil, err
	}
	out := make([]Entry, 0, len(subjects))
	for _, subject := range subjects {
		facts, err := d.cfg.Ledger.Load(ctx, subject, 0)
		if err != nil {
			return nil, err
		}
		var entry Entry
		for _, f := range facts {
			switch e := f.Event.(type) {
			case events.CredentialIssued:
				entry.CredentialIssued, entry.At = e, f.Meta.Time
			case events.CredentialRevoked:
				entry.RevokedAt = f.Meta.Time
			}
		}
		out = append(out, entry)
	}
	return out, nil
}

// Heal has the broker know again who is let in and who is not, as the ledger says:
// after a command was cut off, or files of the broker were lost, or brought back
// from a backup. One that cannot be healed keeps no other from it.
func (d *Doors) Heal(ctx context.Context) error {
	entries, err := d.List(ctx)
	if err != nil {
		return err
	}
	var faults []error
	for _, e := range entries {
		f := d.open
		if e.RevokedAt != 0 {
			f = d.shut
		}
		// Who is shut out meanwhile is what he should be, and those at leaf nodes are
		// seen to when it is said where that is.
		if err := f(ctx, e.CredentialIssued); err != nil && !errors.Is(err, ErrRevoked) && !errors.Is(err, ErrLeafAway) {
			faults = append(faults, fmt.Errorf("access: credential %s: %w", e.Name, err))
		}
	}
	return errors.Join(faults...)
}

// MakeMirror makes a mirror of the ledger on so many servers. Called again it does
// nothing, or says what is not as it should be.
func (d *Doors) MakeMirror(ctx context.Context, name events.MirrorName, replicas int) error {
	return d.cfg.Operate(ctx, func(conn *nats.Conn) error {
		return jetstream.EnsureMirror(ctx, conn, d.cfg.ID, name, replicas)
	})
}

// IssueLeaf lets a leaf node in, and puts what it needs into a folder: whom it trusts,
// where it hangs, and its credentials. It can be repeated, as [Doors.Issue].
func (d *Doors) IssueLeaf(ctx context.Context, name events.CredentialName, hubs []string, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("access: folder of a leaf node: %w", err)
	}
	if err := d.cfg.Authority.WriteLeaf(dir, hubs); err != nil {
		return err
	}
	_, err := d.Issue(ctx, Wish{Name: name, For: events.CredentialLeaf, Out: filepath.Join(dir, credentials.LeafCreds)})
	return err
}

// CheckMirror says whether a mirror is one of this ledger, all of it.
func (d *Doors) CheckMirror(ctx context.Context, name events.MirrorName) error {
	return d.cfg.Operate(ctx, func(conn *nats.Conn) error { return jetstream.CheckMirror(ctx, conn, d.cfg.ID, name) })
}

// Mirrors returns the ledger's mirrors, by name.
func (d *Doors) Mirrors(ctx context.Context) (out []jetstream.Mirror, err error) {
	err = d.cfg.Operate(ctx, func(conn *nats.Conn) error {
		out, err = jetstream.Mirrors(ctx, conn)
		return err
	})
	return out, err
}

// first are the credentials that a folder is given at its ledger's beginning. Their
// names are those of what uses them. Nothing writes to it.
var first = []Wish{
	{Name: "sidecar", For: events.CredentialVerifier},
	{Name: "subscriber", For: events.CredentialSubscriber},
	{Name: "auditor", For: events.CredentialAuditor},
}

// Furnish puts the first credentials into a folder, `<name>.creds`: one that reads
// the ledger and records uses, one that reads revocations, one that reads
// everything. One that was issued and taken away, or revoked, stays away. That one
// which is in its place opens the broker is for [Doors.Heal] to see to.
func (d *Doors) Furnish(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("access: folder of credentials: %w", err)
	}
	for _, w := range first {
		w.Out = filepath.Join(dir, string(w.Name)+".creds")
		if _, err := os.Stat(w.Out); err == nil {
			continue
		}
		_, err := d.Issue(ctx, w)
		switch {
		case errors.Is(err, ErrIssued), errors.Is(err, ErrRevoked), errors.Is(err, ErrOther), errors.Is(err, ErrExists):
			d.cfg.Logger.InfoContext(ctx, "a first credential is left as it is", "name", string(w.Name), "cause", err)
		case err != nil:
			return err
		}
	}
	return nil
}

// label draws the label of a scope.
func label() (events.ScopeLabel, error) {
	var random [16]byte
	if _, err := rand.Read(random[:]); err != nil {
		return "", fmt.Errorf("access: draw a label: %w", err)
	}
	return events.ScopeLabel(hex.EncodeToString(random[:])), nil
}

// ParseOrganizations reads a list such as a flag holds, "a,b".
func ParseOrganizations(text string) ([]events.OrgID, error) {
	if text == "" {
		return nil, nil
	}
	var out []events.OrgID
	for part := range strings.SplitSeq(text, ",") {
		org, err := events.ParseOrgID(strings.TrimSpace(part))
		if err != nil {
			return nil, err
		}
		out = append(out, org)
	}
	return out, nil
}
