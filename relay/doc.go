// Package relay is the way out for what happens in the ledger: followers with
// effects, each with a position of its own, that carry events to programs which
// do not read the ledger themselves.
//
// relay/ticks tells everybody who reads the ledger, by a fact of its own, that
// nothing happened: who hears it is not cut off.
//
// relay/expiry records that keys have ended, and gives notice ahead of it.
//
// relay/signals records that a key was used from somewhere new, or denied again and
// again; relay/providersignals that a provider key was resolved in a burst, or in vain
// again and again.
//
// relay/access gathers who looked and who was refused, and stores it by the minute,
// and records one by one what must be recorded before it is done.
//
// relay/erasure destroys the keys of data subjects that were erased.
//
// relay/datakeys destroys the data keys of provider keys that are dead, and wraps the
// others with the key-encryption key of today.
//
// relay/egress sends requests to addresses that customers give, and to none that
// they should not reach.
//
// relay/providers asks AI providers whether customers' keys work.
//
// relay/retention drops recorded uses that are older than they are to be kept.
//
// relay/watermill lets programs that are built on Watermill follow the ledger,
// and use topics of their own beside it. Events also leave through the API
// (GET /v1/events) and through the ledger itself.
package relay
