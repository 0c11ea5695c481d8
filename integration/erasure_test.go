package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjetstream "github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/uses"
)

// What is known of a person here: it must be shown to the owner before the erasure,
// and be nowhere after it.
var (
	textsOfKey = []string{
		"Ada Lovelace of Ockham", "ada.lovelace@example.com", "4711 St James Square", "Augusta Ada Byron", "+44 20 7946 0815",
		"Ada asked for a key of her own", "Ada goes by another name now", "Ada is on leave until spring", "Ada left the company",
	}
	textsOfUses = []string{
		"2001:db8:ada:1815::1852", "203.0.113.181", "AdaBrowser/18.15 (analytical engine)", "AdaPhone/12.10", "/people/ada-lovelace/notes",
		"/people/ada-lovelace/letters", "request-of-ada-4711-a", "request-of-ada-4711-b",
	}
	textsOfActor = []string{"Charles Babbage wanted a workspace"}

	// textsOfAnother are of somebody who is not erased, and textsInClear of an
	// organization that has nothing sealed: what looks for texts must find these.
	textsOfAnother = []string{"Mary Somerville of Jedburgh", "198.51.100.177"}
	textsInClear   = []string{"Grace Hopper of Arlington", "Grace wrote a compiler", "192.0.2.199"}
)

// TestErasureLeavesNothingInClear has an organization seal its texts from the
// beginning, fills every view with what is known of a person, erases the person,
// and looks into every file and every message for what is left.
func TestErasureLeavesNothingInClear(t *testing.T) {
	t.Parallel()
	p := newErasure(t)
	erased := append(append(append([]string{}, textsOfKey...), textsOfUses...), textsOfActor...)
	sections := p.sections()
	before := whole(sections)
	for _, text := range append(append([]string{}, erased...), textsOfAnother...) {
		if !strings.Contains(before, text) {
			t.Errorf("the owner is not shown %q", text)
		}
	}
	// Each place shows what it is about by itself.
	for name, texts := range map[string][]string{
		"/keys/" + p.ada + "/history": textsOfKey, "/audit/events?limit=200": append(append([]string{}, textsOfKey...), textsOfActor...),
		"/keys/" + p.ada + "/uses": textsOfUses, "/audit/uses": textsOfUses, "/keys/" + p.ada + "/sources": textsOfUses[:2],
		"/v1/events": append(append([]string{}, textsOfKey...), textsOfActor...), "/keys/" + p.ada: {textsOfKey[3], textsOfKey[1], textsOfKey[2], textsOfKey[4], textsOfKey[8]},
		"keys history -o json " + p.ada: textsOfKey, "audit log -o csv": append(append([]string{}, textsOfKey...), textsOfActor...),
		"audit uses -o csv --key " + p.ada: textsOfUses,
	} {
		for _, text := range texts {
			if !strings.Contains(sections[name], text) {
				t.Errorf("%s does not show %q", name, text)
			}
		}
	}
	if strings.Contains(before, "(erased)") || strings.Contains(before, "(left out)") || strings.Contains(before, "(sealed)") {
		t.Errorf("before the erasure something is not shown:\n%s", around(before, "(erased)", "(left out)", "(sealed)"))
	}
	p.stop()
	stored := contents(t, p.data)
	// What is sealed is nowhere in clear at any time. What is not shows that the
	// search finds what is there.
	if found := p.search(stored, append(erased, textsOfAnother...)); len(found) > 0 {
		t.Errorf("in clear before the erasure: %q", found)
	}
	for _, text := range textsInClear {
		if found := p.search(stored, []string{text}); len(found) < 2 {
			t.Errorf("the search finds %q only in %q", text, found)
		}
	}

	p.start()
	for _, subject := range []string{"person-ada", p.actor} {
		a := p.must(200, p.owner, "POST", "/v1/organizations/acme/audit/erase", fmt.Sprintf(`{"subject":%q,"reason":"asked to be forgotten"}`, subject))
		if a.Get("keys_destroyed") != 1.0 {
			t.Errorf("erased: %s", a)
		}
	}
	p.gone("after the erasure", erased)
	p.stop()
	p.start()
	p.gone("after a restart", erased)
	p.stop()
	for _, view := range views(t, p.data) {
		if err := os.Remove(view); err != nil {
			t.Fatal(err)
		}
	}
	p.start()
	p.gone("after the views were made anew", erased)
	p.stop()

	left := contents(t, p.data)
	if found := p.search(left, append(erased, textsOfAnother...)); len(found) > 0 {
		t.Errorf("in clear after the erasure: %q", found)
	}
	for name, digest := range stored.messages {
		if strings.HasPrefix(name, "LEDGER ") || strings.HasPrefix(name, "USES ") {
			if left.messages[name] != digest {
				t.Errorf("%s is not what it was", name)
			}
		}
	}
	p.destroyed(stored, left)
	if found := p.search(content{files: map[string][]byte{"the log": []byte(p.said)}}, append(erased, textsOfAnother...)); len(found) > 0 {
		t.Errorf("the log tells %q", found)
	}
}

