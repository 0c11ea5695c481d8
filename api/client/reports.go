package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/keyledger/keyledger/api/wire"
)

// ReportQuestion says what a report is asked with; what it does not take the
// server refuses.
type ReportQuestion struct {
	// Days is how long a key was unused, or how old it is at least; nil is the
	// report's own.
	Days *int
	// From and To are the period of a report of one.
	From, To time.Time
	Page
}

func (q ReportQuestion) option(r *request) {
	if q.Days != nil {
		r.query.Set("days", strconv.Itoa(*q.Days))
	}
	period(r.query, q.From, q.To)
	q.apply(r.query)
}

func period(q url.Values, from, to time.Time) {
	set(q, "from", instant(from))
	set(q, "to", instant(to))
}

// Report answers a page of a report, such as access-review or dormant.
func (c *Client) Report(ctx context.Context, org, report string, q ReportQuestion) (wire.Report, error) {
	return call[wire.Report](ctx, c, "GET", path("organizations", org, "audit")+"/reports/"+segment(report), nil, q.option)
}

// ReportFile writes all of a report: format is csv, or html for a page to print. An
// error says that what was written is not whole.
func (c *Client) ReportFile(ctx context.Context, org, report, format string, q ReportQuestion, to io.Writer) error {
	r := &request{method: http.MethodGet, path: path("organizations", org, "audit") + "/reports/" + segment(report), query: url.Values{}, header: http.Header{}}
	q.option(r)
	r.query.Set("format", format)
	return c.download(ctx, r, to)
}

// download writes an answer of any length.
func (c *Client) download(ctx context.Context, r *request, to io.Writer) error {
	res, err := c.open(ctx, r, maxAnswer)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	from := &broken{r: res.Body}
	if _, err := io.Copy(to, from); err != nil {
		if from.err != nil {
			return &transportError{fmt.Errorf("what came is not whole: %w", from.err)}
		}
		return fmt.Errorf("client: write what came: %w", err)
	}
	return nil
}

// broken remembers the error of a connection, to tell it from that of whoever is
// written to.
type broken struct {
	r   io.Reader
	err error
}

func (b *broken) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil && err != io.EOF { //nolint:errorlint // io.EOF is never wrapped by a body.
		b.err = err
	}
	return n, err
}

// ExportQuestion says what of the changes is exported; its zero value is all of an
// organization.
type ExportQuestion struct {
	// Format is jsonl, which it is unless given, or csv.
	Format string
	// From and To want what was stored within [From, To).
	From, To time.Time
	// After wants what comes after a position.
	After string
	// AllOrganizations wants those of every organization: ask it of _system.
	AllOrganizations bool
}

// Export writes the changes of an organization, the oldest first. An error says
// that what was written is not whole.
func (c *Client) Export(ctx context.Context, org string, q ExportQuestion, to io.Writer) error {
	r := &request{method: http.MethodGet, path: path("organizations", org, "audit") + "/export", query: url.Values{}, header: http.Header{}}
	period(r.query, q.From, q.To)
	set(r.query, "format", q.Format)
	set(r.query, "after", q.After)
	flag(r.query, "all", q.AllOrganizations)
	return c.download(ctx, r, to)
}
