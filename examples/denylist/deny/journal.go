package deny

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
)

// journal is a file of JSON lines that only grows. What append returned nil for is
// on disk.
type journal struct {
	file *os.File
	size int64
}

// openJournal opens a file, makes it if need be, and hands its lines to each. A
// last line without its end was never answered for, and goes.
func openJournal(path string, each func(line []byte) error) (*journal, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("deny: %w", err)
	}
	j := &journal{file: file}
	if err := j.read(each); err != nil {
		return nil, errors.Join(fmt.Errorf("deny: read %s: %w", path, err), file.Close())
	}
	return j, nil
}

func (j *journal) read(each func(line []byte) error) error {
	stored, err := os.ReadFile(j.file.Name())
	if err != nil {
		return err
	}
	whole := stored[:bytes.LastIndexByte(stored, '\n')+1]
	for line := range bytes.Lines(whole) {
		if err := each(line); err != nil {
			return err
		}
	}
	j.size = int64(len(whole))
	return j.cut()
}

// cut drops what lies behind the last whole line.
func (j *journal) cut() error { return j.file.Truncate(j.size) }

func (j *journal) append(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("deny: %w", err)
	}
	line = append(line, '\n')
	if _, err = j.file.WriteAt(line, j.size); err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		// Written in part, or nobody knows: the next line begins in the same place.
		return fmt.Errorf("deny: write %s: %w", j.file.Name(), errors.Join(err, j.cut()))
	}
	j.size += int64(len(line))
	return nil
}

func (j *journal) close() error { return j.file.Close() }