// erasure is the story that a person is erased in, on one data folder.
type erasure struct {
	*server
	owner string
	// ada is the key whose data subject is erased, mary another's, grace one of an
	// organization that has nothing sealed.
	ada, mary, grace string
	// actor is the id of the owner's key, the data subject of reasons.
	actor string
	// said is what all runs logged.
	said string
}

func newErasure(t *testing.T) *erasure {
	t.Helper()
	p := &erasure{server: &server{t: t, data: t.TempDir()}}
	p.start()
	p.owner = p.server.owner()
	p.actor = p.must(200, p.owner, "GET", "/v1/whoami", "").Text("key_id")
	p.organization(p.owner, "acme", `,"policy":{"sealing":"on"}`)
	p.organization(p.owner, "open", "")
	p.must(201, p.owner, "POST", "/v1/organizations/acme/workspaces", `{"id":"sales","name":"Sales"}`, "Keyledger-Reason", textsOfActor[0])

	create := func(org, body string) (id, secret string) {
		a := p.must(201, p.owner, "POST", "/v1/organizations/"+org+"/keys", body)
		return a.Text("key.id"), a.Text("secret")
	}
	ada, secret := create("acme", `{"name":"Ada Lovelace of Ockham","external_id":"ada.lovelace@example.com","metadata":{"address":"4711 St James Square"},
		"data_subject":"person-ada","permissions":["interview:read"],"scope":{"all_workspaces":true},"reason":"Ada asked for a key of her own"}`)
	p.ada = ada
	p.use(secret, textsOfUses)
	key := "/v1/organizations/acme/keys/" + ada
	// Where a key is used from is told by its sealed texts; of a key that has ended
	// it is not told any more.
	p.until("a new source is told of", func() bool {
		return bytes.Contains(p.must(200, p.owner, "GET", key+"/history", "").Body, []byte("key.new_source"))
	})
	p.must(200, p.owner, "PATCH", key, `{"name":"Augusta Ada Byron","metadata":{"phone":"+44 20 7946 0815"},"reason":"Ada goes by another name now"}`)
	p.must(200, p.owner, "PATCH", key, `{"status":"INACTIVE"}`, "Keyledger-Reason", "Ada is on leave until spring")
	rotatable, _ := create("acme", `{"name":"Ada Lovelace of Ockham","data_subject":"person-ada","permissions":["interview:read"],"scope":{"all_workspaces":true}}`)
	p.must(201, p.owner, "POST", "/v1/organizations/acme/keys/"+rotatable+"/rotate", `{"grace":"1h"}`)
	p.must(200, p.owner, "POST", key+"/revoke", `{"reason":"Ada left the company"}`)

	p.mary, secret = create("acme", `{"name":"Mary Somerville of Jedburgh","permissions":["interview:read"],"scope":{"all_workspaces":true}}`)
	p.verify(secret, "request", "/", textsOfAnother[1], "curl/8")
	p.grace, secret = create("open", `{"name":"Grace Hopper of Arlington","permissions":["interview:read"],"scope":{"all_workspaces":true},"reason":"Grace wrote a compiler"}`)
	p.verify(secret, "request", "/", textsInClear[2], "curl/8")
	p.used()
	return p
}

