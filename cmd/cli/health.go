package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/api/wire"
)

// Bounds of a question about health: whoever asks, asks again soon.
const (
	healthTimeout   = 5 * time.Second
	maxHealthAnswer = 1 << 20
)

func (a *app) healthCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "health", Short: "Ask whether a server is ready",
		Long: `Ask whether a server can give verdicts and answer reads, and if not, why. No key
is needed, and none is sent.

The exit code is 0 when it is ready, 3 when it says that it is not, and 1 when
there is no answer: what a container's health check asks for, without a shell.`,
		Example: `  keyledger health
  keyledger health --url https://keys.example.com -o json`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := a.findLink()
			if err != nil {
				return err
			}
			a.link.found = l
			h, err := readiness(cmd.Context(), l.url)
			if err != nil {
				return err
			}
			fields := []field{{"ready", yesNo(h.Ready)}}
			for _, name := range slices.Sorted(maps.Keys(h.Checks)) {
				fields = append(fields, field{name, h.Checks[name]})
			}
			if err := a.out.record(h, yesNo(h.Ready), fields); err != nil {
				return err
			}
			if !h.Ready {
				return errNo
			}
			return nil
		},
	}
	a.linked(c)
	return c
}

func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}

// readiness asks once: a check that waits and tries again would hide what it is
// there to show.
func readiness(ctx context.Context, url string) (wire.Health, error) {
	var h wire.Health
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
	if err != nil {
		return h, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return h, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxHealthAnswer))
	if err != nil {
		return h, err
	}
	says := http.StatusServiceUnavailable
	err = json.Unmarshal(body, &h)
	if h.Ready {
		says = http.StatusOK
	}
	// Whatever else answers there is no server of this kind, healthy as it may be.
	if err != nil || res.StatusCode != says {
		return h, fmt.Errorf("%s answered %s, and not as a server of this kind does", url, res.Status)
	}
	return h, nil
}
