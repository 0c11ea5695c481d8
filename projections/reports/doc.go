// Package reports answers what an access review asks, out of the views: which keys
// there are and what they may do, which lie unused, never end, are old, or may more
// than they ever do; what was changed, by whom, and which verifications failed.
//
// A report is a list of rows under named columns, and stands at a position of each
// view it is made of: asked again of views at those positions, it is the same. It
// is read part by part in one snapshot, so that its length costs time and no
// memory. Nothing here is kept, and nothing here decides.
package reports
