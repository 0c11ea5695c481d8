package asof

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The second implementation. It reads stored bodies as anybody would who has only
// the documents: CloudEvents, as maps, folded anew for every question. It imports
// nothing of ours, and must not.

// object is a JSON object.
type object = map[string]any

// stored is one event: its position, the broker's time, and its body.
type stored struct {
	position uint64
	at       time.Time
	body     object
}

func parse(position uint64, at time.Time, raw []byte) stored {
	var body object
	if err := json.Unmarshal(raw, &body); err != nil {
		panic(fmt.Sprintf("the body at %d is no JSON: %v", position, err))
	}
	return stored{position, at, body}
}

func text(o object, name string) string { s, _ := o[name].(string); return s }

func number(o object, name string) int { n, _ := o[name].(float64); return int(n) }

func sub(o object, name string) object { m, _ := o[name].(object); return m }

func list(o object, name string) (out []string) {
	all, _ := o[name].([]any)
	for _, v := range all {
		s, _ := v.(string)
		out = append(out, s)
	}
	return out
}

// place takes a subject apart: ledger.<partition>.<org>.<aggregate>.<id>.
func (s stored) place() (org, aggregate, id string) {
	parts := strings.Split(text(s.body, "subject"), ".")
	return parts[2], parts[3], parts[4]
}

func (s stored) kind() string {
	return strings.TrimPrefix(text(s.body, "type"), "keyledger.")
}

// naiveKey is a key as the events tell it.
type naiveKey struct {
	org, id, kind, name, profile string
	digest                       string
	permissions, scope           object
	metadata                     object
	external, from, to           string
	expires, grace               string
	revokedAt, revokedFor        string
	created                      uint64

	disabled, expired, revoked, closed bool
}

type naiveOrg struct {
	exists, closed bool
	// over is when the organization was deleted, and why.
	over, why  string
	ended      bool
	catalog    []any
	workspaces map[string]bool
}

// world is everything at one position.
type world struct {
	orgs      map[string]*naiveOrg
	keys      map[string]*naiveKey // by id
	early     map[string]stored    // revocations of keys yet to come
	revisions map[string]int       // by subject
	owners    map[string]string    // of digests
}

func newWorld() *world {
	return &world{
		orgs: map[string]*naiveOrg{}, keys: map[string]*naiveKey{}, early: map[string]stored{}, revisions: map[string]int{}, owners: map[string]string{},
	}
}

func fold(past []stored) *world {
	w := newWorld()
	for _, s := range past {
		w.apply(s)
	}
	return w
}

// folds folds every length of one past, each once and from its beginning.
func folds() func(past []stored) *world {
	known := map[int]*world{}
	return func(past []stored) *world {
		if known[len(past)] == nil {
			known[len(past)] = fold(past)
		}
		return known[len(past)]
	}
}

func (w *world) org(id string) *naiveOrg {
	if w.orgs[id] == nil {
		// The installation's own was there before the first event.
		w.orgs[id] = &naiveOrg{workspaces: map[string]bool{}, exists: id == "_system"}
	}
	return w.orgs[id]
}

func (w *world) apply(s stored) {
	subject := text(s.body, "subject")
	// A reader refuses what is not the next revision: an old event changes nothing.
	if number(s.body, "revision") != w.revisions[subject]+1 {
		return
	}
	w.revisions[subject]++
	org, aggregate, id := s.place()
	o, data := w.org(org), sub(s.body, "data")
	switch aggregate {
	case "key", "revoked":
		if id == "_all" {
			o.ended, o.over, o.why = true, text(s.body, "time"), text(s.body, "reason")
			return
		}
		w.applyKey(org, id, s, data)
		return
	case "tick", "credential", "installation":
		return
	}
	switch s.kind() {
	case "organization.created.v1":
		o.exists = true
	case "workspace.created.v1":
		o.workspaces[id] = true
	case "workspace.deleted.v1":
		o.workspaces[id] = false
	case "catalog.replaced.v1":
		o.catalog, _ = data["permissions"].([]any)
	case "organization.renamed.v1", "organization.plan_changed.v1", "organization.limits_changed.v1", "organization.policy_changed.v1",
		"workspace.renamed.v1", "profile.created.v1", "profile.renamed.v1", "profile.settings_changed.v1", "profile.deleted.v1", "quota.changed.v1":
	default:
		// Of an unknown kind that bears on verdicts nobody knows whose.
		if bears, _ := s.body["bearsonverdict"].(bool); bears {
			o.closed = true
		}
	}
}

func (w *world) applyKey(org, id string, s stored, data object) {
	k := w.keys[id]
	if k == nil {
		switch s.kind() {
		case "key.created.v1":
			k = w.created(org, id, s, data)
			w.keys[id] = k
			if end, ok := w.early[id]; ok {
				k.end(end)
			}
		case "key.revoked.v1":
			w.early[id] = s
		}
		return
	}
	switch s.kind() {
	case "key.renamed.v1":
		k.name = text(data, "name")
	case "key.permissions_changed.v1":
		k.permissions = sub(data, "permissions")
	case "key.scope_changed.v1":
		k.scope = sub(data, "scope")
	case "key.profile_changed.v1":
		k.profile = text(data, "profile")
	case "key.metadata_changed.v1":
		k.metadata = sub(data, "metadata")
	case "key.disabled.v1":
		k.disabled = true
	case "key.enabled.v1":
		k.disabled = false
	case "key.expiry_changed.v1":
		k.expires = text(data, "expires_at")
	case "key.rotated.v1":
		k.grace, k.to = text(data, "grace_ends_at"), text(data, "successor")
	case "key.grace_changed.v1":
		k.grace = text(data, "grace_ends_at")
	case "key.expired.v1":
		k.expired = true
	case "key.revoked.v1":
		k.end(s)
	case "key.expiring.v1", "key.rotation_due.v1", "key.new_source.v1", "key.denials_spike.v1":
	default:
		if bears, _ := s.body["bearsonverdict"].(bool); bears {
			k.closed = true
		}
	}
}

