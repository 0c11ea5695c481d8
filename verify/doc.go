// Package verify decides whether a key may do something, here and now, in well
// under a microsecond and without asking anybody: the Go SDK for verifiers.
//
//	conn, err := nats.Connect(url, nats.UserCredentials("edge-1.creds"), nats.MaxReconnects(-1))
//	…
//	client, err := verify.Open(ctx, conn)
//	…
//	<-client.Ready()
//	d := client.Verify(ctx, &verify.Question{Secret: secret, Permission: "interview:start", Workspace: "hiring"})
//	if !d.Valid() {
//		return d.Code
//	}
//
// The credential is one of `keyledger nats-auth verifier`, for this program alone.
// [Open] follows the ledger by it, keeps everything that verdicts rest on in memory,
// and has every use of a key recorded. Packages middleware and grpcauth put it in
// front of handlers.
//
// # Verdicts
//
// The answer is a value and its zero value denies. A denial is no error, and
// there are no errors: what cannot be answered is [events.CodeUnavailable] or
// [events.CodeStale], which deny as well.
//
// A permission may be a query of several, "interview:read AND (interview:start OR
// report:*)", which is parsed once and judged by what the key was at one instant;
// [Client.Check] says what is wrong with one that cannot be read.
//
// Every verdict on a key that exists is recorded before it is given. Secrets
// that match no key are no use of anything and are only counted.
//
// # How old a verdict may be
//
// A client knows how long ago it was last shown to hold everything that there was:
// by an event or a signed tick that came through its own connection, and by nothing
// else. Past [MaxStaleness] it answers STALE, so that a revoked key is accepted
// nowhere for longer, whatever is cut off from what. Nobody's clock that is set, no
// older snapshot, no restart and no process that stood still changes that. Three
// options do, and each says what is not promised then: [WhileStale] with [Serve],
// [OfflineStart], and [WhileStale] with [Ask], for which the server's bound holds.
//
// [Question.AtLeast] asks for a verdict that rests on a position: whoever revoked a
// key and was told where, asks here for what must be REVOKED.
//
// # Stability
//
// What this package, middleware and grpcauth export follows semantic versioning with
// the module: within a major version nothing is removed or changes its meaning, and
// no option's default lets more through than before. New codes may come; whatever is
// not VALID denies, so that a program which does not know one is safe. What [Config]
// and [New] take are parts of the server, and change with it: programs use [Open]. The
// packages below it that are not named here are not for programs to rely on, nor is
// the form of what lies in a [SnapshotFolder], which the next version replaces.
package verify
