package extauthz_test

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/extauthz"
	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/uses"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/projections/index"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/recording"
)

// envoys is what Envoy says of a usual request: some 600 bytes.
func envoys(secret string) *authv3.CheckRequest {
	q := question{method: "GET", path: "/interviews/7?page=2", headers: map[string]string{
		":authority": "api.example.com", ":method": "GET", ":path": "/interviews/7?page=2", ":scheme": "https",
		"accept": "application/json", "accept-encoding": "gzip, deflate, br", "accept-language": "en-GB,en;q=0.9",
		"authorization": "Bearer " + secret, "user-agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
		"x-forwarded-for": "192.0.2.7", "x-forwarded-proto": "https", "x-request-id": "7e4f3c52-5d4b-4b8e-9a83-2f9a3f6f2b11",
		"x-envoy-internal": "true",
	}, extensions: map[string]string{"permission": "interview:read"}}
	return q.request()
}

// served is one of the servers that are compared.
type served struct {
	name string
	// call asks it once.
	call func(context.Context) error
	// rates of the rounds, calls a second, and the processor time of a call, in
	// microseconds, that of its client among it. On a machine that does other work
	// too, the latter tells more.
	rates, costs []float64
}

const (
	callers = 32
	// conns is how many connections the callers share, as a gateway's do.
	conns = 4
)

// BenchmarkCheck asks this server and others beside it in turns, over the same kind of
// connection with the same client, and tells the ratio to a bare handler whose
// messages are of the same sizes: what gRPC itself costs.
func BenchmarkCheck(b *testing.B) {
	for _, network := range []string{"tcp", "unix"} {
		b.Run(network, func(b *testing.B) { compareServers(b, network) })
	}
}

func compareServers(b *testing.B, network string) {
	s := apitest.Start(b)
	w := &world{Server: s, t: b}
	w.furnish("acme")
	secret := w.key("acme", `{"permissions":["interview:read"],"scope":{"all_workspaces":true}}`).Secret
	ask, err := proto.Marshal(envoys(secret))
	must(b, err)
	g := lean(b, s)
	door, err := extauthz.New(extauthz.Config{Gate: g, Logger: s.Config.Logger})
	must(b, err)
	l := listener(b, network)
	go func() { _ = door.Serve(l) }()
	b.Cleanup(func() { door.Stop(context.Background()) })
	ours := rawCaller(b, l, "/"+extauthz.Service+"/Check", ask)
	size := 0
	must(b, ours.invoke(b.Context(), &size))
	answer := size
	bare := &bareServer{answer: make([]byte, answer-3)}
	plain := &plainServer{gate: g}
	compared := []*served{
		{name: "bare", call: grpcCaller(b, network, bare.register, "/bare.Bare/Call", envelope(b, len(ask)))},
		{name: "plain", call: grpcCaller(b, network, plain.register, "/"+extauthz.Service+"/Check", ask)},
		{name: "ours", call: func(ctx context.Context) error { return ours.invoke(ctx, nil) }},
	}
	rounds := 0
	for b.Loop() {
		for _, c := range compared {
			c.measure(b, 700*time.Millisecond)
		}
		rounds++
	}
	b.ReportMetric(0, "ns/op")
	for _, c := range compared {
		b.ReportMetric(median(c.rates), c.name+"/s")
		b.ReportMetric(median(c.costs), c.name+"-µs")
		if c == compared[0] {
			continue
		}
		rates, costs := make([]float64, rounds), make([]float64, rounds)
		for i := range rates {
			rates[i], costs[i] = c.rates[i]/compared[0].rates[i], compared[0].costs[i]/c.costs[i]
		}
		b.ReportMetric(median(rates), c.name+"/bare")
		b.ReportMetric(median(costs), c.name+"/bare-by-cpu")
	}
	b.ReportMetric(float64(len(ask)), "B-asked")
	b.ReportMetric(float64(answer), "B-answered")
}

