// Command byok shows how a worker calls an AI provider with the customer's own key
// where there is one, and with the platform's where there is none: it lists the
// models that the key reaches.
//
// docs/byok.md tells why it does so. What it does stands in package whose, which
// another worker can take over as it is.
package main
