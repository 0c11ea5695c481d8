package providertest

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/keyledger/keyledger/events"
)

// keyHeader is where each provider wants the key.
var keyHeader = map[events.ProviderID]string{
	events.ProviderOpenAI:           "Authorization",
	events.ProviderAnthropic:        "X-Api-Key",
	events.ProviderGoogle:           "X-Goog-Api-Key",
	events.ProviderMistral:          "Authorization",
	events.ProviderCohere:           "Authorization",
	events.ProviderAzureOpenAI:      "Api-Key",
	events.ProviderOpenAICompatible: "Authorization",
}

// ServeHTTP is the provider that a path stands for.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for _, base := range []string{publicBase, openBase, unlistedBase} {
		if path, ok := strings.CutPrefix(r.URL.Path, base); ok {
			s.serveGateway(base, path, w, r)
			return
		}
	}
	for p, base := range bases {
		if path, ok := strings.CutPrefix(r.URL.Path, base); ok {
			s.serve(p, path, w, r)
			return
		}
	}
	http.NotFound(w, r)
}

// serveGateway is an OpenAI-compatible server that is not like OpenAI in whom it
// shows what.
func (s *Server) serveGateway(base, path string, w http.ResponseWriter, r *http.Request) {
	p := events.ProviderOpenAICompatible
	key := keyOf(p, r)
	c := s.note(p, r, key)
	switch {
	case r.Method == http.MethodGet && path == "/models" && base != unlistedBase:
		writeJSON(w, http.StatusOK, list(p, Models(p), r, 0))
	case r.Method != http.MethodPost || path != "/chat/completions":
		writeJSON(w, http.StatusNotFound, map[string]any{"error": map[string]any{"message": "Not Found", "code": 404}})
	case base == openBase || c == Works:
		writeText(w, http.StatusBadRequest, `{"error":{"message":"Input required: specify messages","code":400}}`)
	case key == "":
		writeText(w, http.StatusUnauthorized, `{"error":{"message":"No auth credentials found","code":401}}`)
	default:
		s.answer(p, c, key, path, w, r)
	}
}

func (s *Server) serve(p events.ProviderID, path string, w http.ResponseWriter, r *http.Request) {
	key := keyOf(p, r)
	c := s.note(p, r, key)
	switch {
	case c == NotFound, !isCall(p, path, r):
		writeJSON(w, http.StatusNotFound, map[string]any{"error": map[string]any{"code": "404", "message": "Resource not found"}})
	case p == events.ProviderAnthropic && r.Header.Get("anthropic-version") == "":
		writeText(w, http.StatusBadRequest, `{"type":"error","error":{"type":"invalid_request_error","message":"anthropic-version: header is required"}}`)
	default:
		s.answer(p, c, key, path, w, r)
	}
}

// keyOf returns the key of a request from where the provider wants it, or "".
func keyOf(p events.ProviderID, r *http.Request) string {
	value := r.Header.Get(keyHeader[p])
	if keyHeader[p] != "Authorization" {
		return value
	}
	if scheme, token, ok := strings.Cut(value, " "); ok && strings.EqualFold(scheme, "Bearer") {
		return token
	}
	return ""
}

// isCall reports whether a request is one of those that the provider documents.
func isCall(p events.ProviderID, path string, r *http.Request) bool {
	switch p {
	case events.ProviderCohere:
		return r.Method == http.MethodPost && path == "/check-api-key" || r.Method == http.MethodGet && path == "/models"
	case events.ProviderAzureOpenAI:
		return r.Method == http.MethodGet && path == "/openai/models" && r.URL.Query().Get("api-version") != ""
	default:
		return r.Method == http.MethodGet && path == "/models"
	}
}

func (s *Server) answer(p events.ProviderID, c Condition, key, path string, w http.ResponseWriter, r *http.Request) {
	switch c {
	case Works:
		write(w, p, path, r, Models(p), 0)
	case FewModels:
		write(w, p, path, r, Models(p)[:1], 0)
	case Paged:
		write(w, p, path, r, Models(p), 1)
	case Gzip:
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		write(headed{w, z}, p, path, r, Models(p), 0)
		_ = z.Close() // The client may have gone.
	case Echo:
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+key+`"`)
		w.Header().Set("X-Request-Key", key)
		writeJSON(w, http.StatusUnauthorized, map[string]any{"error": map[string]any{"message": "Unknown key " + key, "code": key, "type": key}, "message": key, "detail": key})
	case Vague:
		w.WriteHeader(http.StatusUnauthorized)
	case ForbiddenFor401:
		writeText(w, forbidden.status, forbidden.body)
	case ErrorIn200:
		writeText(w, http.StatusOK, forbidden.body)
	case HTMLPage:
		writePage(w, http.StatusOK)
	case HTMLError:
		writePage(w, http.StatusForbidden)
	case Garbage:
		writeText(w, http.StatusOK, `{"hello":"world"}`)
	case Redirected:
		http.Redirect(w, r, "https://elsewhere.example.com/?key="+key, http.StatusTemporaryRedirect)
	case Dropped:
		w.Header().Set("Content-Length", "100000")
		writeText(w, http.StatusOK, `{"data":[`)
	case Slow:
		s.wait(r)
	case Endless:
		s.pour(w, r)
	default:
		writeReply(w, p, c, key)
	}
}

