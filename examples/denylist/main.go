package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/examples/denylist/deny"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "denylist:", err)
		os.Exit(1)
	}
}

// run serves until the context ends.
func run(ctx context.Context, args []string, stderr io.Writer) (err error) {
	flags := flag.NewFlagSet("denylist", flag.ContinueOnError)
	flags.SetOutput(stderr)
	url := flags.String("nats", "nats://127.0.0.1:4222", "the ledger's broker")
	creds := flags.String("creds", "data/creds/subscriber.creds", "a subscriber's credential, for this list alone")
	file := flags.String("file", "denylist.jsonl", "where the list is kept")
	listen := flags.String("listen", "127.0.0.1:8090", "where it is asked")
	maxAge := flags.Duration("max-age", 30*time.Second, "how old the list may be to say that a key is not on it")
	if err := flags.Parse(args); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	content, err := os.ReadFile(*creds)
	if err != nil {
		return err
	}
	held, err := credentials.Holder(content)
	if err != nil {
		return fmt.Errorf("%s: %w", *creds, err)
	}
	if held.For != events.CredentialSubscriber {
		return fmt.Errorf("%s: is for %s, and this service takes a subscriber's", *creds, held.For)
	}
	list, err := deny.Open(*file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, list.Close()) }()
	conn, err := nats.Connect(*url, nats.Name(string(held.Name)), nats.UserCredentials(*creds),
		// The list answers from its file while the broker is away, also at the start.
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { log.Warn("disconnected", "error", err) }),
		nats.ReconnectHandler(func(*nats.Conn) { log.Info("connected again") }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { log.Error("broker", "error", err) }),
	)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close()
	f, err := deny.NewFollower(deny.Config{Conn: conn, Consumer: string(held.Name), List: list, Logger: log})
	if err != nil {
		return err
	}
	denied, aside := list.Size()
	log.Info("following revocations", "as", held.Name, "denied", denied, "set_aside", aside)
	return both(ctx, f, *listen, f.Handler(*maxAge), log)
}

// both follows and answers until the context ends or one of them fails, and then
// ends the other.
func both(ctx context.Context, f *deny.Follower, address string, h http.Handler, log *slog.Logger) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	server := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	var followed, served error
	var running sync.WaitGroup
	running.Go(func() {
		defer cancel()
		followed = f.Run(ctx)
	})
	running.Go(func() {
		defer cancel()
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			served = err
		}
	})
	log.Info("ready", "listen", listener.Addr().String())
	<-ctx.Done()
	closing, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer stop()
	stopped := server.Shutdown(closing)
	running.Wait()
	return errors.Join(followed, served, stopped)
}
