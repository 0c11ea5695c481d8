package client_test

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/keyledger/keyledger/api/client"
	"github.com/keyledger/keyledger/api/wire"
)

// A key for a partner, good for 90 days and for one permission.
func Example() {
	c, err := client.New(client.Config{URL: "http://127.0.0.1:8080", Key: client.Secret(os.Getenv("KEYLEDGER_KEY"))})
	if err != nil {
		fmt.Println(err)
		return
	}
	created, err := c.CreateKey(context.Background(), "acme", wire.CreateKey{
		Name:        "Zapier",
		Permissions: &wire.GrantWish{Level: "restricted", Grants: []string{"interview:read"}},
		Scope:       &wire.Scope{Workspaces: []string{"support"}},
		ExpiresIn:   "90d",
	})
	var p *client.Problem
	switch {
	case errors.As(err, &p) && p.Code == "key_limit_reached":
		fmt.Println("revoke a key first")
	case err != nil:
		fmt.Println(err)
	default:
		// Shown this once, and kept nowhere.
		fmt.Println(created.Secret)
	}
}
