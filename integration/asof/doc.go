// Package asof holds answers about the past against a second implementation: a
// naive fold over the stored bodies, written from the documents alone, which
// shares no code with what it judges. Histories are random; at every position and
// at several times both must tell the same state, the same verdict, and the same
// event that made it so.
package asof
