// Package cutoff holds the tests of verifiers that are cut off from the ledger: by a
// wire that carries nothing any more, by standing still, by nodes that die. They run
// the real program on three nodes of nats-server, each sidecar behind a wire of its
// own, in a network namespace.
package cutoff
