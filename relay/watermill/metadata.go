package watermill

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What the broker tells about a message, as metadata of it. They are never sent:
// a header of one of these names is ignored, and so is metadata when publishing.
const (
	// MetadataStream is the stream that holds the message.
	MetadataStream = "nats_stream"
	// MetadataSequence is its place there, in decimal; for the ledger that is its
	// position. A publisher sets both on a message that was stored.
	MetadataSequence = "nats_sequence"
	// MetadataStored is when the broker stored it: RFC 3339 in UTC with
	// nanoseconds.
	MetadataStored = "nats_stored"
	// MetadataSubject is the subject it was stored under.
	MetadataSubject = "nats_subject"
	// MetadataDelivered counts its deliveries to this group, from 1 on.
	MetadataDelivered = "nats_delivered"
	// MetadataDuplicate is "true" on a published message that the broker had
	// already; its sequence is that of the first.
	MetadataDuplicate = "nats_duplicate"
	// MetadataMalformed tells what of the message could not be read. It is not
	// there when all could.
	MetadataMalformed = "nats_malformed"
	// MetadataKind is the kind of a fact of the ledger, such as `key.revoked.v1`.
	MetadataKind = "keyledger_kind"
)

// headerMetadata holds, as one line of JSON, the metadata that no header can
// carry: values of several lines, and names that mean something to the broker.
const headerMetadata = "Keyledger-Metadata"

// maxUUID bounds a message's UUID, which the broker keeps in memory for as long
// as it looks for duplicates.
const maxUUID = 128

var told = []string{
	MetadataStream, MetadataSequence, MetadataStored, MetadataSubject,
	MetadataDelivered, MetadataDuplicate, MetadataMalformed, MetadataKind,
}

// marshal makes a message ready for the broker.
func marshal(topic string, m *message.Message) (*nats.Msg, error) {
	if len(m.UUID) > maxUUID || !plainValue(m.UUID) {
		return nil, fmt.Errorf("%w: a UUID has at most %d characters, no control characters and no space around it", ErrInvalidMessage, maxUUID)
	}
	out := nats.NewMsg(topic)
	out.Data = m.Payload
	if m.UUID != "" {
		out.Header[jetstream.MsgIDHeader] = []string{m.UUID}
	}
	rest := map[string]string{}
	for name, value := range m.Metadata {
		switch {
		case slices.Contains(told, name):
		case plainName(name) && plainValue(value):
			out.Header[name] = []string{value}
		default:
			rest[name] = value
		}
	}
	if len(rest) > 0 {
		line, err := json.Marshal(rest, json.Deterministic(true))
		if err != nil {
			// The encoder's own words would repeat what the metadata says.
			return nil, fmt.Errorf("%w: metadata is not UTF-8", ErrInvalidMessage)
		}
		out.Header[headerMetadata] = []string{string(line)}
	}
	return out, nil
}

// plainName tells names that arrive as they are and mean nothing to the broker
// or its client.
func plainName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	switch lower := strings.ToLower(s); {
	case s == "", strings.HasPrefix(lower, "nats-"), lower == "status", lower == "description",
		lower == strings.ToLower(headerMetadata):
		return false
	}
	return true
}

func plainValue(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			return false
		}
	}
	return strings.Trim(s, " ") == s
}

// place is where a message stands, as the broker tells with each delivery.
type place = nats.MsgMetadata

// unmarshal reads a message of a topic. What cannot be read is told by an error
// beside the message, which is whole in all else.
func unmarshal(_ *source, m *nats.Msg, at *place) (*message.Message, *reading) {
	uuid := m.Header.Get(jetstream.MsgIDHeader)
	out := message.NewMessage(uuid, m.Data)
	if uuid == "" {
		out.UUID = name(at)
	}
	var faults []error
	for name, values := range m.Header {
		if len(values) > 1 {
			faults = append(faults, fmt.Errorf("header %q is there %d times, and only the first is kept", name, len(values)))
		}
		if name == headerMetadata || len(values) == 0 || strings.HasPrefix(name, "Nats-") {
			continue
		}
		out.Metadata[name] = values[0]
	}
	if line := m.Header.Get(headerMetadata); line != "" {
		var rest map[string]string
		if err := json.Unmarshal([]byte(line), &rest); err != nil {
			faults = append(faults, fmt.Errorf("header %s is no JSON object of texts", headerMetadata))
			out.Metadata[headerMetadata] = line
		}
		for name, value := range rest {
			out.Metadata[name] = value
		}
	}
	for _, name := range told {
		delete(out.Metadata, name)
	}
	if len(faults) > 0 {
		return out, &reading{fault: fmt.Errorf("%w: %w", ErrMalformed, errors.Join(faults...))}
	}
	return out, &reading{}
}

// name is the UUID of a message that has none.
func name(at *place) string {
	return at.Stream + "." + strconv.FormatUint(at.Sequence.Stream, 10)
}

// tell writes what the broker tells about a message.
func tell(m *message.Message, subject string, at *place) {
	m.Metadata[MetadataStream] = at.Stream
	m.Metadata[MetadataSequence] = strconv.FormatUint(at.Sequence.Stream, 10)
	m.Metadata[MetadataStored] = at.Timestamp.UTC().Format(time.RFC3339Nano)
	m.Metadata[MetadataSubject] = subject
	m.Metadata[MetadataDelivered] = strconv.FormatUint(at.NumDelivered, 10)
}
