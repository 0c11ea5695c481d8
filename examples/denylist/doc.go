// Command denylist shows how a service keeps its own list of revoked keys. It
// follows the ledger's revocations with a subscriber's credential, through
// Watermill's router and event processor, and answers over HTTP whether a key is
// on the list.
//
// docs/subscribing.md shows how to run it. What it does stands in package deny,
// which another service can take over as it is.
package main
