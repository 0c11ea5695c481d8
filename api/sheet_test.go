package api

import (
	"strings"
	"testing"
	"time"
)

func TestHarmless(t *testing.T) {
	for text, want := range map[string]string{
		"":                 "",
		"Zapier":           "Zapier",
		"a=b":              "a=b",
		"0.5":              "0.5",
		"kl_live_…a1B2":    "kl_live_…a1B2",
		"=1+1":             "'=1+1",
		"+491234":          "'+491234",
		"-1":               "'-1",
		"@SUM(A1)":         "'@SUM(A1)",
		" =1+1":            "' =1+1",
		"\u00a0=1+1":       "'\u00a0=1+1",
		"\t=1+1":           "'\t=1+1",
		"\r=1+1":           "'\r=1+1",
		"\n=1+1":           "'\n=1+1",
		"＝1+1":             "'＝1+1",
		"＠SUM(A1)":         "'＠SUM(A1)",
		"# end of report":  "'# end of report",
		"' or 1=1":         "' or 1=1",
		"   ":              "   ",
		"=cmd|' /C calc'!": "'=cmd|' /C calc'!",
	} {
		if got := harmless(text); got != want {
			t.Errorf("%q is written as %q, want %q", text, got, want)
		}
	}
}

func TestCSVSheet(t *testing.T) {
	at := time.Date(2026, 11, 21, 12, 30, 0, 5000, time.FixedZone("", 3600))
	var b strings.Builder
	s, err := newCSV(&b, "report", "dormant organization=acme", []string{"a", "b", "c", "d", "e", "f"})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range [][]any{
		{"x,y", []string{"a:b", "c:*"}, int64(-3), true, &at, nil},
		{"two\nlines \"quoted\"", []string{}, int64(0), false, (*time.Time)(nil), map[string]int{"n": 1}},
	} {
		if err := s.row(row); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.end(); err != nil {
		t.Fatal(err)
	}
	want := "# keyledger report dormant organization=acme\r\na,b,c,d,e,f\r\n" +
		"\"x,y\",a:b c:*,-3,true,2026-11-21T11:30:00.000005Z,\r\n" +
		"\"two\r\nlines \"\"quoted\"\"\",,0,false,,\"{\"\"n\"\":1}\"\r\n# end of report: 2 rows\r\n"
	if b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}
