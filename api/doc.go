// Package api serves the ledger over HTTP: management, verification, the stream
// of events, and the document that describes them.
//
//	server, err := api.New(api.Config{Commands: service, Catalog: catalog, Verifier: verifier, …})
//	…
//	http.Server{Handler: server.Handler(), ReadHeaderTimeout: api.ReadHeaderTimeout, …}
//
// There are no rules here. A change becomes a wish of package commands, which
// knows who may; a read asks a view, within what [commands.Principal] may see.
// What this package does know is HTTP: it reads bodies strictly, refuses a key
// that was pasted anywhere but where a key belongs, and turns every error into a
// problem document by the one table in problem.go.
//
// # One description
//
// Every route is one [endpoint]: a value that says its method and path, what it
// takes and answers, what can go wrong, and what it does. The handler and the
// OpenAPI document are both made from it, so that neither says what the other
// does not. Schemas are huma's, made from the types of api/wire. Request bodies
// are read by our own decoder and not by huma's, whose errors repeat what was
// sent.
//
// # Secrets
//
// A key's secret leaves once, in the answer to create or rotate. A provider's secret
// is taken out of a request's body before anything else looks at that (see
// [Server.takeSecret]), and leaves in the answer to resolve alone, after that was
// recorded. Nothing else that is answered, logged or counted repeats what a client
// sent, but for ids and names that passed their grammar, and every outgoing problem
// text is redacted too.
package api
