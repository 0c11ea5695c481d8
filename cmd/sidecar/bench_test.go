package sidecar

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyledger/keyledger/cmd/nodes"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/verifytest"
)

// BenchmarkDurable asks two sidecars over their sockets with 256 connections, in turns:
// one that answers when the use is in its buffer, and one that answers when the broker,
// which syncs always, has it on disk.
func BenchmarkDurable(b *testing.B) {
	const callers, each = 256, 200
	ledger := verifytest.Begin(b)
	ledger.Organization(acme)
	secret, _ := ledger.Key(acme, "doc:read")
	address := func(uses verify.Durability) string {
		name := [...]events.CredentialName{verify.Buffered: "buffered", verify.Durable: "durable"}[uses]
		dir := b.TempDir()
		creds, socket := filepath.Join(dir, "creds"), filepath.Join(dir, "s")
		if err := os.WriteFile(creds, ledger.Verifier(name, 0), 0o600); err != nil {
			b.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.Background())
		ready, ended := make(chan []string, 1), make(chan error, 1)
		go func() {
			ended <- Run(ctx, Config{
				Nodes: nodes.Config{URL: ledger.URL(), Creds: creds}, Listen: []string{unixPrefix + socket}, SocketMode: 0o600,
				MaxStaleness: time.Hour, MaxWait: time.Second, Uses: uses, Ready: func(a []string) { ready <- a },
				Logger: slog.New(slog.DiscardHandler), Version: "benchmark",
			})
		}()
		b.Cleanup(func() {
			stop()
			if err := <-ended; err != nil {
				b.Error(err)
			}
		})
		select {
		case <-ready:
		case err := <-ended:
			b.Fatal(err)
		}
		return socket
	}
	request := verifying(secret)
	var refused atomic.Int64
	run := func(socket string) time.Duration {
		var clients sync.WaitGroup
		began := time.Now()
		for range callers {
			clients.Go(func() {
				conn, err := net.Dial("unix", socket)
				if err != nil {
					b.Error(err)
					return
				}
				defer conn.Close()
				in := bufio.NewReader(conn)
				for range each {
					valid, err := exchange(conn, in, request)
					if err != nil {
						b.Error(err)
						return
					}
					if !valid {
						refused.Add(1)
					}
				}
			})
		}
		clients.Wait()
		return time.Since(began)
	}
	sockets := [...]string{address(verify.Buffered), address(verify.Durable)}
	var took [2]time.Duration
	for range b.N {
		for i, socket := range sockets {
			took[i] += run(socket)
		}
	}
	rate := func(d time.Duration) float64 { return float64(b.N) * callers * each / d.Seconds() }
	b.ReportMetric(rate(took[0]), "buffered/s")
	b.ReportMetric(rate(took[1]), "durable/s")
	b.ReportMetric(rate(took[1])/rate(took[0]), "durable/buffered")
	// UNAVAILABLE, where a disk takes longer than anybody waits.
	b.ReportMetric(float64(refused.Load())/float64(b.N), "refused")
	b.ReportMetric(0, "ns/op")
}

// verifying is the request for a verdict.
func verifying(secret string) []byte {
	body := fmt.Sprintf(`{"secret":%q,"permission":"doc:read"}`, secret)
	return fmt.Appendf(nil, "POST /v1/verify HTTP/1.1\r\nHost: sidecar\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// exchange sends a request and reads its answer, with as little as possible.
func exchange(conn net.Conn, in *bufio.Reader, request []byte) (valid bool, err error) {
	if _, err := conn.Write(request); err != nil {
		return false, err
	}
	length := 0
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return false, err
		}
		if len(line) == 2 {
			break
		}
		if name, value, _ := strings.Cut(string(line), ":"); strings.EqualFold(name, "Content-Length") {
			if length, err = strconv.Atoi(strings.TrimSpace(value)); err != nil {
				return false, err
			}
		}
	}
	answer := make([]byte, length)
	if _, err := io.ReadFull(in, answer); err != nil {
		return false, err
	}
	return bytes.Contains(answer, []byte(`"VALID"`)), nil
}
