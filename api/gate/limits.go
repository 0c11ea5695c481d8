package gate

import (
	"time"

	"github.com/keyledger/keyledger/verify"
)

// What bounds a request for verdicts, each with its reason.
const (
	// MaxVerifyBytes bounds the body of /v1/verify: a key, a few names and the
	// context of the request, each bounded by itself.
	MaxVerifyBytes = 16 << 10

	// MaxVerifyBatch bounds the requests of /v1/verify/batch: at some 10 µs each
	// with their reading and writing, one batch keeps nobody waiting.
	MaxVerifyBatch = 100

	// MaxVerifyBatchBytes bounds its body: 100 requests with the longest query and
	// context, and keys that are far longer than ours, at 2.5 KiB each.
	MaxVerifyBatchBytes = 256 << 10

	// MaxFormBytes bounds the form of /oauth2: a token, which is percent-encoded,
	// and what clients add about themselves.
	MaxFormBytes = 32 << 10

	// MaxRequestID bounds X-Request-Id; it stands in facts and log lines.
	MaxRequestID = 128

	// RetryAfter is what clients are told to wait when nothing was done: about
	// as many seconds as the broker takes to elect a leader.
	RetryAfter = "2"
)

const (
	// batchWait bounds how long the verdicts of one batch wait for positions, all
	// together: as long as one does.
	batchWait = verify.DefaultMaxWait

	// maxStaleness stands for a staleness that is not known, a year.
	maxStaleness = 365 * 24 * time.Hour

	// maxPermissionsHeader bounds what is answered of a key's grants: gateways take
	// 4 KiB of headers in all.
	maxPermissionsHeader = 2 << 10
)