// use uses a key by both doors, with the texts in their order.
func (p *erasure) use(secret string, texts []string) {
	p.t.Helper()
	p.verify(secret, texts[6], texts[4], texts[0], texts[2])
	a, err := p.ask(secret, "GET", "/v1/authorize", "", "X-Forwarded-Method", "GET", "X-Forwarded-Uri", texts[5], "X-Keyledger-Permission", "interview:read",
		"X-Forwarded-For", texts[1], "User-Agent", texts[3], "X-Request-Id", texts[7])
	if err != nil || a.Status != 200 {
		p.t.Fatal(a, err)
	}
}

func (p *erasure) verify(secret, request, path, ip, agent string) {
	p.t.Helper()
	a := p.must(200, p.owner, "POST", "/v1/verify", fmt.Sprintf(
		`{"secret":%q,"permission":"interview:read","context":{"request_id":%q,"method":"GET","path":%q,"client_ip":%q,"user_agent":%q}}`, secret, request, path, ip, agent))
	if code := a.Text("code"); code != "VALID" {
		p.t.Fatal(code)
	}
}

// used waits until the view of uses has them.
func (p *erasure) used() {
	p.t.Helper()
	p.until("all uses are shown", func() bool {
		n := 0
		for key, org := range map[string]string{p.ada: "acme", p.mary: "acme", p.grace: "open"} {
			items, _ := p.must(200, p.owner, "GET", "/v1/organizations/"+org+"/keys/"+key+"/uses", "").Get("items").([]any)
			n += len(items)
		}
		return n == 4
	})
}

// until waits until something is so.
func (p *erasure) until(what string, so func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("not in time: %s", what)
		}
	}
}

func (p *erasure) start() {
	p.t.Helper()
	data, t := p.data, p.t
	p.server = run(t, data, "127.0.0.1:0", append([]string{"--record-client-ip"}, alone...)...).awaitReady()
}

func (p *erasure) stop() {
	p.t.Helper()
	p.server.Stop()
	p.said += p.Logged()
}

// sections are everything that the owner is shown of the organization that seals, by
// where.
func (p *erasure) sections() map[string]string {
	p.t.Helper()
	out := map[string]string{"/v1/events": p.streamed()}
	now := time.Now().UTC().Format(time.RFC3339Nano)
	for _, path := range []string{
		"/keys?status=all", "/keys/" + p.ada, "/keys/" + p.mary, "/keys/" + p.ada + "?as_of=" + url.QueryEscape(now),
		"/keys/" + p.ada + "/history", "/audit/events?limit=200", "/audit/events?limit=200&key=" + p.ada,
		"/keys/" + p.ada + "/uses", "/keys/" + p.mary + "/uses", "/keys/" + p.ada + "/sources", "/audit/uses",
		"/audit/reports/access-review", "/audit/reports/changes", "/audit/reports/failed-verifications", "/audit/reports/access-review?format=html",
	} {
		out[path] = string(p.must(200, p.owner, "GET", "/v1/organizations/acme"+path, "").Body)
	}
	for _, command := range []string{
		"keys list --status all", "keys get " + p.ada, "keys history " + p.ada, "keys history -o json " + p.ada, "audit log", "audit log -o csv",
		"audit uses -o json", "audit uses -o csv --key " + p.ada, "audit as-of -o json --key " + p.ada + " --at " + now,
	} {
		out[command] = string(p.cli(command))
	}
	return out
}

