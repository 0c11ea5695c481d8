package api

import (
	"context"
	"errors"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
)

func (s *Server) importEndpoint() endpoint {
	return endpoint{
		method: "POST", path: "/v1/organizations/{org}/keys/import", id: "import-keys", tag: "Keys", summary: "Import keys by their digests",
		description: "Brings keys over from another system, so that nobody has to be given a new one: they are good as they are from the next verdict on. Only digests come here, and only those of keys with 128 random bits or more should: a digest of less can be guessed.\n\n" +
			"Each key has its own result. What is wrong with one does not touch the others; a limit on active keys lets in as many as have a place, in their order. The id of a key is made of the organization and the digest, so that importing it again, also after an answer that never came, finds it (exists) and makes no second one. What exists stays as it is, whatever became of it since.",
		who:   "Role owner or admin; a key that is limited to workspaces imports keys within them.",
		takes: wire.ImportKeys{}, maxBody: MaxImportBytes, change: true, answers: wire.ImportedKeys{}, status: 200,
		example: wire.ImportKeys{Keys: []wire.ImportKey{{
			Digest: wire.Digest{Alg: "sha256", Value: "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"},
			Prefix: "acme_live", LastFour: "a1B2", Name: "Zapier",
			Permissions: &wire.GrantWish{Level: "restricted", Grants: []string{"interview:read"}}, Scope: &wire.Scope{Workspaces: []string{"support"}},
		}}},
		codes: []string{"ended"}, handle: s.importKeys,
	}
}

// importBody is [wire.ImportKeys] with keys that are read one by one: what cannot
// be read of one is told at that one.
type importBody struct {
	Keys   importedKeys `json:"keys"`
	Reason string       `json:"reason,omitzero"`
}

// importedKeys are as many as can be imported at once, and one more where there
// are more. Nobody keeps millions of them to count: they take many times the room
// of the body.
type importedKeys []jsontext.Value

// UnmarshalJSONFrom reads them.
func (k *importedKeys) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	if dec.PeekKind() != '[' {
		return json.UnmarshalDecode(dec, (*[]jsontext.Value)(k))
	}
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	for dec.PeekKind() != ']' {
		if len(*k) > events.MaxImport {
			if err := dec.SkipValue(); err != nil {
				return err
			}
			continue
		}
		v, err := dec.ReadValue()
		if err != nil {
			return err
		}
		*k = append(*k, v.Clone())
	}
	_, err := dec.ReadToken()
	return err
}

func (s *Server) importKeys(ctx context.Context, c *call) (reply, error) {
	org, err := c.org()
	if err != nil {
		return reply{}, err
	}
	body, err := readImport(c.body)
	if err != nil {
		return reply{}, err
	}
	w, err := c.wish(body.Reason)
	if err != nil {
		return reply{}, err
	}
	keys := make([]commands.ImportKey, len(body.Keys))
	for i, text := range body.Keys {
		keys[i].Create, keys[i].Unreadable = importKeyFrom(text)
	}
	out, err := s.cfg.Commands.ImportKeys(ctx, w, org, keys)
	if err != nil {
		return reply{}, err
	}
	answer := s.imported(out, c.requestID)
	if w.DryRun {
		r, err := preview(out.Facts)
		if dry, ok := r.body.(wire.DryRun); ok {
			dry.Items = answer.Items
			r.body = dry
		}
		return r, err
	}
	s.remember(out.Position)
	return reply{body: answer, replayed: out.Replayed, lags: !out.Applied}, nil
}

// readImport reads all but the keys, each of which is only known to be JSON.
func readImport(text []byte) (importBody, error) {
	var body importBody
	err := json.Unmarshal(text, &body, json.RejectUnknownMembers(true))
	switch {
	case err == nil && !keystring.Contains(body.Reason):
		return body, nil
	case err == nil:
		return body, secretIn("reason")
	default:
		// Whoever walks all of it finds a key first, and says what is wrong.
		return body, errors.Join(walk(text), bodyFault(err))
	}
}

// importKeyFrom reads one key.
func importKeyFrom(text jsontext.Value) (key.Create, error) {
	var k wire.ImportKey
	if err := decode(text, &k); err != nil {
		return key.Create{}, err
	}
	create := key.Create{
		Issued: key.Issued{Prefix: k.Prefix, LastFour: k.LastFour}, Name: events.ClearText(k.Name),
		ExternalID: events.ClearText(k.ExternalID), DataSubject: events.DataSubject(k.DataSubject), Status: events.Status(k.Status),
	}
	var err error
	if create.Issued.Digest, err = key.ParseDigest(k.Digest.Alg, k.Digest.Value); err != nil {
		return create, err
	}
	if create.Metadata, err = metadataFrom(k.Metadata); err != nil {
		return create, err
	}
	if k.Permissions != nil {
		create.Permissions = permissionsFrom(*k.Permissions)
	}
	if k.Scope != nil {
		if create.Scope, err = scopeFrom(*k.Scope); err != nil {
			return create, err
		}
	}
	if k.Profile != "" {
		if create.Profile, err = parseID("profile", k.Profile, events.ParseProfileID); err != nil {
			return create, err
		}
	}
	if create.Expiry, err = expiryFrom(k.ExpiresAt, k.ExpiresIn); err != nil {
		return create, err
	}
	if k.CreatedAt != nil {
		if y := k.CreatedAt.UTC().Year(); y < 1970 || y > 9999 {
			return create, domain.Refuse(domain.ErrInvalid, "created_at", "must lie in the past, and not before 1970")
		}
		create.CreatedAt = events.TimeOf(*k.CreatedAt)
	}
	return create, nil
}

// imported tells what became of each key.
func (s *Server) imported(out commands.ImportOutcome, requestID string) wire.ImportedKeys {
	answer := wire.ImportedKeys{Items: make([]wire.ImportItem, len(out.Keys))}
	if out.Position != 0 {
		answer.Position = s.position(out.Position)
	}
	for i, k := range out.Keys {
		item := wire.ImportItem{Index: i, Result: wire.ResultImported, KeyID: keyIDText(k.ID)}
		switch {
		case k.Err != nil:
			p := problemOf(k.Err, requestID)
			item.Result, item.Problem = wire.ResultRefused, &wire.ImportProblem{Code: p.Code, Field: p.Field, Detail: p.Detail}
			answer.Refused++
		case k.Exists:
			item.Result = wire.ResultExists
			answer.Existing++
		default:
			answer.Imported++
		}
		answer.Items[i] = item
	}
	return answer
}
