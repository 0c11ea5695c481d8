package sidecar

import "time"

// What bounds a connection, each with its reason.
const (
	// maxHeaderBytes holds a bearer key and a gateway's forwarded headers, as on the
	// server. Each connection has a buffer of this size, of which the system only
	// gives what is used.
	maxHeaderBytes = 32 << 10

	// writeBuffer takes the answer to all but keys with large profiles in one piece.
	writeBuffer = 4 << 10

	// answerBytes is the first size of the buffer of an answer.
	answerBytes = 2 << 10

	// readTimeout is time for the largest request over a slow line, headers and body,
	// and ends connections that dribble.
	readTimeout = 10 * time.Second

	// writeTimeout ends connections that do not take their answer.
	writeTimeout = 10 * time.Second

	// idleTimeout outlives the idle timeout of common proxies (60 s), so that it is
	// they who close and no request meets a closing connection.
	idleTimeout = 120 * time.Second

	// DefaultMaxConnections is how many connections one listener serves at a time:
	// more than the workers of the applications and gateways of a machine, at some
	// 40 KiB each.
	DefaultMaxConnections = 4096
)
