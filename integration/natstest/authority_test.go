package natstest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

// authority writes what the nodes' conf includes, by hand, and the credentials of a
// user who may do everything with the streams.
func authority(t *testing.T, members []string) (auth, operator string) {
	t.Helper()
	pair := func(make func() (nkeys.KeyPair, error)) (nkeys.KeyPair, string) {
		key, err := make()
		if err != nil {
			t.Fatal(err)
		}
		public, err := key.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		return key, public
	}
	root, rootID := pair(nkeys.CreateOperator)
	_, systemID := pair(nkeys.CreateAccount)
	account, accountID := pair(nkeys.CreateAccount)
	user, userID := pair(nkeys.CreateUser)

	sign := func(claims jwt.Claims, by nkeys.KeyPair) string {
		text, err := claims.Encode(by)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	trust := jwt.NewOperatorClaims(rootID)
	trust.Name, trust.SystemAccount = "test", systemID
	system := jwt.NewAccountClaims(systemID)
	system.Name = "SYS"
	ledger := jwt.NewAccountClaims(accountID)
	ledger.Name = "LEDGER"
	ledger.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}

	auth = t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(auth, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("auth.conf", fmt.Sprintf("operator: %s\nsystem_account: %s\nresolver_preload {\n  %s: %s\n  %s: %s\n}\n",
		sign(trust, root), systemID, systemID, sign(system, root), accountID, sign(ledger, root)))
	write("cluster.conf", fmt.Sprintf("authorization { user: node, password: %q }\nroutes: [\n%s]\n", password,
		"  \"nats-route://node:"+password+"@"+strings.Join(members, "\"\n  \"nats-route://node:"+password+"@")+"\"\n"))

	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	creds, err := jwt.FormatUserConfig(sign(jwt.NewUserClaims(userID), account), seed)
	if err != nil {
		t.Fatal(err)
	}
	return auth, write("operator.creds", string(creds))
}

const password = "whatever-the-nodes-know"
