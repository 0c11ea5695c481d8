package extauthz

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// health tells whether verdicts can be given, of the whole server and of its one
// service. Those who watch are told when that changes, and go when the server stops.
type health struct {
	healthv1.UnimplementedHealthServer
	ready    func() bool
	stopping <-chan struct{}
}

func (h *health) of(service string) healthv1.HealthCheckResponse_ServingStatus {
	if service != "" && service != Service {
		return healthv1.HealthCheckResponse_SERVICE_UNKNOWN
	}
	select {
	case <-h.stopping:
		return healthv1.HealthCheckResponse_NOT_SERVING
	default:
	}
	if h.ready != nil && !h.ready() {
		return healthv1.HealthCheckResponse_NOT_SERVING
	}
	return healthv1.HealthCheckResponse_SERVING
}

// Check tells it once.
func (h *health) Check(_ context.Context, r *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	now := h.of(r.GetService())
	if now == healthv1.HealthCheckResponse_SERVICE_UNKNOWN {
		return nil, status.Error(codes.NotFound, "unknown service")
	}
	return &healthv1.HealthCheckResponse{Status: now}, nil
}

// Watch tells it at once and whenever it changes.
func (h *health) Watch(r *healthv1.HealthCheckRequest, stream grpc.ServerStreamingServer[healthv1.HealthCheckResponse]) error {
	look := time.NewTicker(watchEvery)
	defer look.Stop()
	last := healthv1.HealthCheckResponse_UNKNOWN
	for {
		if now := h.of(r.GetService()); now != last {
			if err := stream.Send(&healthv1.HealthCheckResponse{Status: now}); err != nil {
				return err
			}
			last = now
		}
		select {
		case <-look.C:
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		case <-h.stopping:
			return status.Error(codes.Unavailable, "the server stops")
		}
	}
}
