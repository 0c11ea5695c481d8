// Package integration shows what keyledger promises with real parts: the built
// binary, a real NATS server alone and as a cluster of three, crashes,
// partitions, gateways and a browser. Its tests fail, and never skip, when
// something they need is missing.
package integration
