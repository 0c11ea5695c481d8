package api_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/api"
	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/wire"
)

const importPath = "/v1/organizations/acme/keys/import"

func importBody(keys ...string) string { return `{"keys":[` + strings.Join(keys, ",") + `]}` }

// Keys of another system are good as they are, however their digests are
// written, and are told from then on by what was told of them.
func TestImportedKeysAreGoodAsTheyAre(t *testing.T) {
	for name, start := range map[string]func(testing.TB, ...func(*api.Config)) *apitest.Server{"memory": apitest.Start, "jetstream": apitest.StartEmbedded} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			furnish(s, "acme")
			secrets := []string{"sk-proj-abc.DEF:1", "another system's key", "acme_live_0123456789abcdef0123456789abcdef", "last"}
			var keys []string
			for i, secret := range secrets {
				sum := sha256.Sum256([]byte(secret))
				value := []string{
					hex.EncodeToString(sum[:]), base64.StdEncoding.EncodeToString(sum[:]),
					base64.RawURLEncoding.EncodeToString(sum[:]), strings.ToUpper(hex.EncodeToString(sum[:])),
				}[i]
				keys = append(keys, `{"digest":{"alg":"sha256","value":"`+value+`"},"prefix":"sk-proj.x","last_four":"EF:1","name":"Old",
					"permissions":["interview:read"],"scope":{"workspaces":["hiring"]},"profile":"gold","expires_in":"90d",
					"created_at":"2020-02-29T12:00:00Z","metadata":{"team":"a"},"external_id":"crm-`+fmt.Sprint(i)+`"}`)
			}
			body := importBody(keys...)
			got := as[wire.ImportedKeys](t, s.Must(200, s.Owner, "POST", importPath, body))
			if got.Imported != len(secrets) || got.Existing+got.Refused != 0 || len(got.Items) != len(secrets) || got.Position == "" {
				t.Fatalf("%+v", got)
			}
			for i, secret := range secrets {
				v := verdict(t, s, s.Owner, secret, `,"permission":"interview:read","workspace":"hiring"`)
				if !v.Valid || v.KeyID != got.Items[i].KeyID || v.Profile == nil {
					t.Errorf("key %d: %+v", i, v)
				}
			}
			k := as[wire.Key](t, s.Must(200, s.Owner, "GET", "/v1/organizations/acme/keys/"+got.Items[0].KeyID, ""))
			if k.Prefix != "sk-proj.x" || k.LastFour != "EF:1" || *k.Name != "Old" || k.CreatedAt.Year() != 2020 || k.Metadata["team"] != "a" || k.ExternalID != "crm-0" {
				t.Errorf("%+v", k)
			}
			again := as[wire.ImportedKeys](t, s.Must(200, s.Owner, "POST", importPath, body))
			if again.Existing != len(secrets) || again.Items[2].KeyID != got.Items[2].KeyID || again.Position == "" {
				t.Errorf("again: %+v", again)
			}
		})
	}
}
