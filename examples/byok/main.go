package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/api/client"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/examples/byok/whose"
	"github.com/keyledger/keyledger/relay/egress"
)

// maxAnswer bounds what is read of the provider's answer.
const maxAnswer = 4 << 20

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "byok:", err)
		os.Exit(1)
	}
}

// run lists the models that an organization's key of OpenAI reaches.
func run(ctx context.Context, args []string, lookup func(string) (string, bool), stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("byok", flag.ContinueOnError)
	flags.SetOutput(stderr)
	url := flags.String("url", "http://127.0.0.1:8080", "the keyledger server")
	keyFile := flags.String("key-file", "worker.key", "a management key of role resolver")
	org := flags.String("org", "acme", "whose work it is")
	provider := flags.String("provider", "openai", "openai, or openai-compatible")
	endpoint := flags.String("endpoint", "https://api.openai.com/v1", "where OpenAI is called")
	allow := flags.String("allow", "", "a host, address or network that base URLs may lead to although it is private")
	ca := flags.String("ca", "", "file with certificate authorities to trust beside the system's")
	if err := flags.Parse(args); err != nil {
		return err
	}
	managementKey, err := os.ReadFile(*keyFile)
	if err != nil {
		return err
	}
	c, err := client.New(client.Config{URL: *url, Key: client.Secret(string(managementKey)), UserAgent: "byok-example"})
	if err != nil {
		return err
	}
	cfg := whose.Config{Resolver: c, Own: map[string]wire.ProviderSecret{}}
	if own, ok := lookup("OPENAI_API_KEY"); ok {
		cfg.Own["openai"] = wire.ProviderSecret(own)
	}
	keys, err := whose.New(cfg)
	if err != nil {
		return err
	}
	w := worker{keys: keys, endpoint: *endpoint}
	if w.out, err = door(*allow, *ca); err != nil {
		return err
	}
	key, models, err := w.models(ctx, *org, *provider)
	if err != nil {
		return err
	}
	name := "the built-in key"
	if key.Customers {
		name = fmt.Sprintf("%s's own key, version %d,", *org, key.Version)
	}
	_, err = fmt.Fprintf(stdout, "%s reaches %d models\n", name, models)
	return err
}

// door is the way out. Customers choose base URLs: by this client none of them leads
// into the platform's own network, by whatever name or redirect.
func door(allow, ca string) (*egress.Client, error) {
	cfg := egress.Config{Timeout: 10 * time.Second, MaxBody: maxAnswer}
	if allow != "" {
		cfg.Allow = []string{allow}
	}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, err
		}
		cfg.CA = pem
	}
	return egress.New(cfg)
}

// worker calls the provider.
type worker struct {
	keys     *whose.Keys
	out      *egress.Client
	endpoint string
}

// models counts the models that an organization's key reaches. It calls the provider,
// and once more when the key turns out to be replaced.
func (w worker) models(ctx context.Context, org, provider string) (whose.Key, int, error) {
	key, err := w.keys.Key(ctx, org, provider)
	if err != nil {
		return key, 0, err
	}
	models, status, err := w.list(ctx, key)
	if err == nil && status == http.StatusUnauthorized {
		next, again := w.keys.Refused(ctx, org, provider, key)
		switch {
		case again != nil:
			return next, 0, again
		case next == key:
			return key, 0, errors.New("the provider does not take the key, and there is no other: the customer has to know")
		}
		key = next
		models, status, err = w.list(ctx, key)
	}
	if err == nil && status != http.StatusOK {
		// What the provider wrote is not repeated: it may hold the key.
		err = fmt.Errorf("the provider answered with status %d", status)
	}
	return key, models, err
}

// list asks for the models that a key reaches.
func (w worker) list(ctx context.Context, key whose.Key) (models, status int, err error) {
	endpoint := w.endpoint
	if key.BaseURL != "" {
		endpoint = key.BaseURL
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(endpoint, "/")+"/models", http.NoBody)
	if err != nil {
		return 0, 0, err
	}
	r.Header.Set("Authorization", "Bearer "+key.Secret.Reveal())
	answer, err := w.out.Do(r)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, answer.Body.Close()) }()
	if answer.StatusCode != http.StatusOK {
		return 0, answer.StatusCode, nil
	}
	var body struct {
		Data []struct {
			ID string `json:"id"`
		} `json:"data"`
	}
	if json.UnmarshalRead(answer.Body, &body) != nil {
		return 0, answer.StatusCode, errors.New("the provider's answer is no list of models")
	}
	return len(body.Data), answer.StatusCode, nil
}
