package catalog

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// providerSchema holds what customers brought of AI providers. A provider's row
// stays when its key is removed, since versions go on; the secret's ciphertext is
// not in it, which nobody is shown, and that of the last four goes with the key.
const providerSchema = `
CREATE TABLE provider_key (
	org              TEXT NOT NULL,
	id               TEXT NOT NULL, -- the provider
	version          INTEGER NOT NULL,
	name             TEXT NOT NULL,
	name_sealed      TEXT NOT NULL,
	base_url         TEXT NOT NULL,
	data_key         TEXT NOT NULL, -- empty when it was removed
	last_four_sealed TEXT NOT NULL, -- ciphertext; empty when it was removed
	state            TEXT NOT NULL,
	created_at       INTEGER NOT NULL,
	created_by       TEXT NOT NULL,
	replaced_at      INTEGER NOT NULL DEFAULT 0,
	removed_at       INTEGER NOT NULL DEFAULT 0,
	test_version     INTEGER NOT NULL DEFAULT 0,
	test_at          INTEGER NOT NULL DEFAULT 0,
	test_result      TEXT NOT NULL DEFAULT '',
	test_missing     TEXT NOT NULL DEFAULT '[]', -- JSON, names of models
	test_status      INTEGER NOT NULL DEFAULT 0,
	created_position INTEGER NOT NULL,
	revision         INTEGER NOT NULL,
	position         INTEGER NOT NULL,
	PRIMARY KEY (org, id)
) STRICT, WITHOUT ROWID;
`

// ProviderKeyState is what is known of whether a provider key is good.
type ProviderKeyState string

// The states of a provider key.
const (
	// ProviderKeyConnected: the last test that told anything of this version found
	// that it works. One that was rate limited, or reached nobody, tells nothing of
	// a key that worked.
	ProviderKeyConnected ProviderKeyState = "connected"
	// ProviderKeyUntested: no test of this version was made.
	ProviderKeyUntested ProviderKeyState = "untested"
	// ProviderKeyFailing: the last test did not find that it works.
	ProviderKeyFailing ProviderKeyState = "failing"
	// ProviderKeySuspended: the organization's plan takes no provider keys. It is
	// kept, and serves again when the plan does.
	ProviderKeySuspended ProviderKeyState = "suspended"
)

// ProviderKey is an organization's key of an AI provider, as the catalog shows it.
type ProviderKey struct {
	Org      events.OrgID
	Provider events.ProviderID
	// Version counts the secrets that were given for the provider.
	Version uint64
	Name    events.Text
	BaseURL string
	// Sealed is what opens the last four characters. The secret itself is not in it:
	// that stands in the ledger alone.
	Sealed events.SealedSecret
	// State is that of a key that was not removed.
	State     ProviderKeyState
	CreatedAt events.Time
	CreatedBy events.Actor
	// ReplacedAt is when the secret was replaced last, RemovedAt when the key was
	// removed; 0 is never.
	ReplacedAt, RemovedAt events.Time
	// LastTest is the last test of this version: those of others tell nothing of it.
	LastTest ProviderKeyTest
	// Revision is the provider key's ETag.
	Revision events.Revision
	// Position is that of the last fact on it.
	Position events.Position

	created events.Position
}

// Place is where it stands among an organization's provider keys, by when they were
// connected.
func (k ProviderKey) Place() events.Position { return k.created }

// SecretSince is how old the secret is.
func (k ProviderKey) SecretSince() events.Time { return max(k.CreatedAt, k.ReplacedAt) }

// ProviderKeyTest is what a test came to; it is zero where there was none.
type ProviderKeyTest struct {
	Version       uint64
	At            events.Time
	Result        events.ProviderResult
	MissingModels []string
	Status        int
}

const providerKeyColumns = `SELECT p.org, p.id, p.version, p.name, p.name_sealed, p.base_url, p.data_key, p.last_four_sealed, p.state, coalesce(o.plan, ''),
	p.created_at, p.created_by, p.replaced_at, p.removed_at, p.test_version, p.test_at, p.test_result, p.test_missing, p.test_status, p.revision, p.position, p.created_position
	FROM main.provider_key p LEFT JOIN main.organization o ON o.org = p.org `

func scanProviderKey(row sqlview.Scanner) (ProviderKey, error) {
	var k ProviderKey
	var name sqlview.Text
	var plan events.Plan
	var dataKey, createdBy, missing string
	err := row.Scan(&k.Org, &k.Provider, &k.Version, &name.Clear, &name.Sealed, &k.BaseURL, &dataKey, &k.Sealed.LastFour, &k.State, &plan,
		&k.CreatedAt, &createdBy, &k.ReplacedAt, &k.RemovedAt, &k.LastTest.Version, &k.LastTest.At, &k.LastTest.Result, &missing, &k.LastTest.Status,
		&k.Revision, &k.Position, &k.created)
	if err != nil {
		return k, err
	}
	if !plan.TakesProviderKeys() {
		k.State = ProviderKeySuspended
	}
	var errs [4]error
	k.Name, errs[0] = name.Text()
	k.CreatedBy, errs[1] = decodeActor(createdBy)
	k.LastTest.MissingModels, errs[2] = decodeList[string](missing)
	if dataKey != "" {
		errs[3] = k.Sealed.DataKey.UnmarshalText([]byte(dataKey))
	}
	return k, errors.Join(errs[:]...)
}

