// Package histories shows whether what the clients of a ledger did and saw could
// have been: it records their operations with the instants between which each
// took place, and has porcupine look for an order of them that the model of a key,
// of a limit, of a rotation, of an organization's end or of a provider key allows.
//
// What is recorded is what a client knows. An operation without an answer may
// have taken place at any time after its beginning, or never; one that was told
// that nothing happened is left out, so that an effect which it had after all
// shows as a state that nobody brought about.
//
// # Two orders
//
// A question that names the position of the last answered change must be told of
// it, on every server: with such questions the history of each server is
// linearizable. A plain question must be told of what the same server has
// answered; of what others have answered it may be told later, but it never goes
// back. For that history the changes of other servers are operations without an
// end: see [Log.Strong] and [Log.Plain].
//
// What a provider key resolves to is asked of the ledger, and not of an index: the
// questions of all servers together are linearizable.
//
// It is one server's questions that are ordered, not those of two together: a
// change that nobody has answered yet may be seen on one server and, a moment
// later, not yet on the other.
package histories
