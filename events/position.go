package events

import (
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strings"
)

// Position is a fact's sequence in its stream: an integer that the broker
// assigns, gapless from 1, and the only thing that orders facts. Zero is before
// the first fact. It leaves the program only through [Positions].
type Position uint64

// Stream tells the streams apart whose positions leave the program.
type Stream byte

// The streams. Their numbers stand in positions people keep, and never change.
const (
	StreamLedger Stream = 1
	StreamUses   Stream = 2
)

// Positions writes and reads positions for the world outside: opaque texts that
// hold the ledger, its epoch, the stream and the sequence, so that a position
// of another ledger, or of before a restore, is refused and not misread.
type Positions struct {
	Ledger LedgerID
	Epoch  uint32
}

// positionForm is the first byte of every position text's content.
const positionForm = 1

var positionText = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// Format returns the opaque text of a position, about 30 characters of
// lower-case letters and digits that begin with `p`.
func (p Positions) Format(stream Stream, pos Position) string {
	var buf [48]byte
	// Of an id that begins with a clock, the last half is what was drawn.
	b := append(buf[:0], positionForm, byte(stream))
	b = append(b, p.Ledger[8:]...)
	b = binary.AppendUvarint(b, uint64(p.Epoch))
	b = binary.AppendUvarint(b, uint64(pos))
	sum := crc32.ChecksumIEEE(b)
	b = append(b, byte(sum>>8), byte(sum))
	return "p" + positionText.EncodeToString(b)
}

// Parse reads the text of a position in a stream of this ledger and epoch.
func (p Positions) Parse(stream Stream, text string) (Position, error) {
	refuse := func(why string) (Position, error) {
		return 0, fmt.Errorf("%w: %s", ErrInvalidPosition, why)
	}
	body, ok := strings.CutPrefix(text, "p")
	if !ok || len(body) > 64 {
		return refuse("not a position; copy one from an answer of this server")
	}
	b, err := positionText.DecodeString(body)
	if err != nil || len(b) < 14 {
		return refuse("not a position; copy one from an answer of this server")
	}
	content, tail := b[:len(b)-2], b[len(b)-2:]
	if sum := crc32.ChecksumIEEE(content); tail[0] != byte(sum>>8) || tail[1] != byte(sum) || content[0] != positionForm {
		return refuse("not a position: it was cut or mistyped")
	}
	epoch, n := binary.Uvarint(content[10:])
	if n <= 0 {
		return refuse("not a position: it was cut or mistyped")
	}
	seq, m := binary.Uvarint(content[10+n:])
	if m <= 0 || 10+n+m != len(content) {
		return refuse("not a position: it was cut or mistyped")
	}
	switch {
	case [8]byte(content[2:10]) != [8]byte(p.Ledger[8:]):
		return refuse("it belongs to another ledger")
	case Stream(content[1]) != stream:
		return refuse("it belongs to another stream of this ledger")
	case epoch != uint64(p.Epoch):
		return refuse(fmt.Sprintf("it belongs to epoch %d of this ledger, which was restored since and is in epoch %d", epoch, p.Epoch))
	}
	if p.Format(stream, Position(seq)) != text {
		return refuse("not a position: it was cut or mistyped")
	}
	return Position(seq), nil
}
