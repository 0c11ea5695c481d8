package apitest

import (
	"net/http"

	"github.com/keyledger/keyledger/api"
	"github.com/keyledger/keyledger/relay/egress"
	"github.com/keyledger/keyledger/relay/providers"
)

// nobody is asked unless a test says whom: there is no answer.
type nobody struct{}

func (nobody) Do(*http.Request) (*http.Response, error) { return nil, egress.ErrUnreachable }

// providers are asked by nobody, and need no models.
func (s *Server) providers() api.ProvidersConfig {
	s.t.Helper()
	client, err := providers.New(providers.Config{Doer: nobody{}})
	must(s.t, err)
	return api.ProvidersConfig{Client: client, Label: s.Keys.Label, LastFour: s.Envelopes.OpenLastFour}
}
