package access

import (
	"fmt"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/events"
)

// Message is a record as the broker holds it.
type Message struct {
	// Position is its sequence in the stream; the broker assigns it.
	Position events.Position
	Subject  string
	// ID is that of the record. A reader does not get it back.
	ID   string
	Body []byte
	// Stored is the broker's time.
	Stored events.Time
}

// Encode writes a record as a message.
func Encode(r *Record) (Message, error) {
	if err := r.Check(); err != nil {
		return Message{}, err
	}
	body, err := json.Marshal(r, json.Deterministic(true))
	if err != nil {
		return Message{}, fmt.Errorf("access: encode: %w", err)
	}
	return Message{Subject: Subject(r.Org, r.Kind), ID: r.ID(), Body: body}, nil
}

// Decode reads the record of a ledger out of a message. What is none, or stands
// under another's subject, is [ErrMalformed].
func Decode(ledger events.LedgerID, m Message) (Record, error) {
	var r Record
	if err := json.Unmarshal(m.Body, &r); err != nil {
		// The error may repeat what was sent.
		return Record{}, fmt.Errorf("%w: it cannot be read", ErrMalformed)
	}
	if err := r.Check(); err != nil {
		return Record{}, err
	}
	switch {
	case r.Ledger != ledger:
		return Record{}, fmt.Errorf("%w of this ledger", ErrMalformed)
	case m.Subject != Subject(r.Org, r.Kind):
		return Record{}, fmt.Errorf("%w of the subject that it stands on", ErrMalformed)
	}
	return r, nil
}
