package sidecar_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"

	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/sidecar"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/projections/index"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/recording"
)

// BenchmarkOverHTTP asks for verdicts, whose uses are recorded, over 32 connections
// that stay open, on a port and on a socket; and in turns with it the barest handlers
// of net/http and of fasthttp that read and write bodies of the same size. Who asks
// sends the same bytes each time and reads no more of an answer than its length.
func BenchmarkOverHTTP(b *testing.B) {
	p := &pair{server: apitest.Start(b)}
	w := furnish(b, p.server)
	verifier, recorder := standalone(b, p.server)
	p.config = sidecar.Config{
		Verifier: verifier, Positions: func() events.Positions { return p.server.Positions },
		Metrics: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler),
	}
	p.http, p.unix = p.serve(b)
	body := `{"secret":"` + w.limited + `","permission":"interview:read","workspace":"hiring"}`
	ask := func(auth string) string {
		return request("POST", "/v1/verify", body, append([]string{asJSON}, auth)...)
	}
	asked := ask("Accept: */*")
	answer := []byte(exchange(b, "tcp", p.http, asked).body)
	gateway := request("GET", "/v1/authorize?permission=interview:read&workspace=hiring", "", "Authorization: Bearer "+w.limited, "X-Forwarded-For: 192.0.2.1")

	dir := b.TempDir()
	open := func(network string) net.Listener {
		address := "127.0.0.1:0"
		if network == "unix" {
			address = filepath.Join(dir, strconv.Itoa(int(time.Now().UnixNano())))
		}
		l, err := net.Listen(network, address)
		if err != nil {
			b.Fatal(err)
		}
		return l
	}
	bare := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header()["Content-Type"] = []string{"application/json"}
		_, _ = w.Write(answer)
	})}
	defer bare.Close()
	barer := fasthttp.Server{Handler: func(ctx *fasthttp.RequestCtx) {
		ctx.SetContentType("application/json")
		ctx.SetBody(answer)
	}}
	defer func() { _ = barer.Shutdown() }()
	serve := func(network string, with func(net.Listener) error) string {
		l := open(network)
		go func() { _ = with(l) }()
		return l.Addr().String()
	}
	runs := []*load{
		{name: "net/http", network: "tcp", address: serve("tcp", bare.Serve), raw: asked},
		{name: "net/http-unix", network: "unix", address: serve("unix", bare.Serve), raw: asked},
		{name: "fasthttp", network: "tcp", address: serve("tcp", barer.Serve), raw: asked},
		{name: "fasthttp-unix", network: "unix", address: serve("unix", barer.Serve), raw: asked},
		{name: "verify", network: "tcp", address: p.http, raw: asked},
		{name: "verify-unix", network: "unix", address: p.unix, raw: asked},
		{name: "authorize", network: "tcp", address: p.http, raw: gateway},
		{name: "authorize-unix", network: "unix", address: p.unix, raw: gateway},
	}
	for _, l := range runs {
		l.dial(b)
		defer l.close()
		l.send(b, 2000)
	}
	before := recorder.Stats().Recorded
	const turn = 4000
	turns := 0
	for b.Loop() {
		for _, l := range runs {
			cpu := processor(b)
			l.took += l.send(b, turn)
			l.worked += processor(b) - cpu
		}
		turns++
	}
	if n := recorder.Stats().Recorded - before; n != uint64(4*turn*turns) {
		b.Errorf("%d uses were recorded in %d turns", n, turns)
	}
	for _, l := range runs {
		rate, work := float64(runs[0].took)/float64(l.took), float64(runs[0].worked)/float64(l.worked)
		b.ReportMetric(rate, l.name+"/of-bare")
		b.ReportMetric(work, l.name+"/of-bare-cpu")
		b.Logf("%-15s %8.0f/s, %.2f of bare; %6.1f µs of a processor with who asks, %.2f of bare",
			l.name, float64(turn*turns)/l.took.Seconds(), rate, float64(l.worked.Microseconds())/float64(turn*turns), work)
	}
	b.ReportMetric(0, "ns/op")
}

// standalone is a verifier as a sidecar has one: with an index of its own, and uses
// that go to a broker which stores them on disk.
func standalone(b *testing.B, s *apitest.Server) (*verify.Verifier, *recording.Recorder) {
	b.Helper()
	must := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	broker, err := embedded.Start(ctx, embedded.Config{Dir: b.TempDir()})
	must(err)
	must(broker.Setup(ctx, func(conn *nats.Conn) error { return jetstream.EnsureStreams(ctx, conn, 1) }))
	log := slog.New(slog.DiscardHandler)
	uses, err := jetstream.New(jetstream.Config{Conn: broker.Conn(), Ledger: s.Positions.Ledger, Replicas: 1, Logger: log})
	must(err)
	idx, err := index.New(index.Config{Logger: log})
	must(err)
	runner, err := projections.NewRunner(projections.Config{Source: s.Ledger, View: idx, Logger: log, AskEvery: 50 * time.Millisecond})
	must(err)
	var following sync.WaitGroup
	following.Go(func() { _ = runner.Run(ctx) })
	<-runner.Ready()
	recorder, err := recording.New(recording.Config{Ledger: s.Positions.Ledger, Verifier: "bench", Sink: uses, Logger: log})
	must(err)
	must(recorder.Start(ctx))
	verifier, err := verify.New(verify.Config{Index: idx, Recorder: recorder, Fresh: runner.Fresh, WaitFor: runner.WaitFor})
	must(err)
	b.Cleanup(func() {
		verifier.Close()
		if err := recorder.Close(context.Background()); err != nil {
			b.Error(err)
		}
		cancel()
		following.Wait()
		broker.Shutdown()
	})
	return verifier, recorder
}

// load is a number of connections that ask one question again and again.
type load struct {
	name, network, address, raw string
	conns                       []*bufio.ReadWriter
	closers                     []io.Closer
	took                        time.Duration
	// worked is the time of processors that was spent meanwhile: what others do on the
	// machine is not in it.
	worked time.Duration
}

// processor is how long this process has worked so far.
func processor(t testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func (l *load) dial(t testing.TB) {
	t.Helper()
	for range 32 {
		conn, err := net.Dial(l.network, l.address)
		if err != nil {
			t.Fatal(err)
		}
		l.closers = append(l.closers, conn)
		l.conns = append(l.conns, bufio.NewReadWriter(bufio.NewReader(conn), bufio.NewWriter(conn)))
	}
}

func (l *load) close() {
	for _, c := range l.closers {
		_ = c.Close()
	}
}

// send asks n times on all connections, and returns how long that took.
func (l *load) send(t testing.TB, n int) time.Duration {
	var left atomic.Int64
	left.Store(int64(n))
	var wg sync.WaitGroup
	begin := time.Now()
	for _, c := range l.conns {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				_, _ = c.WriteString(l.raw)
				if err := c.Flush(); err != nil {
					t.Error(err)
					return
				}
				if err := skip(c.Reader); err != nil {
					t.Errorf("%s: %v", l.name, err)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(begin)
}

// skip reads one answer that is 200.
func skip(r *bufio.Reader) error {
	length := 0
	for first := true; ; first = false {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200")) {
			return fmt.Errorf("%s", line)
		}
		if len(line) == 2 {
			break
		}
		if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(v))); err != nil {
				return err
			}
		}
	}
	_, err := r.Discard(length)
	return err
}
