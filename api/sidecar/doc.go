// Package sidecar serves verdicts over HTTP next to an application: the part of the
// API that needs no server, with the same bodies, on a TCP port or a unix socket, and
// without a management key. Whoever reaches it may ask.
//
//	s, err := sidecar.New(sidecar.Config{Verifier: client, Positions: client.Positions, …})
//	…
//	listener, err := listen.Open("unix:/run/keyledger/sidecar.sock", 0o660)
//	err = s.Serve(listener)
//	…
//	err = s.Shutdown(ctx)
//
// It stands on fasthttp, which answers half as many requests again as net/http, and
// is stricter about what it takes for a request: what another program on the way
// could read in another way is refused, and the connection closed; so it is after a
// body in chunks. It holds one buffer for each connection, and has a bound for
// everything that a client chooses.
package sidecar
