// Package credentials says who comes in at the broker, and what each may do
// there. It keeps an installation's root of trust in a folder ([Authority]),
// issues credentials for verifiers, subscribers and auditors, and takes them back.
//
// # One account each
//
// The broker checks where a client publishes and subscribes, and never where it
// asks for the answer to: whoever may ask for anything in the account that holds
// the streams can have the answer stored in the ledger, or taken for a request to
// delete it. So nobody lives in that account but an operator, for the time of a
// call. Every credential has an account of its own, and so has the server; each
// reaches LEDGER only by imports of literal subjects that are named after it, and
// an answer comes back into the account that asked. docs/adr/0013 has the attempts.
package credentials
