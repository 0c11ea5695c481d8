package client_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/client"
	"github.com/keyledger/keyledger/api/wire"
)

func TestReportsAndExports(t *testing.T) {
	s := apitest.Start(t)
	c, ctx := connect(t, s), t.Context()
	if _, err := c.CreateOrganization(ctx, wire.CreateOrganization{ID: "acme", Name: "Acme"}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"one", "two"} {
		if _, err := c.CreateKey(ctx, "acme", wire.CreateKey{Name: name, Kind: "management", Role: "auditor", Scope: &wire.Scope{AllWorkspaces: true}}); err != nil {
			t.Fatal(err)
		}
	}
	days := 0
	q := client.ReportQuestion{Days: &days, Page: client.Page{Limit: 1}}
	first := check[wire.Report](t)(c.Report(ctx, "acme", "dormant", q))
	q.Cursor = first.NextCursor
	second := check[wire.Report](t)(c.Report(ctx, "acme", "dormant", q))
	if len(first.Rows) != 1 || len(second.Rows) != 1 || first.Rows[0]["name"] != "one" || second.Rows[0]["name"] != "two" || second.NextCursor != "" {
		t.Errorf("%+v, then %+v", first, second)
	}
	if r := check[wire.Report](t)(c.Report(ctx, "acme", "changes", client.ReportQuestion{To: time.Unix(1e9, 0)})); len(r.Rows) != 0 || r.Parameters.To == nil {
		t.Errorf("%+v", r)
	}
	var p *client.Problem
	if _, err := c.Report(ctx, "acme", "..", client.ReportQuestion{}); !errors.As(err, &p) || p.Code != "not_found" {
		t.Error(err)
	}
	var sheet, page, all bytes.Buffer
	if err := errors.Join(
		c.ReportFile(ctx, "acme", "access-review", "csv", client.ReportQuestion{}, &sheet),
		c.ReportFile(ctx, "acme", "access-review", "html", client.ReportQuestion{}, &page),
		c.Export(ctx, "acme", client.ExportQuestion{}, &all),
	); err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(sheet.String(), "# end of report: 2 rows\r\n") || !strings.HasSuffix(strings.TrimSpace(page.String()), "</html>") ||
		strings.Count(all.String(), "\n") != 3 {
		t.Errorf("%s\n%s\n%s", &sheet, &page, &all)
	}
	if err := c.Export(ctx, "acme", client.ExportQuestion{Format: "xml"}, io.Discard); !errors.As(err, &p) || p.Field != "format" {
		t.Error(err)
	}
	full := errors.New("full")
	if err := c.Export(ctx, "acme", client.ExportQuestion{}, writer(func([]byte) (int, error) { return 0, full })); !errors.Is(err, full) {
		t.Error(err)
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// TestDownloadThatBreaks is an error, though what came of it looks like an answer.
func TestDownloadThatBreaks(t *testing.T) {
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "# keyledger report\r\n")
		_ = http.NewResponseController(w).Flush()
		_ = http.NewResponseController(w).SetWriteDeadline(time.Unix(1, 0))
	}))
	defer front.Close()
	c, err := client.New(client.Config{URL: front.URL})
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	err = c.ReportFile(t.Context(), "acme", "dormant", "csv", client.ReportQuestion{}, &got)
	if err == nil || !strings.Contains(err.Error(), "not whole") || got.Len() == 0 {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
}
