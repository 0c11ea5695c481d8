package watermill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// maxTopic bounds a topic's name, which is also the name of a folder.
const maxTopic = 200

// ledgerNames are the streams of the ledger, and the first parts of their
// subjects.
var ledgerNames = []string{"ledger", "uses", "checkpoints", "seals", "timers"}

// checkTopic tells the names that a topic of an application may have: parts of
// letters, digits, '-' and '_', joined by dots.
func checkTopic(topic string) error {
	first, _, _ := strings.Cut(topic, ".")
	if slices.Contains(ledgerNames, strings.ToLower(first)) {
		return fmt.Errorf("%w: topics beginning with %q are its own", ErrReadOnly, first)
	}
	if len(topic) > maxTopic {
		return fmt.Errorf("%w: longer than %d characters", ErrInvalidTopic, maxTopic)
	}
	for part := range strings.SplitSeq(topic, ".") {
		if !token(part) {
			return fmt.Errorf("%w: %q is not made of letters, digits, '-' and '_', in parts joined by dots", ErrInvalidTopic, topic)
		}
	}
	return nil
}

// token reports whether a text may be a stream's or consumer's name.
func token(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return s != ""
}

// streamOf is the stream of a topic. Two topics that differ in a dot alone have
// the same, and the second one is refused.
func streamOf(topic string) string { return strings.ReplaceAll(topic, ".", "_") }

// Streams says how the streams of new topics are made. A stream that exists is
// left as it is.
type Streams struct {
	// Replicas is how many servers hold a stream; 3 on a cluster. Default 1.
	Replicas int
	// MaxAge is for how long messages are kept. Default: for ever.
	MaxAge time.Duration
	// MaxBytes bounds a stream; the oldest messages go. Default: nothing does.
	MaxBytes int64
	// Duplicates is for how long the broker knows a message's UUID again, which
	// costs it memory. Default 2 minutes.
	Duplicates time.Duration
}

func (s Streams) faults() []error {
	var faults []error
	if s.Replicas < 0 || s.Replicas > 5 {
		faults = append(faults, errors.New("watermill: Streams.Replicas is not within 1 and 5"))
	}
	if s.MaxAge < 0 || s.MaxBytes < 0 || s.Duplicates < 0 {
		faults = append(faults, errors.New("watermill: Streams.MaxAge, MaxBytes or Duplicates is negative"))
	}
	if s.MaxAge > 0 && s.Duplicates > s.MaxAge {
		faults = append(faults, errors.New("watermill: Streams.Duplicates is longer than MaxAge"))
	}
	return faults
}

// ensure makes the stream of a topic, unless it is there.
func (s Streams) ensure(ctx context.Context, js jetstream.JetStream, topic string) error {
	stream, err := js.Stream(ctx, streamOf(topic))
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = s.create(ctx, js, topic)
	}
	if err != nil {
		return fmt.Errorf("watermill: stream of topic %q: %w", topic, err)
	}
	if subjects := stream.CachedInfo().Config.Subjects; !slices.Contains(subjects, topic) {
		return fmt.Errorf("%w: stream %s of topic %q takes other subjects: %q", ErrInvalidTopic, streamOf(topic), topic, subjects)
	}
	return nil
}

func (s Streams) create(ctx context.Context, js jetstream.JetStream, topic string) (jetstream.Stream, error) {
	duplicates := s.Duplicates
	if duplicates == 0 {
		duplicates = 2 * time.Minute
		if s.MaxAge > 0 {
			duplicates = min(duplicates, s.MaxAge)
		}
	}
	stream, err := js.CreateStream(ctx, jetstream.StreamConfig{
		Name: streamOf(topic), Subjects: []string{topic}, Storage: jetstream.FileStorage,
		Replicas: max(s.Replicas, 1), MaxAge: s.MaxAge, MaxBytes: s.MaxBytes, Duplicates: duplicates,
	})
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		// Somebody else made it in the meantime, in their own way.
		return js.Stream(ctx, streamOf(topic))
	}
	return stream, err
}
