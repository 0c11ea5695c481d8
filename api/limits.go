package api

import (
	"time"

	"github.com/keyledger/keyledger/api/gate"
)

// What bounds a request, each with its reason.
const (
	// MaxBodyBytes bounds a management body. The largest there is, a permission
	// catalog, has to fit a fact of 60 KiB; the rest is white space and escapes.
	MaxBodyBytes = 1 << 20

	// MaxImportBytes bounds an import: 1,000 keys with what keys mostly have, which
	// is a few hundred bytes, and room for some that have a lot.
	MaxImportBytes = 8 << 20

	// MaxProviderKeyBytes bounds a body with a provider's secret: 4 KiB, of which
	// each byte may be an escape of six, and what comes with it.
	MaxProviderKeyBytes = 64 << 10

	// Those of verdicts are those of every door.
	MaxVerifyBytes      = gate.MaxVerifyBytes
	MaxVerifyBatch      = gate.MaxVerifyBatch
	MaxVerifyBatchBytes = gate.MaxVerifyBatchBytes

	// MaxDepth bounds how deep a body nests. A profile's settings are the only
	// document of the caller's own shape.
	MaxDepth = 64

	// MaxRequestID bounds X-Request-Id.
	MaxRequestID = gate.MaxRequestID

	// MaxQueryBytes bounds a query: a cursor, a searched text, and a few ids.
	MaxQueryBytes = 4 << 10

	// MaxMetadataFilters bounds the members of metadata that a list is asked by:
	// each is looked up for every key that has the first.
	MaxMetadataFilters = 5

	// DefaultPage and MaxPage bound a list, as the API promises.
	DefaultPage = 50
	MaxPage     = 200
)

// What to configure an [http.Server] with in front of [Server.Handler].
const (
	// MaxHeaderBytes holds a bearer key and a gateway's forwarded headers.
	MaxHeaderBytes = 32 << 10

	// ReadHeaderTimeout ends connections that dribble headers.
	ReadHeaderTimeout = 10 * time.Second

	// ReadTimeout is time for the largest body over a slow line.
	ReadTimeout = 30 * time.Second

	// WriteTimeout is longer than any command takes to be answered. The stream
	// of events lifts it for itself.
	WriteTimeout = 60 * time.Second

	// IdleTimeout outlives the idle timeout of common proxies (60 s), so that
	// it is they who close and no request meets a closing connection.
	IdleTimeout = 120 * time.Second
)

const (
	// commandTimeout bounds a change: a new leader of the stream is there in
	// seconds, and who waits longer is better told to ask again.
	commandTimeout = 15 * time.Second

	// flowTimeout bounds an answer that is sent while it is made: a report over a
	// million keys takes half a minute to make, and a slow line longer to carry.
	flowTimeout = 15 * time.Minute

	// readWait bounds how long a read waits for the writes that this server
	// answered before it. A view that is further behind is read as it is.
	readWait = 2 * time.Second

	// defaultHeartbeat keeps proxies from closing a quiet stream of events; most
	// wait 30 s or 60 s.
	defaultHeartbeat = 15 * time.Second

	// defaultPatience is longer than the pauses of a reader that is alive, and
	// short of keeping a place among the streams for one that is not.
	defaultPatience = 30 * time.Second

	// aheadWait bounds how long a stream waits for the position that it is to
	// begin after: longer than the broker takes to elect a leader, so that what
	// an old one says of the ledger's end is not taken for the truth.
	aheadWait = 5 * time.Second

	// streamPage is how many events are read of the view at a time.
	streamPage = 200

	// maxStreams bounds the streams of events: each holds a connection and is
	// written to when something happens. Who serves more readers subscribes to
	// the broker.
	maxStreams = 256

	// maxStreamsOfKey keeps one key from taking all of those: enough for every
	// process of a service that shares a key.
	maxStreamsOfKey = 16

	// maxWaiting is how many events wait in memory for a stream that is slower
	// than they come. They are shared with all other streams.
	maxWaiting = 256

	// maxWaitingBytes bounds them, too: 256 of the largest events would be 15
	// MiB for each reader that does not read.
	maxWaitingBytes = 1 << 20

	// maxPasts bounds how many lists of who could do something are made at once:
	// each takes a processor for as long as a second.
	maxPasts = 2

	// keysAtOnce is how many keys go through the past together. The configuration
	// goes along each time.
	keysAtOnce = 500

	// maxLooked bounds how many keys one page looks through, so that it is there in
	// a second or so whatever it finds.
	maxLooked = 5000

	// maxReceiptWait bounds how long a receipt is waited for: as long as proxies keep
	// a quiet request, and a verifier's default bound.
	maxReceiptWait = 30 * time.Second

	// maxWaitsOfOrg is how many receipts are waited for by the keys of one
	// organization: enough for a script that revokes many keys at once.
	maxWaitsOfOrg = 32

	// usesPatience is how long a receipt that is complete waits for its uses. A
	// verifier tells half a second after a revocation that they are stored.
	usesPatience = 2 * time.Second

	// leaseCheck is how often it is looked for leases that have run out, and
	// announcedTogether how long announcements are gathered that come at once.
	leaseCheck        = 250 * time.Millisecond
	announcedTogether = 2 * time.Millisecond

	// reachWait bounds how long it is looked where an address leads before it is
	// saved: whoever is slower to tell is asked again before anything is sent there.
	reachWait = 3 * time.Second

	// testsBurst is how many tests of provider keys an organization may ask for at
	// once, or looks at addresses, and testsEvery after how long for one more: enough for whoever mends a
	// key by trying, and too few for who wants to learn which of many keys are good.
	testsBurst = 30
	testsEvery = 2 * time.Second

	// testsAtOnce is how many of an organization are under way, and maxTests of all:
	// each waits for a provider, and for one that is slow up to ten seconds.
	testsAtOnce = 4
	maxTests    = 64

	// detachRounds bounds how often the keys of a profile are looked up again
	// while they are detached: keys that get it meanwhile are not chased for ever.
	detachRounds = 10

	// namedUsers is how many keys a refusal names before it gets unreadable.
	namedUsers = 10
)
