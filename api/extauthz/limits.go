package extauthz

import "time"

// What bounds a call, each with its reason.
const (
	// MaxMessageBytes bounds a question. Envoy takes 60 KiB of headers unless told
	// otherwise, and sends them once; a certificate and labels take a few more. The
	// bodies of requests have no business here.
	MaxMessageBytes = 128 << 10

	// MaxConnections bounds the gateways: Envoy opens one connection for each of its
	// worker threads, so that these are some hundred Envoys. Further ones wait.
	MaxConnections = 4096

	// MaxStreams bounds the questions that one connection asks at a time. At some
	// 10 µs each there are never more, unless somebody holds them open; Envoy opens
	// another connection then.
	MaxStreams = 250

	// MaxHeaderBytes bounds what stands around a question; gateways say little there.
	MaxHeaderBytes = 16 << 10

	// callTimeout ends a question that does not come to its end, and that has no
	// deadline of its own. Envoy gives its own 200 ms.
	callTimeout = 10 * time.Second

	// connectTimeout ends connections that dribble their beginning.
	connectTimeout = 10 * time.Second

	// idleTimeout makes room for others. Gateways connect again when they need to.
	idleTimeout = 5 * time.Minute

	// pingAfter and pingTimeout find connections whose other end has gone.
	pingAfter, pingTimeout = time.Minute, 20 * time.Second

	// pingsEvery is how often a gateway may ask whether this end is there.
	pingsEvery = 5 * time.Second

	// watchEvery is how often it is looked up for those who watch whether verdicts
	// can be given.
	watchEvery = time.Second

	// maxGrants bounds what is answered of a key's grants: gateways take a few KiB
	// of headers in all.
	maxGrants = 2 << 10

	// answerBytes is room for an answer, which has some 700 bytes, and answerMost the
	// largest that is kept for the next one.
	answerBytes, answerMost = 2 << 10, 16 << 10
)
