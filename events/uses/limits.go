package uses

// What bounds a use and a block. Texts come from callers of a verifier, who are
// not always friends: longer ones are cut at these limits and never refused, so
// that no one can keep his use from being recorded.
const (
	// MaxPermission is the longest query of permissions; what is longer was asked
	// for and denied. One name has 127 bytes at most.
	MaxPermission = 512

	// MaxWorkspace is events.MaxIDLength with room to tell what is no id.
	MaxWorkspace = 64

	// MaxRequestID is events.MaxRequestIDLength. Its length must fit one byte.
	MaxRequestID = 128

	// MaxMethod holds every registered HTTP method.
	MaxMethod = 16

	// MaxPath holds a route with a few ids; a query does not belong in it.
	MaxPath = 256

	// MaxClientIP holds an IPv6 address with a zone.
	MaxClientIP = 64

	// MaxUserAgent tells programs apart; what browsers append is noise.
	MaxUserAgent = 128

	// MaxUses bounds the uses in one block: an index fits two bytes, and what a
	// reader allocates for one block stays below 4 MiB.
	MaxUses = 1 << 14

	// MaxColumns bounds the columns of a block before compression, so that 60
	// KiB of Zstandard cannot ask a reader for gigabytes.
	MaxColumns = 1 << 20

	// maxNumber bounds numbers and counts of uses, so that those of a whole
	// block still are a signed integer wherever they are kept.
	maxNumber = 1 << 62
)
