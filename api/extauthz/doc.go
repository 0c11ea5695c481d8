// Package extauthz lets Envoy, and every gateway that speaks its protocol, ask for
// verdicts: envoy.service.auth.v3.Authorization over gRPC, with the verdicts and the
// denials of /v1/authorize.
//
//	s, err := extauthz.New(extauthz.Config{Verifier: verifier, Positions: positions, Logger: logger})
//	…
//	go s.Serve(listener)
//	…
//	s.Stop(ctx)
//
// The caller's key comes in the headers of the request that is asked about, as
// Authorization: Bearer or X-Api-Key. What it is asked for stands in the context
// extensions of the gateway's configuration, permission and workspace, which no
// client can write to. Without a permission there, the routes of the organization's
// catalog find it by the method and the path. Headers that claim to be the
// gateway's are never believed here, and never reach the upstream: whatever begins
// with X-Keyledger- is what this package set, or is removed.
//
// A denial is always an answer and never an error of the call. A gateway may be told
// to let pass what it gets no answer to (failure_mode_allow), and a key that was
// revoked, or a verifier that is stale, must not become that.
package extauthz
