package grpcauth_test

import (
	"context"
	"fmt"
	"net"

	"github.com/nats-io/nats.go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/grpcauth"
	"github.com/keyledger/keyledger/verify/verifytest"
)

// A service whose methods need permissions that the application names itself.
func ExampleGuard_Unary() {
	verifytest.Example(func(l *verifytest.Ledger) {
		l.Organization("acme")
		secret, id := l.Key("acme", "doc:read")
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

		guard, err := grpcauth.New(grpcauth.Config{Verifier: client, Permission: func(string) string { return "doc:read" }})
		if err != nil {
			fmt.Println(err)
			return
		}
		server := grpc.NewServer(grpc.UnaryInterceptor(guard.Unary), grpc.StreamInterceptor(guard.Stream))
		healthpb.RegisterHealthServer(server, health.NewServer()) // it stands for a service of your own
		listener := bufconn.Listen(1 << 16)
		go server.Serve(listener)
		defer guard.Wait()
		defer server.Stop()

		caller, err := grpc.NewClient("passthrough:///service", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
		if err != nil {
			fmt.Println(err)
			return
		}
		defer caller.Close()
		call := func() {
			ctx := metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+secret)
			_, err := healthpb.NewHealthClient(caller).Check(ctx, &healthpb.HealthCheckRequest{})
			fmt.Printf("%s %q\n", status.Code(err), status.Convert(err).Message())
		}
		call()
		at := l.Revoke("acme", id)
		client.Verify(context.Background(), &verify.Question{Secret: secret, AtLeast: at}) // until it is here
		call()
	})
	// Output:
	// OK ""
	// Unauthenticated "keyledger: the key was revoked"
}
