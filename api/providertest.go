package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/provider"
	"github.com/keyledger/keyledger/domain/providerkey"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
	"github.com/keyledger/keyledger/relay/providers"
)

func (s *Server) testSavedEndpoint() endpoint {
	return endpoint{
		method: "POST", path: providerKeyPath + "/test", id: "test-provider-key", tag: providerTag, summary: "Test a provider key",
		description: "Asks the provider, with one small request, whether it takes the saved key and which of the models that the platform needs it does not reach. " +
			"That it does not work is an answer and no error. The result is recorded and shown with the key. " + testsBounded,
		who:    "Role owner or admin of the whole organization.",
		change: true, answers: wire.ProviderTest{}, status: 200, codes: []string{"rate_limited", "plan_required", "kek_missing"}, handle: s.testSavedKey,
	}
}

func (s *Server) testPastedEndpoint() endpoint {
	return endpoint{
		method: "POST", path: providerKeysPath + "/test", id: "test-pasted-provider-key", tag: providerTag, summary: "Test a provider key before it is saved",
		description: "As with a saved key, for one that was pasted and is kept nowhere. What was lost or caught when it was copied is told without asking anybody: problem says what it is. " + testsBounded,
		who:         "Role owner or admin of the whole organization.", takes: wire.TestProviderKey{}, maxBody: MaxProviderKeyBytes,
		example: wire.TestProviderKey{Provider: "openai", Secret: exampleSecret},
		answers: wire.ProviderTest{}, status: 200, codes: []string{"rate_limited", "plan_required", "provider_unknown", "base_url_required", "base_url_forbidden", "invalid_value"}, handle: s.testPastedKey,
	}
}

const testsBounded = "An organization may ask for some 30 tests at once and one more every two seconds."

// testPastedKey tests a key that is not saved.
func (s *Server) testPastedKey(ctx context.Context, c *call) (reply, error) {
	org, err := c.org()
	if err != nil {
		return reply{}, err
	}
	secret, err := s.takeSecret(c, org)
	if err != nil {
		return reply{}, err
	}
	body, err := read[wire.TestProviderKey](c)
	if err != nil {
		return reply{}, err
	}
	if err := s.cfg.Commands.MayTestProviderKeys(ctx, c.principal, org); err != nil {
		return reply{}, err
	}
	id, err := providerNamed(body.Provider)
	if err != nil {
		return reply{}, err
	}
	if secret.IsZero() {
		return reply{}, domain.Refuse(domain.ErrInvalid, secretMember, "is needed")
	}
	base, err := provider.BaseURL(id, body.BaseURL)
	if err != nil {
		return reply{}, err
	}
	wish := providers.Wish{Provider: id, Secret: secret.Reveal(), BaseURL: base, Force: body.Force}
	var outcome providers.Outcome
	if found := provider.Check(id, wish.Secret); found.OK() || found.Forcible && wish.Force {
		outcome, err = s.askProvider(ctx, c, org, wish, func() error { return s.reachable(ctx, base) })
	} else {
		// What is no key of the provider is not sent, and not counted.
		outcome = s.cfg.Providers.Client.Test(ctx, wish)
	}
	if err != nil {
		return reply{}, err
	}
	s.record(c, access.ProviderKeyTested, org, string(id), string(outcome.Result))
	s.metrics.providerTest(id, outcome.Result)
	return reply{body: tested(outcome, events.TimeOf(time.Now()))}, nil
}

// tested answers a test.
func tested(o providers.Outcome, at events.Time) wire.ProviderTest {
	return wire.ProviderTest{
		Provider: string(o.Provider), Result: string(o.Result), Works: o.Works(), Problem: string(o.Problem), LooksLike: o.LooksLike,
		Reason: string(o.Reason), MissingModels: append([]string{}, o.MissingModels...), Status: o.Status,
		RetryAfter: int((o.RetryAfter + time.Second - 1) / time.Second), Message: o.Message(), TestedAt: at.Std(),
	}
}

// paced takes a place among what an organization may have asked of others, and
// returns what gives it back.
func (s *Server) paced(org events.OrgID) (end func(), err error) {
	end, again := s.tests.begin(org)
	if end != nil {
		return end, nil
	}
	seconds := strconv.Itoa(int((again + time.Second - 1) / time.Second))
	return nil, &refusal{
		Err: errTestsLimited, Detail: "the organization has had as much asked of others as it may; ask again after the seconds of Retry-After",
		Headers: http.Header{"Retry-After": {seconds}},
	}
}

// askProvider asks a provider, as often and as many at a time as is allowed, unless
// what is looked at first refuses it.
func (s *Server) askProvider(ctx context.Context, c *call, org events.OrgID, w providers.Wish, first func() error) (providers.Outcome, error) {
	end, err := s.paced(org)
	if err != nil {
		return providers.Outcome{}, err
	}
	defer end()
	if err := first(); err != nil {
		return providers.Outcome{}, err
	}
	// Who was let in may not be any more, and a provider is told a secret.
	if err := c.still(); err != nil {
		return providers.Outcome{}, err
	}
	return s.cfg.Providers.Client.Test(ctx, w), nil
}

// testSavedKey tests the key that is saved, and records what came of it.
func (s *Server) testSavedKey(ctx context.Context, c *call) (reply, error) {
	org, id, err := c.provider()
	if err != nil {
		return reply{}, err
	}
	w, err := c.wish("")
	if err != nil {
		return reply{}, err
	}
	saved, err := s.cfg.Commands.SecretForTest(ctx, w, org, id)
	if err != nil {
		return reply{}, err
	}
	if len(saved.Recorded) > 0 {
		return s.testedBefore(id, saved)
	}
	// What was saved was checked then, or somebody insisted. Where its address leads
	// today is part of what the test finds.
	wish := providers.Wish{Provider: id, Secret: saved.Secret.Reveal(), BaseURL: saved.BaseURL, Force: true}
	outcome, err := s.askProvider(ctx, c, org, wish, func() error { return nil })
	if err != nil {
		return reply{}, err
	}
	at := events.TimeOf(time.Now())
	out, err := s.cfg.Commands.RecordProviderTest(ctx, w, org, id, providerkey.Test{
		Version: saved.Version, At: at, Result: outcome.Result, MissingModels: outcome.MissingModels, Status: outcome.Status,
	})
	if err != nil || w.DryRun || len(out.Facts) == 0 {
		// No event tells of it, and the provider was shown the secret.
		s.record(c, access.ProviderKeyTested, org, string(id), string(outcome.Result))
	}
	if err != nil {
		return reply{}, err
	}
	if w.DryRun {
		return preview(out.Facts)
	}
	s.metrics.providerTest(id, outcome.Result)
	s.remember(out.Position)
	body := tested(outcome, at)
	body.Version, body.Position = saved.Version, s.position(out.Position)
	return reply{body: body, lags: !out.Applied}, nil
}

// testedBefore answers a repetition with what the first time came to: nobody is asked
// again.
func (s *Server) testedBefore(id events.ProviderID, saved commands.SavedSecret) (reply, error) {
	for _, f := range saved.Recorded {
		if e, ok := f.Event.(events.ProviderKeyTested); ok {
			body := tested(providers.Outcome{Provider: id, Result: e.Result, MissingModels: e.MissingModels, Status: e.Status}, e.At)
			body.Version, body.Position = e.Version, s.position(f.Position)
			return reply{body: body, replayed: true}, nil
		}
	}
	return reply{}, errInternal
}
