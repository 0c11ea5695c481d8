package api

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/keyledger/keyledger/domain/providerkey"
	"github.com/keyledger/keyledger/events"
)

// secretMember is the member of a body that a provider's secret stands in.
const secretMember = "secret"

// takeSecret takes a provider's secret out of the request's body, before anything
// else looks at that: what is left has a label in its place, which tells secrets
// apart to who has the installation's key, and nothing to anybody else. The rest is
// what is hashed into events, decoded, and complained about.
//
// A secret stands in no other place of the request.
func (s *Server) takeSecret(c *call, org events.OrgID) (providerkey.Secret, error) {
	rest, text, err := cutSecret(c.body, func(secret string) (string, error) {
		label, err := s.cfg.Providers.Label("provider secret", string(org), secret)
		return hex.EncodeToString(label[:]), err
	})
	if err != nil {
		return providerkey.Secret{}, err
	}
	clear(c.body)
	c.body = rest
	secret := providerkey.Conceal(text)
	return secret, c.refuseCopies(secret)
}

// cutSecret returns a body with the member named secret replaced, and what stood
// there. A body that cannot be read is refused as any is; one without the member, or
// with something else in it, comes back as it is.
func cutSecret(body []byte, replace func(string) (string, error)) (rest []byte, secret string, err error) {
	fault := func(err error) ([]byte, string, error) {
		if fault := walk(body); fault != nil {
			return nil, "", fault
		}
		return nil, "", errors.Join(errInternal, err)
	}
	dec := jsontext.NewDecoder(bytes.NewReader(body))
	if tok, err := dec.ReadToken(); err != nil || tok.Kind() != '{' {
		return fault(err)
	}
	rest = []byte{'{'}
	for dec.PeekKind() != '}' {
		name, err := dec.ReadValue()
		if err != nil {
			return fault(err)
		}
		if len(rest) > 1 {
			rest = append(rest, ',')
		}
		plain, err := jsontext.AppendUnquote(nil, name)
		if err != nil {
			return fault(err)
		}
		rest = append(append(rest, name...), ':')
		value, err := dec.ReadValue()
		if err != nil {
			return fault(err)
		}
		if string(plain) != secretMember || value.Kind() != '"' {
			rest = append(rest, value...)
			continue
		}
		text, err := jsontext.AppendUnquote(nil, value)
		if err != nil {
			return fault(err)
		}
		if secret = string(text); secret == "" {
			rest = append(rest, value...)
			continue
		}
		label, err := replace(secret)
		if err != nil {
			return nil, "", errors.Join(errInternal, err)
		}
		if rest, err = jsontext.AppendQuote(rest, label); err != nil {
			return fault(err)
		}
	}
	if _, err := dec.ReadToken(); err != nil {
		return fault(err)
	}
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return fault(err)
	}
	return append(rest, '}'), secret, nil
}

// hasMember reports whether an object that was read before has the member.
func hasMember(body []byte, member string) bool {
	dec := jsontext.NewDecoder(bytes.NewReader(body))
	if tok, err := dec.ReadToken(); err != nil || tok.Kind() != '{' {
		return false
	}
	for dec.PeekKind() == '"' {
		name, err := dec.ReadToken()
		if err != nil || name.String() == member {
			return err == nil
		}
		if dec.SkipValue() != nil {
			return false
		}
	}
	return false
}

// refuseCopies finds the secret where else in a request it must not stand: what is
// recorded of it, logged or answered.
func (c *call) refuseCopies(secret providerkey.Secret) error {
	if secret.IsZero() || len(secret.Reveal()) < events.MinProviderSecretLength {
		// What is as short as this stands in many a word, and is no key.
		return nil
	}
	if secret.In(c.requestID) {
		c.requestID = withheld
		t := trackOf(c.w)
		t.requestID = withheld
		c.w.Header().Set("X-Request-Id", withheld)
		return copied("X-Request-Id")
	}
	for _, name := range [...]string{"Idempotency-Key", "Keyledger-Reason", "Keyledger-Ticket", "If-Match", "User-Agent"} {
		if secret.In(c.r.Header.Get(name)) {
			return copied(name)
		}
	}
	for name, values := range c.r.URL.Query() {
		for _, v := range append(values, name) {
			if secret.In(v) {
				return copied("query")
			}
		}
	}
	if secret.In(c.r.URL.Path) {
		return copied("path")
	}
	dec := jsontext.NewDecoder(bytes.NewReader(c.body))
	for {
		tok, err := dec.ReadToken()
		if err != nil {
			// It was read before, and ends.
			return nil
		}
		if tok.Kind() == '"' && secret.In(tok.String()) {
			return copied("body")
		}
	}
}

// withheld stands for a request id that must not be told.
const withheld = "withheld"

func copied(field string) error {
	return refuse(errSecretCopied, field, "holds the provider's secret as well, which belongs in the member secret alone. In a path, a query or a header it may have been logged on its way: then make another key at the provider")
}
