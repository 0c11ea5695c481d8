// Package projections keeps views of the ledger up to date: a [View] says what
// a fact means to it, a [Runner] feeds it every fact once, in order, and tells
// how far it is.
//
// A view is derived and nothing more. It can be deleted and replayed, it never
// decides anything, and it has no effects but on its own store. What it cannot
// apply stops it, in sight of everybody ([Runner.Status]); it never skips a
// fact, and it never takes its neighbours down.
//
// The views themselves stand below this package: the catalog that people
// browse, the audit log, the verification index, and usage.
package projections
