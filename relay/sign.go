package relay

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// SignatureLine signs a text as a signed note (C2SP) does, and returns the line that
// the note would end with.
func SignatureLine(signer note.Signer, text string) (string, error) {
	signed, err := note.Sign(&note.Note{Text: text}, signer)
	if err != nil {
		return "", fmt.Errorf("relay: sign: %w", err)
	}
	line, ok := strings.CutPrefix(string(signed), text+"\n")
	if !ok {
		return "", errors.New("relay: sign: the note is not the text that was signed")
	}
	return strings.TrimSuffix(line, "\n"), nil
}