// whole are all sections.
func whole(sections map[string]string) string {
	var out strings.Builder
	for name, text := range sections {
		fmt.Fprintf(&out, "%s\n%s\n", name, text)
	}
	return out.String()
}

// cli runs a command as the owner and returns what it shows.
func (p *erasure) cli(command string) []byte {
	p.t.Helper()
	cmd := exec.Command(binary, append(strings.Fields(command), "--org", "acme")...)
	cmd.Env = append(os.Environ(), "KEYLEDGER_URL="+p.url, "KEYLEDGER_KEY="+p.owner)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		p.t.Fatalf("%s: %v\n%s%s", command, err, out, said.Bytes())
	}
	return out
}

// streamed is what the stream of events sends of the organization from the beginning.
func (p *erasure) streamed() string {
	p.t.Helper()
	last := p.must(200, p.owner, "GET", "/v1/organizations/acme/audit/events?limit=1", "")
	items, _ := last.Get("items").([]any)
	end, _ := items[0].(map[string]any)["position"].(string)
	ctx, cancel := context.WithTimeout(p.t.Context(), 60*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", p.url+"/v1/events?after=0&organization=acme", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+p.owner)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	var out bytes.Buffer
	buf := make([]byte, 64<<10)
	for !bytes.Contains(out.Bytes(), []byte("id: "+end+"\nevent")) || !bytes.HasSuffix(out.Bytes(), []byte("\n\n")) {
		n, err := res.Body.Read(buf)
		out.Write(buf[:n])
		if err != nil {
			p.t.Fatalf("%v, after %s", err, out.Bytes())
		}
	}
	return out.String()
}

// exported is what an export holds.
func (p *erasure) exported() string {
	p.t.Helper()
	out := ""
	for _, format := range []string{"jsonl", "csv"} {
		out += string(p.must(200, p.owner, "GET", "/v1/organizations/acme/audit/export?format="+format, "").Body)
	}
	return out
}

// gone expects that nobody is shown what is erased, and that all else is there.
func (p *erasure) gone(when string, erased []string) {
	p.t.Helper()
	shown := whole(p.sections())
	for _, text := range erased {
		if strings.Contains(shown, text) {
			p.t.Errorf("%s the owner is shown %s", when, around(shown, text))
		}
	}
	for _, text := range append([]string{"(erased)", p.ada, "person-ada", "key.revoked", "key.new_source"}, textsOfAnother...) {
		if !strings.Contains(shown, text) {
			p.t.Errorf("%s the owner is not shown %q", when, text)
		}
	}
	if strings.Contains(shown, "(sealed)") || strings.Contains(shown, "(left out)") {
		p.t.Errorf("%s something else is not shown: %s", when, around(shown, "(sealed)", "(left out)"))
	}
	exported := p.exported()
	for _, text := range append(append([]string{}, erased...), textsOfAnother...) {
		if strings.Contains(exported, text) {
			p.t.Errorf("%s an export holds %s", when, around(exported, text))
		}
	}
}

// around is a text with what stands around it where it is first met.
func around(in string, texts ...string) string {
	for _, text := range texts {
		if i := strings.Index(in, text); i >= 0 {
			return "…" + in[max(0, i-200):min(len(in), i+len(text)+100)] + "…"
		}
	}
	return ""
}

// content is all that a data folder holds: its files, and what lies in the
// messages of the streams, with uses unpacked.
type content struct {
	files    map[string][]byte
	messages map[string][sha256.Size]byte
}

// contents reads a data folder that no server works with.
func contents(t *testing.T, dir string) content {
	t.Helper()
	c := content{files: map[string][]byte{}, messages: map[string][sha256.Size]byte{}}
	readFiles := func() {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			body, err := os.ReadFile(path)
			c.files[path] = body
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	readFiles()
	broker, err := embedded.Start(t.Context(), embedded.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Shutdown()
	// Who works with the broker every day cannot list what it has.
	if err := broker.Setup(t.Context(), func(conn *nats.Conn) error { return c.readStreams(t.Context(), conn) }); err != nil {
		t.Fatal(err)
	}
	if len(c.files) < 10 || len(c.messages) < 10 {
		t.Fatalf("%d files and %d messages were read", len(c.files), len(c.messages))
	}
	return c
}

// readStreams reads every message that a broker holds.
func (c content) readStreams(ctx context.Context, conn *nats.Conn) error {
	js, err := natsjetstream.New(conn)
	if err != nil {
		return err
	}
	blocks, err := uses.NewDecoder()
	if err != nil {
		return err
	}
	list := js.ListStreams(ctx)
	for info := range list.Info() {
		stream, err := js.Stream(ctx, info.Config.Name)
		if err != nil {
			return err
		}
		for seq := max(1, info.State.FirstSeq); seq <= info.State.LastSeq; seq++ {
			m, err := stream.GetMsg(ctx, seq)
			if errors.Is(err, natsjetstream.ErrMsgNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			name := fmt.Sprintf("%s %d %s", info.Config.Name, seq, m.Subject)
			c.messages[name] = sha256.Sum256(m.Data)
			c.files[name] = fmt.Appendf(nil, "%v\n%s", m.Header, m.Data)
			if info.Config.Name == "USES" {
				block, err := blocks.Decode(m.Subject, m.Data)
				if err != nil {
					return err
				}
				c.files[name] = fmt.Appendf(nil, "%v\n%+v", m.Header, block)
			}
		}
	}
	return list.Err()
}

// destroyed expects that what was erased with is in no file any more, wrapped as it
// was: of the seals of data subjects two are gone, and the others are there.
func (p *erasure) destroyed(before, after content) {
	p.t.Helper()
	gone, kept := 0, 0
	for name, body := range before.files {
		if !strings.HasPrefix(name, "SEALS ") || !strings.Contains(name, ".subject.") {
			continue
		}
		found := 0
		wrapped := body[len(body)-32:]
		for path, content := range after.files {
			if bytes.Contains(content, wrapped) && strings.HasPrefix(path, p.data) {
				found++
			}
		}
		switch _, there := after.files[name]; {
		case there && found > 0:
			kept++
		case !there && found == 0:
			gone++
		default:
			p.t.Errorf("a seal's message is there: %v; its bytes stand in %d files", there, found)
		}
	}
	if gone != 2 || kept == 0 {
		p.t.Errorf("%d seals are gone, of two erasures, and %d are left", gone, kept)
	}
}

// search returns where any of the texts stands: in clear, in hex, or in base64
// whatever it begins at.
func (p *erasure) search(in content, texts []string) []string {
	var found []string
	for name, body := range in.files {
		for _, text := range texts {
			for _, form := range forms(text) {
				if bytes.Contains(body, []byte(form)) {
					found = append(found, fmt.Sprintf("%s in %s", form, strings.TrimPrefix(name, p.data)))
				}
			}
		}
	}
	return found
}

// forms are the ways in which a text may stand somewhere.
func forms(text string) []string {
	out := []string{text, url.QueryEscape(text), url.PathEscape(text), hex.EncodeToString([]byte(text)), strings.ToUpper(hex.EncodeToString([]byte(text)))}
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for offset := range 3 {
			encoded := encoding.EncodeToString(append(make([]byte, offset), text...))
			// Without the characters that what stands before and behind it is part of.
			out = append(out, encoded[(offset*8+5)/6:len(text+"   "[:offset])*8/6])
		}
	}
	return out
}

// views are the files of views, with what SQLite keeps beside them.
func views(t *testing.T, dir string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "*.db*"))
	if err != nil || len(list) < 3 {
		t.Fatal(list, err)
	}
	return list
}