// lean is a verifier on the ledger of a server, and nothing else: uses are recorded, and
// the blocks that would be stored are thrown away. All of a server would be measured
// otherwise, down to its files.
func lean(b *testing.B, s *apitest.Server) *gate.Gate {
	b.Helper()
	idx, err := index.New(index.Config{Logger: s.Config.Logger})
	must(b, err)
	runner, err := projections.NewRunner(projections.Config{Source: s.Ledger, View: idx, Logger: s.Config.Logger, AskEvery: 50 * time.Millisecond})
	must(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = runner.Run(ctx) })
	recorder, err := recording.New(recording.Config{Ledger: s.Positions.Ledger, Verifier: "lean", Sink: nowhere{}, Logger: s.Config.Logger})
	must(b, err)
	must(b, recorder.Start(ctx))
	verifier, err := verify.New(verify.Config{Index: idx, Recorder: recorder, Fresh: runner.Fresh, WaitFor: runner.WaitFor})
	must(b, err)
	b.Cleanup(func() {
		verifier.Close()
		must(b, recorder.Close(context.Background()))
		cancel()
		running.Wait()
	})
	<-runner.Ready()
	for verifier.Stale() {
		time.Sleep(time.Millisecond)
	}
	metrics, err := gate.NewMetrics(prometheus.NewRegistry())
	must(b, err)
	g, err := gate.New(gate.Config{Verifier: verifier, Positions: func() events.Positions { return s.Positions }, Metrics: metrics})
	must(b, err)
	return g
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

type nowhere struct{}

func (nowhere) PublishUses(context.Context, []uses.Message) error { return nil }

func median(of []float64) float64 {
	of = slices.Clone(of)
	slices.Sort(of)
	return of[len(of)/2]
}

// measure asks by as many callers at once for a while.
func (s *served) measure(b *testing.B, during time.Duration) {
	b.Helper()
	var done atomic.Int64
	var wait sync.WaitGroup
	begin, used := time.Now(), processor(b)
	for range callers {
		wait.Go(func() {
			for time.Since(begin) < during {
				if err := s.call(b.Context()); err != nil {
					b.Error(err)
					return
				}
				done.Add(1)
			}
		})
	}
	wait.Wait()
	took, calls := time.Since(begin), float64(done.Load())
	s.rates = append(s.rates, calls/took.Seconds())
	s.costs = append(s.costs, float64((processor(b)-used).Microseconds())/calls)
}

// processor is the processor time that this process has used.
func processor(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func listener(b *testing.B, network string) net.Listener {
	b.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(b.TempDir(), "s")
	}
	l, err := net.Listen(network, address)
	must(b, err)
	return l
}

// caller asks the same over and over, on a few connections in turn.
type caller struct {
	conns   [conns]*grpc.ClientConn
	next    atomic.Uint32
	method  string
	message []byte
}

func rawCaller(b *testing.B, l net.Listener, method string, message []byte) *caller {
	b.Helper()
	target := l.Addr().String()
	if l.Addr().Network() == "unix" {
		target = "unix:" + target
	}
	c := &caller{method: method, message: message}
	for i := range c.conns {
		conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{})))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { conn.Close() })
		c.conns[i] = conn
	}
	return c
}

// invoke asks with a deadline, as Envoy does.
func (c *caller) invoke(ctx context.Context, size *int) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return c.conns[c.next.Add(1)%conns].Invoke(ctx, c.method, &c.message, size)
}

func grpcCaller(b *testing.B, network string, register func(*grpc.Server), method string, message []byte) func(context.Context) error {
	b.Helper()
	server := grpc.NewServer()
	register(server)
	l := listener(b, network)
	go func() { _ = server.Serve(l) }()
	b.Cleanup(server.Stop)
	c := rawCaller(b, l, method, message)
	return func(ctx context.Context) error { return c.invoke(ctx, nil) }
}

// envelope is a message of one field that is as long as another.
func envelope(b *testing.B, size int) []byte {
	b.Helper()
	message, err := proto.Marshal(&wrapperspb.BytesValue{Value: make([]byte, size-3)})
	must(b, err)
	return message
}

// bareServer is a handler that does nothing, built as everybody builds one.
type bareServer struct{ answer []byte }

func (s *bareServer) register(to *grpc.Server) {
	to.RegisterService(&grpc.ServiceDesc{ServiceName: "bare.Bare", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{
		MethodName: "Call",
		Handler: func(_ any, _ context.Context, read func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var in wrapperspb.BytesValue
			if err := read(&in); err != nil {
				return nil, err
			}
			if len(in.Value) == 0 {
				return nil, fmt.Errorf("empty")
			}
			return &wrapperspb.BytesValue{Value: s.answer}, nil
		},
	}}}, s)
}

// plainServer does what this package does, with the generated types and nothing else:
// what it would be without a codec of its own.
type plainServer struct {
	authv3.UnimplementedAuthorizationServer
	gate *gate.Gate
}

func (s *plainServer) register(to *grpc.Server) { authv3.RegisterAuthorizationServer(to, s) }

func (s *plainServer) Check(ctx context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return extauthz.Plain(ctx, s.gate, r), nil
}
