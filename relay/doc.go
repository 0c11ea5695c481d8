// Package relay is the way out for what happens in the ledger: followers with
// effects, each with a position of its own, that carry events to programs which
// do not read the ledger themselves.
//
// It is empty in this version. Events leave through the API (GET /v1/events) and
// through the ledger itself; webhooks and the Watermill adapters belong here.
package relay