func (w *world) created(org, id string, s stored, data object) *naiveKey {
	k := &naiveKey{
		org: org, id: id, kind: text(data, "kind"), name: text(data, "name"), profile: text(data, "profile"),
		permissions: sub(data, "permissions"), scope: sub(data, "scope"), metadata: sub(data, "metadata"),
		external: text(data, "external_id"), from: text(data, "rotated_from"), expires: text(data, "expires_at"), created: s.position,
	}
	d := sub(data, "digest")
	k.digest = text(d, "alg") + "/" + text(d, "pepper_id") + "/" + text(d, "value")
	// A digest imported twice belongs to its first position.
	if w.owners[k.digest] == "" {
		w.owners[k.digest] = id
	}
	return k
}

func (k *naiveKey) end(s stored) {
	k.revoked, k.revokedAt, k.revokedFor = true, text(s.body, "time"), text(s.body, "reason")
}

// passed reports whether an instant that may be none has come; whole seconds
// count.
func passed(text string, now time.Time) bool {
	if text == "" {
		return false
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err)
	}
	return now.Unix() >= t.Unix()
}

// status is the key's place in its life, its organization's end included.
func (w *world) status(k *naiveKey, now time.Time) string {
	switch {
	case k.revoked || w.orgs[k.org].ended:
		return "REVOKED"
	case k.expired || passed(k.expires, now) || passed(k.grace, now):
		return "EXPIRED"
	case k.disabled:
		return "INACTIVE"
	}
	return "ACTIVE"
}

// may reports whether the catalog has a permission and the key has it.
func (w *world) may(k *naiveKey, permission string) bool {
	for _, entry := range w.orgs[k.org].catalog {
		p, _ := entry.(object)
		if text(p, "name") != permission {
			continue
		}
		switch text(k.permissions, "level") {
		case "all":
			return true
		case "read_only":
			return text(p, "access") == "read"
		case "restricted":
			resource, _, _ := strings.Cut(permission, ":")
			granted := list(k.permissions, "grants")
			return slices.Contains(granted, permission) || slices.Contains(granted, resource+":*")
		}
	}
	return false
}

// covers reports whether a workspace lives and lies in the key's scope.
func (w *world) covers(k *naiveKey, workspace string) bool {
	everywhere, _ := k.scope["all_workspaces"].(bool)
	return w.orgs[k.org].workspaces[workspace] && (everywhere || slices.Contains(list(k.scope, "workspaces"), workspace))
}

// verdict answers a question about a key: the codes of the documents, in their
// order.
func (w *world) verdict(id, permission, workspace string, now time.Time) string {
	k := w.keys[id]
	if k == nil || w.owners[k.digest] != id {
		return "NOT_FOUND"
	}
	o := w.orgs[k.org]
	everywhere, _ := k.scope["all_workspaces"].(bool)
	somewhere := everywhere || slices.ContainsFunc(list(k.scope, "workspaces"), func(id string) bool { return o.workspaces[id] })
	switch {
	case k.revoked || o.ended:
		return "REVOKED"
	case k.closed || o.closed || !o.exists:
		return "UNAVAILABLE"
	case w.status(k, now) == "EXPIRED":
		return "EXPIRED"
	case k.disabled:
		return "INACTIVE"
	case k.kind != "api":
		return "INSUFFICIENT_PERMISSIONS"
	case permission != "" && !w.may(k, permission):
		return "INSUFFICIENT_PERMISSIONS"
	case workspace != "" && !w.covers(k, workspace), !somewhere:
		return "OUT_OF_SCOPE"
	}
	return "VALID"
}

// made is the position of the event that made an answer what it is at the end of
// a past: the last one with which it changed. Events that were appended as one
// are one change: if it left the answer as it was, nothing in it made it so.
func made(past []stored, answer func(past []stored) string) uint64 {
	answers := []string{answer(nil)}
	for n := range past {
		answers = append(answers, answer(past[:n+1]))
	}
	by, from := uint64(0), 0
	for n := 1; n <= len(past); n++ {
		if n < len(past) && together(past[n-1], past[n]) {
			continue // not at the end of it yet
		}
		if answers[n] != answers[from] {
			for m := n; m > from; m-- {
				if answers[m] != answers[m-1] {
					by = past[m-1].position
					break
				}
			}
		}
		from = n
	}
	return by
}

// together reports whether an event was appended as one with the one before it.
func together(before, s stored) bool {
	size := number(s.body, "batchsize")
	return size > 0 && number(before.body, "batchsize") == size && number(s.body, "batchindex") == number(before.body, "batchindex")+1 &&
		s.position == before.position+1
}
