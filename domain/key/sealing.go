package key

import (
	"encoding/base64"
	"strings"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
)

// Texts are decided on in clear, and sealed where they are stored. What they take
// there is known before.

// sealed is the state with texts as long as they are sealed. A state of nothing has
// none.
func (s State) sealed() State {
	s.Name, s.ExternalID = s.sealedText(s.Name), s.sealedText(s.ExternalID)
	if len(s.Metadata) == 0 {
		return s
	}
	metadata := make(events.Metadata, len(s.Metadata))
	for member, text := range s.Metadata {
		metadata[member] = s.sealedText(text)
	}
	s.Metadata = metadata
	return s
}

func (s State) sealedText(t events.Text) events.Text {
	if t.Clear == "" {
		return t
	}
	return events.Text{Sealed: events.Sealed{
		Subject: string(s.DataSubject), Key: strings.Repeat("0", events.SealingKeyLength),
		Box: strings.Repeat("0", base64.RawStdEncoding.EncodedLen(len(t.Clear)+events.SealedTextBytes)),
	}}
}

func checkSubject(id events.DataSubject) error {
	if id == "" {
		return nil
	}
	if _, err := events.ParseDataSubject(string(id)); err != nil {
		return domain.Refuse(domain.ErrInvalid, "data_subject",
			"must be 1 to %d characters of a-z, 0-9 and '-', and begin with a letter or digit: a pseudonym, since it is never sealed", events.MaxIDLength)
	}
	return nil
}
