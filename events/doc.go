// Package events is the vocabulary of the ledger: the closed set of facts that
// may happen to an installation, its organizations and their keys, the envelope
// they are recorded in, the subjects they are appended under, and the positions
// that order them.
//
// A fact, once recorded, is for ever. Three rules follow, and the golden files
// in testdata hold us to them:
//
//   - A kind never changes its meaning or its members. What must change becomes
//     a new kind with the next version and an upcaster (see codec.go).
//   - A fact carries outcomes (ExpiresAt), never inputs (a time to live), so
//     that replaying it needs no clock and no configuration.
//   - Order is [Position], the stream's sequence. Time is decoration.
//
// The stored body of a fact is one CloudEvents 1.0 JSON document. No meaning
// lives in broker headers, and whatever is hashed is the stored body, byte for
// byte, never a re-encoding of it.
//
// Below this package stand the ledger on JetStream (events/jetstream), the
// ledger in memory (events/memory), and the suite that both pass
// (events/ledgertest).
package events
