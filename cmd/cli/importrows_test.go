package cli

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// Whatever stands in a file, each row has a line of the file, and either a digest
// or a fault that repeats nothing of it.
func FuzzReadImport(f *testing.F) {
	for _, text := range []string{
		"", "\xef\xbb\xbf", "digest\n", "digest,name\r\nab,x\r\n\r\n,y\r\n", "digest;name\nab;x;z\n", "\"digest\"\t\"metadata.Team\"\na\tb",
		"digest,digest\n", "colour\nred", "digest\n\"a", "[", "[]", "[{}]", "[{\"digest\":{\"value\":\"x\"}}] x", "{\"digest\":{\"value\":\"x\"}}\n{\"a\":1}\n{",
		"{\n\"digest\":{\"value\":\"x\"}}\n{\n}", "[1,\n{\"name\":7},\"x\"]", "\xff\xfed\x00",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		rows, err := readImport(text)
		if err != nil {
			return
		}
		last := 0
		for _, r := range rows {
			if r.line < last || r.line > 1+bytes.Count(text, []byte("\n")) {
				t.Fatalf("line %d behind %d", r.line, last)
			}
			last = r.line
			if (r.key.Digest.Value == "") && r.fault == "" {
				t.Fatalf("line %d has neither a digest nor a fault", r.line)
			}
		}
		if len(rows) == 0 {
			t.Fatal("nothing was read, and nothing said")
		}
	})
}

func TestReadALargeImport(t *testing.T) {
	const n = 100_000
	var text strings.Builder
	text.WriteString("digest,name,metadata.Team\r\n")
	for i := range n {
		fmt.Fprintf(&text, "%064x,\"key, %d\",a\r\n", i+1, i)
	}
	rows, err := readImport([]byte(text.String()))
	if err != nil || len(rows) != n || rows[n-1].line != n+1 || rows[n-1].key.Name != "key, 99999" || rows[0].key.Metadata["Team"] != "a" || rows[7].fault != "" {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
}
