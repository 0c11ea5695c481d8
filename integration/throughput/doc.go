// Package throughput measures what a ledger takes in: creates and revocations by
// one caller and by many, on one embedded broker and on three processes of
// nats-server, each beside plain publishes of the same bytes by as many callers, on
// the same broker, with the same durability, in turns.
package throughput
