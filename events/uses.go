package events

// UsesMessage is a block of uses as the broker holds it. Its body is not looked
// into here.
type UsesMessage struct {
	// Position is its sequence in the stream of uses; the broker assigns it.
	Position Position
	// Subject is [UsesSubject] of the organization and the verifier.
	Subject string
	// ID names the block for ever, so that publishing it again after an unknown
	// outcome stores it once. A reader does not get it back.
	ID   string
	Body []byte
	// Stored is the broker's time, decoration like every other.
	Stored Time
}
