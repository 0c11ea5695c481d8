package verify_test

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/verifytest"
)

// A verifier in an application of its own. The credential is what
// `keyledger nats-auth verifier` has written; here it comes from a ledger that lasts
// for the example.
func ExampleOpen() {
	verifytest.Example(func(l *verifytest.Ledger) {
		l.Organization("acme")
		secret, id := l.Key("acme", "doc:read")
		creds := l.Verifier("edge-1", 0)

		ctx := context.Background()
		conn, err := nats.Connect(l.URL(), nats.UserCredentialBytes(creds), nats.MaxReconnects(-1))
		if err != nil {
			fmt.Println(err)
			return
		}
		defer conn.Close()
		client, err := verify.Open(ctx, conn)
		if err != nil {
			fmt.Println(err)
			return
		}
		defer client.Close(ctx)
		<-client.Ready()

		d := client.Verify(ctx, &verify.Question{Secret: secret, Permission: "doc:read"})
		fmt.Println(d.Valid(), d.Code, d.Org)
		d = client.Verify(ctx, &verify.Question{Secret: secret, Permission: "doc:write"})
		fmt.Println(d.Valid(), d.Code)

		// Whoever revokes a key is told where that stands, and a verdict that rests on
		// it can be asked for anywhere.
		revoked := l.Revoke("acme", id)
		d = client.Verify(ctx, &verify.Question{Secret: secret, AtLeast: revoked})
		fmt.Println(d.Valid(), d.Code)
	})
	// Output:
	// true VALID acme
	// false INSUFFICIENT_PERMISSIONS
	// false REVOKED
}