// ProviderKey returns what an organization has of a provider, also what was removed.
func (c *Catalog) ProviderKey(ctx context.Context, org events.OrgID, provider events.ProviderID) (ProviderKey, error) {
	return one(scanProviderKey, c.db.QueryRow(ctx, providerKeyColumns+`WHERE p.org = ? AND p.id = ?`, string(org), string(provider)))
}

// ProviderKeys lists an organization's provider keys that were not removed, in the
// order of [events.Providers].
func (c *Catalog) ProviderKeys(ctx context.Context, org events.OrgID) ([]ProviderKey, error) {
	found, err := sqlview.All(ctx, c.db, scanProviderKey, providerKeyColumns+connectedKeys, string(org))
	all := events.Providers()
	slices.SortStableFunc(found, func(a, b ProviderKey) int {
		return cmp.Compare(slices.Index(all, a.Provider), slices.Index(all, b.Provider))
	})
	return found, err
}

// connectedKeys are the provider keys of an organization that were not removed, in
// the order of their places.
const connectedKeys = `WHERE p.org = ? AND p.removed_at = 0 ORDER BY p.created_position`

// ConnectedProviders reads an organization's provider keys that were not removed, in
// the order of their places, in a transaction over the catalog's file (see [Living]).
func ConnectedProviders(ctx context.Context, tx *sql.Tx, org events.OrgID) ([]ProviderKey, error) {
	rows, err := tx.QueryContext(ctx, providerKeyColumns+connectedKeys, string(org))
	if err != nil {
		return nil, fmt.Errorf("catalog: %w", err)
	}
	defer rows.Close()
	var out []ProviderKey
	for rows.Next() {
		k, err := scanProviderKey(rows)
		if err != nil {
			return nil, fmt.Errorf("catalog: %w", err)
		}
		out = append(out, k)
	}
	return out, rows.Err()
}

// untested takes away what a test came to.
const untested = ` test_version = 0, test_at = 0, test_result = '', test_missing = '[]', test_status = 0,`

// providerKey applies a fact on a provider key.
func (a *applier) providerKey() error {
	const table = "provider_key"
	switch e := a.fact.Event.(type) {
	case events.ProviderKeyAdded:
		return a.providerKeyAdded(e)
	case events.ProviderKeyReplaced:
		return a.update(table, "version = ?, base_url = ?, data_key = ?, last_four_sealed = ?, state = ?, replaced_at = ?,"+untested,
			int64(e.Version), e.BaseURL, e.Sealed.DataKey.String(), e.Sealed.LastFour, string(ProviderKeyUntested), a.time)
	case events.ProviderKeyRenamed:
		return a.update(table, "name = ?, name_sealed = ?,", e.Name.Clear, sqlview.Sealed(e.Name))
	case events.ProviderKeyTested:
		return a.providerKeyTested(e)
	case events.ProviderKeyRemoved:
		return a.update(table, "data_key = '', last_four_sealed = '', removed_at = ?,", a.time)
	case events.ProviderKeyNewSource, events.ProviderKeyResolvesSpike, events.ProviderKeyFailing:
		return a.update(table, "")
	default:
		return a.unexpected()
	}
}

func (a *applier) providerKeyAdded(e events.ProviderKeyAdded) error {
	actor := a.fact.Meta.Actor.String()
	if a.fact.Meta.Revision == 1 {
		return a.insert(`INSERT INTO provider_key (org, id, version, name, name_sealed, base_url, data_key, last_four_sealed, state, created_by,
				created_at, created_position, revision, position)
			VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, 1, ?12)`,
			a.org, a.id, int64(e.Version), e.Name.Clear, sqlview.Sealed(e.Name), e.BaseURL, e.Sealed.DataKey.String(), e.Sealed.LastFour,
			string(ProviderKeyUntested), actor)
	}
	return a.update("provider_key", `version = ?, name = ?, name_sealed = ?, base_url = ?, data_key = ?, last_four_sealed = ?, state = ?, created_by = ?,
		created_at = ?, created_position = ?, replaced_at = 0, removed_at = 0,`+untested,
		int64(e.Version), e.Name.Clear, sqlview.Sealed(e.Name), e.BaseURL, e.Sealed.DataKey.String(), e.Sealed.LastFour, string(ProviderKeyUntested), actor,
		a.time, int64(a.fact.Position))
}

// providerKeyTested keeps the last test. One of an earlier version, which was
// replaced while it ran, tells nothing of the one that there is now.
func (a *applier) providerKeyTested(e events.ProviderKeyTested) error {
	missing, err := encodeList(e.MissingModels)
	if err != nil {
		return err
	}
	var version int64
	var state ProviderKeyState
	if _, err := a.tx.QueryRow(`SELECT version, state FROM provider_key WHERE org = ? AND id = ?`, []any{a.org, a.id}, &version, &state); err != nil {
		return err
	}
	if int64(e.Version) != version {
		return a.update("provider_key", "")
	}
	return a.update("provider_key", "state = ?, test_version = ?, test_at = ?, test_result = ?, test_missing = ?, test_status = ?,",
		string(state.after(e.Result)), int64(e.Version), int64(e.At), string(e.Result), missing, e.Status)
}

// after is the state of a version after a test of it.
func (s ProviderKeyState) after(r events.ProviderResult) ProviderKeyState {
	switch r {
	case events.ProviderWorks:
		return ProviderKeyConnected
	case events.ProviderRateLimited, events.ProviderUnreachable:
		if s == ProviderKeyConnected {
			return s
		}
	case events.ProviderInvalid, events.ProviderExpiredOrRevoked, events.ProviderInsufficientPermissions, events.ProviderMissingModels,
		events.ProviderMalformed:
	}
	return ProviderKeyFailing
}
