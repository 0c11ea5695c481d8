package serve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/keyledger/keyledger/api"
	"github.com/keyledger/keyledger/domain/provider"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/relay/egress"
	"github.com/keyledger/keyledger/relay/providers"
)

// Providers says how AI providers are asked about the keys that customers bring. Its
// zero value asks each at its own address, needs no models, and lets customers name
// public addresses alone.
type Providers struct {
	// Models are those that the platform needs, of a provider each: openai=gpt-4o,o3.
	Models []string
	// Endpoints are where providers are asked instead of at their own addresses, such
	// as a proxy: openai=https://llm.example.com.
	Endpoints []string
	// Allow are names, addresses and networks that customers may name though they are
	// not public, each perhaps with a port.
	Allow []string
	// CA is a file of certificates, PEM, that are trusted beside the system's.
	CA string
}

func (p Providers) validate() []error {
	var faults []error
	if _, err := p.models(); err != nil {
		faults = append(faults, err)
	}
	if _, err := p.endpoints(); err != nil {
		faults = append(faults, err)
	}
	if err := (egress.Config{Allow: p.Allow}).Validate(); err != nil {
		faults = append(faults, fmt.Errorf("serve: --provider-allow: %w", err))
	}
	return faults
}

// models reads which models are needed of which provider.
func (p Providers) models() (map[events.ProviderID][]string, error) {
	out := map[events.ProviderID][]string{}
	for id, list := range assignments(p.Models) {
		provider, err := events.ParseProviderID(id)
		if err != nil {
			return nil, unknownProvider("--provider-models")
		}
		for model := range strings.SplitSeq(list, ",") {
			if model = strings.TrimSpace(model); model == "" || len(model) > events.MaxModelLength || strings.ContainsFunc(model, notGraphic) {
				return nil, fmt.Errorf("serve: --provider-models must be <provider>=<model>,<model>, such as openai=gpt-4o,gpt-4o-mini; a model's name has at most %d visible characters", events.MaxModelLength)
			}
			if !slices.Contains(out[provider], model) {
				out[provider] = append(out[provider], model)
			}
		}
		if len(out[provider]) > events.MaxModels {
			return nil, fmt.Errorf("serve: --provider-models names %d models of %s, at most %d are allowed", len(out[provider]), provider, events.MaxModels)
		}
	}
	return out, nil
}

func notGraphic(r rune) bool { return r <= ' ' || r > '~' }

// endpoints reads where which provider is asked.
func (p Providers) endpoints() (map[events.ProviderID]string, error) {
	out := map[events.ProviderID]string{}
	for id, text := range assignments(p.Endpoints) {
		name, err := events.ParseProviderID(id)
		if err != nil {
			return nil, unknownProvider("--provider-endpoint")
		}
		if info, _ := provider.Of(name); info.NeedsBaseURL {
			return nil, fmt.Errorf("serve: --provider-endpoint: the address of %s is given with each key", name)
		}
		if u, err := url.Parse(text); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return nil, errors.New("serve: --provider-endpoint must be <provider>=https://host[:port][/path], such as openai=https://llm.example.com")
		}
		if out[name] != "" {
			return nil, fmt.Errorf("serve: --provider-endpoint says where %s is twice", name)
		}
		out[name] = strings.TrimRight(text, "/")
	}
	return out, nil
}

func unknownProvider(flag string) error {
	var names []string
	for _, p := range events.Providers() {
		names = append(names, string(p))
	}
	return fmt.Errorf("serve: %s names no provider before its =; there are %s", flag, strings.Join(names, ", "))
}

// assignments are name=value. One text may hold several with spaces between them, as
// the environment has it.
func assignments(list []string) func(func(string, string) bool) {
	return func(yield func(string, string) bool) {
		for _, text := range list {
			for one := range strings.FieldsSeq(text) {
				name, value, _ := strings.Cut(one, "=")
				if !yield(name, value) {
					return
				}
			}
		}
	}
}

// openProviders makes what the API asks providers with.
func (p *parts) openProviders(cfg Config) (api.ProvidersConfig, error) {
	out := api.ProvidersConfig{Label: p.ledger.keys.Label}
	var err error
	if out.Models, err = cfg.Providers.models(); err != nil {
		return out, err
	}
	endpoints, err := cfg.Providers.endpoints()
	if err != nil {
		return out, err
	}
	var ca []byte
	if cfg.Providers.CA != "" {
		if ca, err = os.ReadFile(cfg.Providers.CA); err != nil {
			return out, fmt.Errorf("serve: --provider-ca: %w", err)
		}
	}
	door, err := egress.New(egress.Config{Allow: cfg.Providers.Allow, CA: ca, MaxBody: providers.MaxBody})
	if err != nil {
		return out, fmt.Errorf("serve: --provider-ca, --provider-allow: %w", err)
	}
	// Customers name no address that is the operator's alone.
	own, err := egress.New(egress.Config{Allow: slices.Concat(cfg.Providers.Allow, hosts(endpoints)), CA: ca, MaxBody: providers.MaxBody})
	if err != nil {
		return out, fmt.Errorf("serve: --provider-endpoint: %w", err)
	}
	if out.Client, err = providers.New(providers.Config{Doer: door, Own: own, Endpoints: endpoints, Models: out.Models}); err != nil {
		return out, err
	}
	out.Reach = func(ctx context.Context, baseURL string) error { return door.Check(ctx, baseURL) }
	if p.ledger.envelopes != nil {
		out.LastFour = p.ledger.envelopes.OpenLastFour
	}
	return out, nil
}

// hosts are where addresses lie, with their ports.
func hosts(endpoints map[events.ProviderID]string) []string {
	var out []string
	for _, text := range endpoints {
		// It was read when the flags were.
		if u, err := url.Parse(text); err == nil {
			out = append(out, net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "443")))
		}
	}
	return out
}
