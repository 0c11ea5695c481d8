package deny

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/keyledger/keyledger/events"
)

// answer is what a service is told about a key.
type answer struct {
	Denied bool    `json:"denied"`
	Denial *Denial `json:"denial,omitempty"`
	// AsOf is when the list was last known to be complete.
	AsOf *time.Time `json:"as_of,omitempty"`
}

// status is what an operator is told about the list.
type status struct {
	UpToDate bool       `json:"up_to_date"`
	AsOf     *time.Time `json:"as_of,omitempty"`
	Pending  uint64     `json:"pending"`
	Denied   int        `json:"denied"`
	SetAside int        `json:"set_aside"`
}

// Handler answers
//
//	GET /organizations/{org}/keys/{key}   200 {"denied": …}; 503 when the key is not
//	                                      on the list and the list may lack some
//	GET /status                           200, or 503 while the list may lack some
//
// The list may lack some when it was not known to be complete within maxAge.
func (f *Follower) Handler(maxAge time.Duration) http.Handler {
	mux := http.NewServeMux()
	fresh := func() (*time.Time, uint64, bool) {
		at, pending := f.Current()
		if at.IsZero() {
			return nil, pending, false
		}
		utc := at.UTC()
		return &utc, pending, time.Since(at) <= maxAge
	}
	mux.HandleFunc("GET /organizations/{org}/keys/{key}", func(w http.ResponseWriter, r *http.Request) {
		org, err := events.ParseOrgID(r.PathValue("org"))
		key, err2 := events.ParseKeyID(r.PathValue("key"))
		if err != nil || err2 != nil {
			http.Error(w, "the path names no key", http.StatusBadRequest)
			return
		}
		if d, denied := f.config.List.Denied(org, key); denied {
			reply(w, http.StatusOK, answer{Denied: true, Denial: &d})
			return
		}
		at, _, ok := fresh()
		if !ok {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "the key is not on the list, and the list may not be up to date", http.StatusServiceUnavailable)
			return
		}
		reply(w, http.StatusOK, answer{AsOf: at})
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		var s status
		s.AsOf, s.Pending, s.UpToDate = fresh()
		s.Denied, s.SetAside = f.config.List.Size()
		code := http.StatusOK
		if !s.UpToDate {
			code = http.StatusServiceUnavailable
		}
		reply(w, code, s)
	})
	return mux
}

func reply(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	// A client that has gone is nobody to tell.
	_ = json.NewEncoder(w).Encode(v)
}
