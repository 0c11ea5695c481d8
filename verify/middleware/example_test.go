package middleware_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/middleware"
	"github.com/keyledger/keyledger/verify/verifytest"
)

// An application whose routes stand in the catalog of its organization: what a request
// needs is looked up there.
func ExampleGuard_Authenticate() {
	verifytest.Example(func(l *verifytest.Ledger) {
		l.Organization("acme") // with GET /docs/{id} for doc:read and POST /docs for doc:write
		secret, _ := l.Key("acme", "doc:read")
		conn, err := nats.Connect(l.URL(), nats.UserCredentialBytes(l.Verifier("edge-1", 0)), nats.MaxReconnects(-1))
		if err != nil {
			fmt.Println(err)
			return
		}
		defer conn.Close()
		client, err := verify.Open(context.Background(), conn)
		if err != nil {
			fmt.Println(err)
			return
		}
		defer client.Close(context.Background())
		<-client.Ready()

		guard, err := middleware.New(middleware.Config{Verifier: client})
		if err != nil {
			fmt.Println(err)
			return
		}
		app := guard.Authenticate(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			d, _ := verify.FromContext(r.Context())
			fmt.Fprintf(w, "a document for %s", d.Org)
		}))
		for _, request := range []string{"GET /docs/7", "POST /docs"} {
			var method, path string
			fmt.Sscan(request, &method, &path)
			r := httptest.NewRequest(method, path, http.NoBody)
			r.Header.Set("Authorization", "Bearer "+secret)
			w := httptest.NewRecorder()
			app.ServeHTTP(w, r)
			fmt.Println(w.Code, w.Body)
			if challenge := w.Header().Get("WWW-Authenticate"); challenge != "" {
				fmt.Println(challenge)
			}
		}
	})
	// Output:
	// 200 a document for acme
	// 403 {"type":"urn:keyledger:insufficient_permissions","title":"Insufficient permissions","status":403,"detail":"the key may not do this","code":"insufficient_permissions"}
	// Bearer realm="keyledger", error="insufficient_scope", scope="doc:write"
}
