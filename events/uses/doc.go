// Package uses is the vocabulary of recorded uses: what one use of a key is,
// how many of them are packed into a block that costs a few bytes a use, and
// how a reader proves that no block is missing.
//
// A verifier numbers the uses of every organization 1, 2, 3, … from its start
// (its boot) on, and publishes them in blocks that say which numbers they
// hold. It begins a boot with a mark and ends it with marks that say how far
// the numbers went. A lost use is therefore never silent: it leaves a hole in
// the numbers, or a boot without an end, and [Continuity] finds both.
//
//   - [Encoder] packs uses and marks into blocks, each one message.
//   - [Decoder] reads them; [ReadHeader] reads who and which numbers alone.
//   - [Continuity] is fed with the headers in stream order and reports findings.
//
// # The bytes of a block
//
// A block is one message of at most [events.MaxFactBytes] on the subject
// [events.UsesSubject] of its organization and verifier. Its header repeats
// both, so that a block which was moved elsewhere is noticed. Numbers written
// uvarint are unsigned LEB128 in their shortest form; other integers are
// big-endian; counts are at most 2^62; times are microseconds since 1970 in UTC.
//
//	4         "KLU" and the format's version, 1
//	1         kind: 1 uses, 2 boot mark, 3 end mark
//	16        ledger, a UUID
//	16        boot, a UUIDv7
//	1 + n     length and text of the organization's id
//	1 + n     length and text of the verifier's id
//	uvarint   from: the time of the first use, or of the mark
//	uvarint   to - from: 0 for marks
//	…         what the kind holds, below
//	4         CRC-32C (Castagnoli) of all bytes before
//
// A boot mark stands in organization _system alone and holds
//
//	uvarint   bound: how many uses may at most be missing at the end of this
//	          boot when no end mark comes, over all organizations
//
// An end mark stands in every organization whose uses the boot recorded, and
// last of all in _system. It holds
//
//	uvarint   last: the last number in this organization, 0 for none
//	uvarint   in _system the uses of this boot in all organizations, else 0
//	uvarint   in _system the number of organizations with uses, else 0
//
// A block of uses holds
//
//	uvarint   first: the number of its first use, from 1
//	uvarint   count: how many uses, 1 to 16,384, in the order of their times
//	uvarint   the length of the columns, at most 1 MiB
//	…         the columns, in one or more Zstandard frames (RFC 8878), one
//	          after another up to the CRC
//
// The columns are, one after another:
//
//	uvarint   k, how many distinct keys; 16 bytes each, in the order in which
//	          they are first met
//	6 times   a dictionary, of permissions, workspaces, methods, paths, client
//	          IPs, user agents: uvarint d, how many distinct texts that are not
//	          empty, in the order in which they are first met; for each uvarint
//	          length and text, in UTF-8
//	times     for every use, uvarint: microseconds since the use before, 0 for
//	          the first
//	keys      for every use the index of its key, from 0: the low bytes of all
//	          uses and then, if k > 256, the high bytes of all uses
//	codes     for every use one byte, the number of its [events.Code]
//	6 times   if d > 0, for every use the index of its text, 0 for an empty one
//	          and else from 1: all low bytes, then, if d > 255, all high bytes
//	ids       uvarint t, the length of all request ids together; if t > 0, for
//	          every use one byte, the length of its request id, and then their
//	          texts one after another, in UTF-8
//
// A path, client IP, user agent or request id may stand sealed instead of in
// clear: it then begins with "sealed:", and is longer ([MaxSealed],
// [MaxSealedRequestID]). No text in clear begins so.
//
// Nothing may follow. A reader refuses every deviation: there is one way to
// write columns, so that nothing can hide in them. It takes codes it does not
// know: later verifiers may have more.
package uses
