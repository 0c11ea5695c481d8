// Package scale starts a verifier on a ledger of very many keys, in every way that
// there is: by reading all of it, from its own folder's snapshot, and from the one at
// the broker. It prints how long each takes beside a consumer that only reads, and in
// how much memory, and holds every start to the verdicts that it must give.
package scale
