package api_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyledger/keyledger/api"
	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/events"
)

// A server whose own index does not move says of a revocation that it is
// recorded, and not that it is done.
func TestWhatIsRecordedAndNotAppliedIsNoSuccess(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	const path = "/v1/organizations/acme"
	key := as[wire.Created](t, s.Must(201, s.Owner, "POST", path+"/keys", keyBody)).Key
	lags := true
	cfg := s.Config
	cfg.Metrics = prometheus.NewRegistry()
	var err error
	cfg.Commands, err = commands.New(commands.Config{
		Log: s.Ledger, Ledger: s.Positions.Ledger, Configuration: cfg.Configuration, Logger: slog.New(slog.DiscardHandler),
		Holders: func(context.Context, events.OrgID) ([]events.KeyID, error) { return nil, nil },
		Await: func(context.Context, events.Position) error {
			if lags {
				return context.DeadlineExceeded
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	server, err := api.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.Handler = server.Handler()
	recorded := func(a apitest.Answer) {
		t.Helper()
		p := problem(t, a)
		if a.Status != 503 || p.Code != "recorded_not_applied" || !strings.Contains(p.Detail, "recorded at position") || a.Header.Get("Retry-After") == "" {
			t.Errorf("%d %s", a.Status, a.Body)
		}
	}
	said := func(want int, a apitest.Answer) {
		t.Helper()
		if a.Status != want || a.Header.Get("Keyledger-Applied") != "false" {
			t.Errorf("%d %v %s", a.Status, a.Header, a.Body)
		}
	}
	one := path + "/keys/" + key.ID
	said(200, s.Serve(s.Owner, "PATCH", one, []byte(`{"name":"renamed"}`)))
	said(201, s.Serve(s.Owner, "POST", path+"/keys", []byte(keyBody)))
	recorded(s.Serve(s.Owner, "PATCH", one, []byte(`{"status":"INACTIVE"}`)))
	said(201, s.Serve(s.Owner, "POST", one+"/rotate", []byte(`{"grace":"0"}`)))
	recorded(s.Serve(s.Owner, "DELETE", one, nil))
	// It is so already, and was not applied.
	recorded(s.Serve(s.Owner, "DELETE", one, nil))
	recorded(s.Serve(s.Owner, "DELETE", path+"/workspaces/support", nil))
	recorded(s.Serve(s.Owner, "DELETE", path, nil))
	lags = false
	if a := s.Serve(s.Owner, "DELETE", path, nil); a.Status != 200 || a.Header.Get("Keyledger-Applied") != "" {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}
