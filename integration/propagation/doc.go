// Package propagation measures how long a revocation takes from its answer until the
// last of many verifiers denies the key, beside what the bare broker takes from the
// acknowledgement of a message until the last of as many consumers has it: in one run,
// in turns.
package propagation
