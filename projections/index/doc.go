// Package index answers, from memory and without waiting for anybody, what the
// ledger knows of the key with a given digest: whether it ended, what it may do,
// and where. It is the view that verdicts are made from; package verify makes
// them.
//
// # Reading
//
// [Index.Lookup] takes no lock, allocates nothing and never waits for the
// writer. Everything of a key that a verdict depends on lies in one atomic word
// of its slot, and facts of a key that were appended as one change it once, so
// that no reader ever sees half a change.
//
// # What closes
//
// The index never skips a fact and never stops at one. What it cannot apply
// closes what the fact is about: its key, or for the facts of an organization
// all its keys. It stays closed until the index is built again, by a program
// that understands the fact or from a ledger that is whole; until then it is
// told by [Index.Problems], [Index.Err] and the log. A fact that is not its
// subject's next revision changes nothing: an old one is only reported, one too
// far ahead closes, because what lies between is missing. Only the end of a key
// or an organization holds whatever its revision, and a second one is reported.
//
// # Layout
//
// 256 shards of 64-byte slots, one cache line each, on the heap and free of
// pointers, with open addressing. A shard grows alone, behind an atomic pointer.
// Beside it the writer keeps 8 bytes a key to find slots by key id. All in it is
// about 100 bytes a key; what keys share (permissions, scope, profile) is
// interned and costs by the number of different ones.
package index
