package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/domain/keystring"
)

// defaultURL is where a server listens that was started without a flag.
const defaultURL = "http://127.0.0.1:8080"

// maxKeyFile bounds what is read as a key. A key has at most 55 bytes; whatever
// is longer than this is another file.
const maxKeyFile = 4096

// ownerKey is where a server that was started here without a flag keeps its
// owner's key.
const ownerKey = "data/owner.key"

// linkFlags are the flags with which a command finds its server.
type linkFlags struct {
	url, keyFile, context, org string
	// found is what they led to, and idempotencyKey what the change is called
	// that was last sent: errors tell them.
	found          link
	idempotencyKey string
}

// linked gives commands the flags of those that talk to a server, and says how
// their answers are printed.
func (a *app) linked(c *cobra.Command) {
	f := c.PersistentFlags()
	f.StringVar(&a.link.url, "url", "", "`address` of the server (default: the context's, else "+defaultURL+")")
	f.StringVar(&a.link.keyFile, "key-file", "", "`file` with the management key (else KEYLEDGER_KEY, or the context's)")
	f.StringVar(&a.link.context, "context", "", "`name` of the context to use (see keyledger context)")
	a.out.flags(f)
	general(f, "url", "key-file", "context", "output", "quiet")
}

// about gives commands the flag of those that concern one organization.
func (a *app) about(c *cobra.Command) {
	f := c.PersistentFlags()
	f.StringVar(&a.link.org, "org", "", "`id` of the organization (default: the context's, else the key's own)")
	general(f, "org")
}

// link is the way to a server: where it is, who asks, and about which
// organization; each with where that was found, for errors that help.
type link struct {
	url, urlFrom string
	key          keystring.Secret
	keyFrom      string
	org          string
}

// findLink resolves the flags of a command that talks to a server.
//
// A context holds together what belongs together: when something stronger than
// the choice of the context names another server, nothing of the context is
// used, so that its key is never sent where it does not belong.
func (a *app) findLink() (link, error) {
	c, chosen, err := a.chosenContext()
	if err != nil {
		return link{}, err
	}
	if a.settings.levels["url"] > chosen {
		c, chosen = entry{}, fromNowhere
	}
	l := link{url: defaultURL, urlFrom: "the default"}
	switch {
	case a.settings.levels["url"] > fromNowhere && a.settings.levels["url"] >= chosen:
		l.url, l.urlFrom = a.link.url, a.origin("url")
	case c.URL != "":
		l.url, l.urlFrom = c.URL, "context "+c.name
	}
	u, err := url.Parse(l.url)
	if err != nil || !serverURL(l.url) {
		return link{}, usage(fmt.Sprintf("%s is no http or https URL of a server: %q", l.urlFrom, l.url), "")
	}
	l.url = strings.TrimRight(l.url, "/")
	l.org = c.Org
	if a.settings.levels["org"] > fromNowhere && (a.settings.levels["org"] >= chosen || c.Org == "") {
		l.org = a.link.org
	}
	if holdsSecret(l.org) {
		return link{}, errSecretArgument
	}
	err = a.findKey(&l, c, chosen, loopback(u.Hostname()))
	return l, err
}

// serverURL tells whether a text is the address of a server.
func serverURL(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}

// origin names where a flag's value came from.
func (a *app) origin(flag string) string {
	switch a.settings.levels[flag] {
	case fromEnvironment:
		return envName(flag)
	case fromFile:
		return fmt.Sprintf("%q in %s", flag, a.settings.file)
	default:
		return "--" + flag
	}
}

// findKey finds the management key: the strongest source that has one.
func (a *app) findKey(l *link, c entry, chosen level, loopback bool) (err error) {
	keyFile := a.settings.levels["key-file"]
	variable := a.env.getenv("KEYLEDGER_KEY")
	switch {
	case keyFile == fromFlag:
		l.keyFrom = "--key-file " + a.link.keyFile
		l.key, err = readKeyFile(a.link.keyFile)
	case chosen == fromFlag && c.holdsKey():
		return a.contextKey(l, c)
	case variable != "":
		l.key, l.keyFrom = keystring.Conceal(strings.TrimSpace(variable)), "KEYLEDGER_KEY"
	case keyFile == fromEnvironment:
		l.keyFrom = envName("key-file")
		l.key, err = readKeyFile(a.link.keyFile)
	case c.holdsKey():
		return a.contextKey(l, c)
	case keyFile == fromFile:
		l.keyFrom = a.origin("key-file")
		l.key, err = readKeyFile(a.link.keyFile)
	case loopback:
		if l.key, err = readKeyFile(filepath.FromSlash(ownerKey)); err == nil {
			l.keyFrom = "./" + ownerKey
		} else if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	return err
}

func (a *app) contextKey(l *link, c entry) (err error) {
	if c.KeyEnv != "" {
		l.keyFrom = fmt.Sprintf("%s, which context %s names", c.KeyEnv, c.name)
		text := strings.TrimSpace(a.env.getenv(c.KeyEnv))
		if text == "" {
			return usage(fmt.Sprintf("context %s takes its key from the variable %s, which is not set", c.name, c.KeyEnv), "")
		}
		l.key = keystring.Conceal(text)
		return nil
	}
	l.keyFrom = fmt.Sprintf("%s, which context %s names", c.KeyFile, c.name)
	l.key, err = readKeyFile(c.KeyFile)
	return err
}

func readKeyFile(path string) (keystring.Secret, error) {
	f, err := os.Open(path)
	if err != nil {
		return keystring.Secret{}, fmt.Errorf("the key file cannot be read: %w", err)
	}
	defer f.Close()
	key, err := readKey(f)
	if err != nil {
		return key, fmt.Errorf("the key file %s %w", path, err)
	}
	return key, nil
}

// readKey reads one key, and nothing but white space around it.
func readKey(r io.Reader) (keystring.Secret, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxKeyFile+1))
	if err != nil {
		return keystring.Secret{}, fmt.Errorf("cannot be read: %w", err)
	}
	key := strings.TrimSpace(string(text))
	switch {
	case key == "":
		return keystring.Secret{}, errors.New("is empty")
	case len(text) > maxKeyFile || strings.ContainsAny(key, " \t\r\n"):
		return keystring.Secret{}, errors.New("holds more than one key")
	default:
		return keystring.Conceal(key), nil
	}
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// warnCleartext tells a person that a key is about to travel for all to read.
func (a *app) warnCleartext(ctx context.Context, l link) {
	u, err := url.Parse(l.url)
	if err != nil || ctx.Err() != nil || u.Scheme != "http" || loopback(u.Hostname()) || l.key.IsZero() || !a.out.errTerminal {
		return
	}
	fmt.Fprintf(a.env.Stderr, "Warning: the management key travels unencrypted to %s\n", u.Host)
}
