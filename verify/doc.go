// Package verify decides whether a key may do something, here and now, in well
// under a microsecond and without asking anybody: the Go SDK for verifiers.
//
//	v, err := verify.New(verify.Config{Index: idx, Recorder: rec, Fresh: runner.Fresh, WaitFor: runner.WaitFor})
//	…
//	d := v.Verify(ctx, &verify.Question{Secret: secret, Permission: "interview:start", Workspace: "hiring"})
//	if !d.Valid() {
//		return d.Code
//	}
//
// The answer is a value and its zero value denies. A denial is no error, and
// there are no errors: what cannot be answered is [events.CodeUnavailable] or
// [events.CodeStale], which deny as well.
//
// A permission may be a query of several, "interview:read AND (interview:start OR
// report:*)", which is parsed once and judged by what the key was at one instant;
// [Verifier.Check] says what is wrong with one that cannot be read.
//
// Every verdict on a key that exists is recorded before it is given. Secrets
// that match no key are no use of anything and are only counted.
package verify
