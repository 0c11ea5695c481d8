package sqlview

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"fmt"
	"hash"

	"github.com/keyledger/keyledger/events"
)

// Digest returns a hash of what queries give, and the position at which they
// gave it. Two files with the same rows have the same digest, whatever way they
// came by them; the queries must order their rows by a key.
func (db *DB) Digest(ctx context.Context, queries ...string) (events.Position, [sha256.Size]byte, error) {
	var pos int64
	h := sha256.New()
	err := db.Snapshot(ctx, func(tx *sql.Tx) error {
		if err := tx.QueryRowContext(ctx, `SELECT position FROM view`).Scan(&pos); err != nil {
			return err
		}
		for i, q := range queries {
			if err := digest(ctx, h, tx, i, q); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, [sha256.Size]byte{}, fmt.Errorf("sqlview: digest of %s: %w", db.cfg.Name, err)
	}
	return events.Position(pos), [sha256.Size]byte(h.Sum(nil)), nil
}

func digest(ctx context.Context, h hash.Hash, tx *sql.Tx, table int, query string) error {
	rows, err := tx.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	values, refs := make([]any, len(columns)), make([]any, len(columns))
	for i := range values {
		refs[i] = &values[i]
	}
	var buf []byte
	for rows.Next() {
		if err := rows.Scan(refs...); err != nil {
			return err
		}
		// Every value is written with its type and length: no two rows look
		// alike that are not.
		buf = binary.AppendUvarint(buf[:0], uint64(table))
		for _, v := range values {
			switch v := v.(type) {
			case nil:
				buf = append(buf, 0)
			case int64:
				buf = binary.AppendVarint(append(buf, 1), v)
			case string:
				buf = append(binary.AppendUvarint(append(buf, 2), uint64(len(v))), v...)
			case []byte:
				buf = append(binary.AppendUvarint(append(buf, 3), uint64(len(v))), v...)
			default:
				return fmt.Errorf("column of type %T", v)
			}
		}
		h.Write(buf)
	}
	return rows.Err()
}
