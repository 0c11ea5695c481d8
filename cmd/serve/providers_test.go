package serve

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/events"
)

func TestProvidersAreReadFromFlags(t *testing.T) {
	p := Providers{
		// Two in one text is how the environment says it.
		Models:    []string{"openai=gpt-4o,gpt-4o-mini anthropic=claude-sonnet", "openai=gpt-4o,o3"},
		Endpoints: []string{"openai=https://llm.example.com/v1/", "mistral=https://eu.example.com"},
		Allow:     []string{"llm.internal:8443", "10.1.0.0/16"},
	}
	if err := errors.Join(p.validate()...); err != nil {
		t.Fatal(err)
	}
	models, err := p.models()
	if got := fmt.Sprint(models[events.ProviderOpenAI], models[events.ProviderAnthropic], len(models), err); got != "[gpt-4o gpt-4o-mini o3] [claude-sonnet] 2 <nil>" {
		t.Error(got)
	}
	endpoints, err := p.endpoints()
	if got := fmt.Sprint(endpoints[events.ProviderOpenAI], " ", endpoints[events.ProviderMistral], " ", len(endpoints), err); got != "https://llm.example.com/v1 https://eu.example.com 2 <nil>" {
		t.Error(got)
	}
	if err := errors.Join(Providers{}.validate()...); err != nil {
		t.Error(err)
	}
}

func TestFaultsOfProviderFlags(t *testing.T) {
	var many []string
	for n := range events.MaxModels + 1 {
		many = append(many, fmt.Sprint("m", n))
	}
	for flag, faulty := range map[string][]Providers{
		"--provider-models": {
			{Models: []string{"gpt-4o"}},
			{Models: []string{"opnai=gpt-4o"}},
			{Models: []string{"openai="}},
			{Models: []string{"openai=gpt-4o,,o3"}},
			{Models: []string{"openai=" + strings.Repeat("m", events.MaxModelLength+1)}},
			{Models: []string{"openai=" + strings.Join(many, ",")}},
		},
		"--provider-endpoint": {
			{Endpoints: []string{"https://llm.example.com"}},
			{Endpoints: []string{"openai=http://llm.example.com"}},
			{Endpoints: []string{"openai=https://user:word@llm.example.com"}},
			{Endpoints: []string{"openai=https://llm.example.com?key=word"}},
			{Endpoints: []string{"azure-openai=https://llm.example.com"}},
			{Endpoints: []string{"openai=https://a.example.com", "openai=https://b.example.com"}},
		},
		"--provider-allow": {{Allow: []string{"10.0.0.0/99"}}},
	} {
		for _, p := range faulty {
			if err := errors.Join(p.validate()...); err == nil || !strings.Contains(err.Error(), flag) || strings.Contains(err.Error(), "word") {
				t.Errorf("%+v: %v", p, err)
			}
		}
	}
}
