// Package house tells a contributor where a change breaks the layout of this
// codebase: which room may import which, what may not stand in the pure core,
// how packages are named and introduced, and the few habits that are cheap to
// check and expensive to lose.
//
// [Check] parses the source and asks no build tool. A test that ran "go list"
// would be served from the test cache after a change it never opened; the files
// parsed here are opened by the test itself, so that the cache sees every edit.
// Build tags are ignored for the same reason: a file for another system is
// still a file of its room.
//
// What is allowed is data (see rooms.go), so that it can be read as a table.
package house
