package snapshot

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/keyledger/keyledger/events/snapshots"
)

// ErrUnsigned says that nobody who may has signed a manifest.
var ErrUnsigned = errors.New("snapshot: nobody who may has signed it")

// Manifest is what is stored with a snapshot beside the ledger, without the side that
// it lies on, and without a signature.
func (w *Written) Manifest() snapshots.Manifest {
	return snapshots.Manifest{
		Ledger: w.Ledger, Scope: w.Scope, Organizations: w.Organizations, Position: w.Position, Stored: w.Stored,
		Projection: w.Projection, Size: w.Size, Digest: w.Digest,
		Chunks: int((w.Size + snapshots.ChunkBytes - 1) / snapshots.ChunkBytes), CreatedAt: w.CreatedAt,
	}
}

// HeaderOf is the header of the snapshot that a manifest tells of.
func HeaderOf(m *snapshots.Manifest) Header {
	return Header{
		Ledger: m.Ledger, Scope: m.Scope, Organizations: m.Organizations, Position: m.Position, Stored: m.Stored,
		Projection: m.Projection, CreatedAt: m.CreatedAt,
	}
}

// Admits tells, before a snapshot is fetched, whether a reader could go on from it.
func (who Reader) Admits(m *snapshots.Manifest) error { return who.fits(HeaderOf(m)) }

// CheckSignature tells whether one of some keys, in the form of C2SP signed-note, has
// signed a manifest.
func CheckSignature(m *snapshots.Manifest, keys []string) error {
	if strings.Contains(m.Signature, "\n") {
		return ErrUnsigned
	}
	var verifiers []note.Verifier
	for i, key := range keys {
		if slices.Contains(keys[:i], key) {
			continue // twice would be ambiguous
		}
		v, err := note.NewVerifier(key)
		if err != nil {
			return fmt.Errorf("snapshot: verifier key: %w", err)
		}
		verifiers = append(verifiers, v)
	}
	text := m.Text()
	n, err := note.Open([]byte(text+"\n"+m.Signature+"\n"), note.VerifierList(verifiers...))
	if err != nil || n.Text != text {
		return ErrUnsigned
	}
	return nil
}
