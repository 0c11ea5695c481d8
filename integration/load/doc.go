// Package load fills a ledger through its front door, as large as a busy year makes
// it, and asks it what auditors ask: with the real program, over HTTP, on disk.
// It prints how long the answers take, whether the views keep up with what is
// appended and recorded, how fast they are rebuilt, and in how much memory.
package load
