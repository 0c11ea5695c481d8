// Package gate reads what a verification is asked and writes what it is answered,
// whatever carries the bytes: the server's net/http, a sidecar's listener and a
// gateway's gRPC give the same verdicts in the same words.
//
//	g, err := gate.New(gate.Config{Verifier: verifier, Positions: positions, …})
//	…
//	err := g.ReadOne(b)                // b.In is the body of a request
//	g.AnswerOne(ctx, b)                // b.Out is that of its answer
//
// A door's part is what is its own: who may ask, how long a request may be, and
// what it takes its texts from. Those texts may lie in a buffer that is used
// again as soon as the answer is written; nothing here keeps one.
//
// What goes wrong is an error of this package's or of the rooms below, and
// [Problems] is the table that makes a problem document of it. A denial is no
// error. Nothing that is answered repeats what a client sent, but for ids and names
// that passed their grammar.
package gate