// wait waits until the caller goes, or the server does.
func (s *Server) wait(r *http.Request) {
	select {
	case <-r.Context().Done():
	case <-s.done:
	}
}

// pour writes until nobody reads any more.
func (s *Server) pour(w http.ResponseWriter, r *http.Request) {
	block := []byte(strings.Repeat(" ", 64<<10))
	for r.Context().Err() == nil {
		if _, err := w.Write(block); err != nil {
			return
		}
		select {
		case <-s.done:
			return
		default:
		}
	}
}

func writeReply(w http.ResponseWriter, p events.ProviderID, c Condition, key string) {
	re, ok := replies[p][c]
	if !ok {
		re = replies[p][Unknown]
	}
	if re.retryAfter != "" {
		w.Header().Set("Retry-After", re.retryAfter)
	}
	masked := "***"
	if len(key) > 12 {
		masked = key[:8] + strings.Repeat("*", len(key)-12) + key[len(key)-4:]
	}
	writeText(w, re.status, strings.NewReplacer("{key}", key, "{masked}", masked).Replace(re.body))
}

// write answers a key that works. Cohere's check says so without a list.
func write(w http.ResponseWriter, p events.ProviderID, path string, r *http.Request, models []string, most int) {
	if path == "/check-api-key" {
		writeText(w, http.StatusOK, `{"valid":true,"organization_id":"1","owner_id":"2"}`)
		return
	}
	writeJSON(w, http.StatusOK, list(p, models, r, most))
}

// list is one page of a provider's models, of at most so many; 0 is as many as the
// request wants.
func list(p events.ProviderID, models []string, r *http.Request, most int) any {
	query := r.URL.Query()
	switch p {
	case events.ProviderAnthropic:
		page, more := cut(models, query.Get("after_id"), query.Get("limit"), most)
		return map[string]any{
			"data":     each(page, func(m string) any { return map[string]any{"type": "model", "id": m, "display_name": m} }),
			"has_more": more != "", "first_id": page[0], "last_id": page[len(page)-1],
		}
	case events.ProviderGoogle:
		page, more := cut(models, query.Get("pageToken"), query.Get("pageSize"), most)
		out := map[string]any{"models": each(page, func(m string) any {
			return map[string]any{"name": "models/" + m, "version": 1, "displayName": m, "supportedGenerationMethods": []string{"generateContent"}}
		})}
		if more != "" {
			out["nextPageToken"] = more
		}
		return out
	case events.ProviderCohere:
		page, more := cut(models, query.Get("page_token"), query.Get("page_size"), most)
		out := map[string]any{"models": each(page, func(m string) any { return map[string]any{"name": m, "endpoints": []string{"chat"}} }), "next_page_token": nil}
		if more != "" {
			out["next_page_token"] = more
		}
		return out
	case events.ProviderMistral:
		return map[string]any{"object": "list", "data": each(models, func(m string) any {
			alias := m[:strings.LastIndexByte(m, '-')] + "-latest"
			return map[string]any{"id": m, "object": "model", "name": m, "aliases": []string{alias}, "capabilities": map[string]any{"completion_chat": true}}
		})}
	case events.ProviderAzureOpenAI:
		return map[string]any{"object": "list", "data": each(models, func(m string) any {
			return map[string]any{"status": "succeeded", "id": m, "object": "model", "lifecycle_status": "generally-available", "capabilities": map[string]any{"inference": true}}
		})}
	default:
		return map[string]any{"object": "list", "data": each(models, func(m string) any {
			return map[string]any{"id": m, "object": "model", "created": 1686935002, "owned_by": "system"}
		})}
	}
}

// cut returns the page after a model, and the last of it when there is more.
func cut(models []string, after, size string, most int) (page []string, more string) {
	page = models[slices.Index(models, after)+1:]
	n, err := strconv.Atoi(size)
	if err != nil || n <= 0 {
		n = len(page)
	}
	if most > 0 {
		n = min(n, most)
	}
	if n < len(page) {
		return page[:n], page[n-1]
	}
	return page, ""
}

func each(models []string, entry func(string) any) []any {
	all := make([]any, len(models))
	for i, m := range models {
		all[i] = entry(m)
	}
	return all
}

// headed sends headers one way and the body another.
type headed struct {
	http.ResponseWriter
	body io.Writer
}

func (h headed) Write(p []byte) (int, error) { return h.body.Write(p) }

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // The client may have gone.
}

func writeText(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body) // The client may have gone.
}

func writePage(w http.ResponseWriter, status int) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, "<!DOCTYPE html><html><head><title>Attention Required!</title></head><body>Sign in to the network to go on.</body></html>") // The client may have gone.
}
