// Package continuity shows that nothing was kept from a reader of the ledger, and
// how fresh that makes him. It counts and hashes the facts that it is fed, and
// compares with what ticks say there were.
//
// # A reader of the whole ledger
//
// Positions have no gap there, so a fact that arrives is proof in itself: it went
// through the quorum, and all before it is there. A tick adds that the facts are
// the same ones.
//
// # A reader that is narrowed to organizations
//
// What arrives there proves nothing about what does not. Only a tick whose count
// and digest of the reader's scope agree with the reader's own makes him fresh.
//
// # A tick that does not agree
//
// One that is not signed by the installation, or stands where it does not belong,
// is refused: it makes nothing fresh and changes nothing else. One that is signed
// and tells of another history takes freshness away until a tick agrees again:
// somebody's facts are not what the ledger holds. Both are logged, counted and
// told by [View.Err].
//
// The same view is what ticks are made of: see [View.Next].
package continuity
