package extauthz

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/tap"
)

// Every question has an end, which is the gateway's own if that is sooner.
func TestQuestionsEnd(t *testing.T) {
	parent, end := context.WithCancel(t.Context())
	ctx, err := bounded(parent, &tap.Info{FullMethodName: "/" + Service + "/Check"})
	if at, ok := ctx.Deadline(); err != nil || !ok || time.Until(at) > callTimeout {
		t.Errorf("without a deadline: %v, %v", at, err)
	}
	end()
	if ctx.Err() == nil {
		t.Error("it outlives the call")
	}
	soon, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if ctx, _ := bounded(soon, &tap.Info{FullMethodName: "/" + Service + "/Check"}); ctx != soon {
		t.Error("a deadline of its own is not good enough")
	}
	late, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	if ctx, _ := bounded(late, &tap.Info{FullMethodName: "/" + Service + "/Check"}); ctx == late {
		t.Error("an hour is left to it")
	}
	if ctx, _ := bounded(t.Context(), &tap.Info{FullMethodName: "/grpc.health.v1.Health/Watch"}); ctx != t.Context() {
		t.Error("who watches has an end")
	}
}

// A secret does not stay in what is used again.
func TestCallsForget(t *testing.T) {
	c := &call{answers: &answers{}}
	c.asked.authorization.name("Bearer secret")
	c.asked.claimed = append(c.asked.claimed, "x-keyledger-secret")
	claimed := c.asked.claimed
	c.question.Secret = "secret"
	c.done()
	if c.asked.authorization.value() != "" || claimed[0] != "" || c.question.Secret != "" || c.asked.secret() != "" {
		t.Errorf("%+v", c.asked)
	}
}
