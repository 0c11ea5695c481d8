// Package console is what a browser shows at the server's root. In this version
// it is one page that says what the server is and where its API is described;
// it needs no script, no key, and no other host.
package console

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"net/http"
)

//go:embed start.html
var startHTML string

// policy lets the page load nothing but its own style.
const policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// New returns the page for a version of the program.
func New(version string) (http.Handler, error) {
	t, err := template.New("start").Parse(startHTML)
	if err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	var page bytes.Buffer
	if err := t.Execute(&page, struct{ Version string }{version}); err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", policy)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = w.Write(page.Bytes())
	}), nil
}
