package natstest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyledger/keyledger/events/clustertest"
	"github.com/keyledger/keyledger/integration/program"
)

// Nodes is how many nodes there are: the fewest of which one can be missed.
const Nodes = 3

// Conf is the conf that every node is started with, below the root of the module.
const Conf = "deploy/nats/nats.conf"

// LeafConf is that of leaf nodes.
const LeafConf = "deploy/nats/leaf.conf"

// patience bounds what a cluster takes its time for: an election takes 4 to 9 s,
// and a busy machine makes it several.
const patience = 120 * time.Second

// pause is between two looks.
const pause = 100 * time.Millisecond

// Cluster is three nats-server processes, or one alone. Its methods are for one
// goroutine at a time.
type Cluster struct {
	t      testing.TB
	binary string
	nodes  []*node
	// conf is the conf of its nodes, and folder what lies beside it.
	confFile, folder string
	// leafs are where the nodes take leaf nodes, none if they do not.
	leafs []string
}

type node struct {
	name, dir                string
	client, cluster, monitor string // addresses, the same after a restart
	cmd                      *exec.Cmd
	ended                    chan error
}

// Reserve takes addresses and folders for a cluster that is not started yet: who
// the nodes are has to be written down before they start.
func Reserve(t testing.TB) *Cluster {
	t.Helper()
	return reserve(t, Nodes)
}

// ReserveOne is Reserve for one node that stands alone.
func ReserveOne(t testing.TB) *Cluster {
	t.Helper()
	return reserve(t, 1)
}

// ReserveLeaf is Reserve for a leaf node.
func ReserveLeaf(t testing.TB) *Cluster {
	t.Helper()
	c := reserve(t, 1)
	c.confFile, c.folder = LeafConf, "leaf"
	c.nodes[0].name = "leaf-1"
	return c
}

// TakeLeafs has the nodes take leaf nodes, from their start on.
func (c *Cluster) TakeLeafs() {
	c.t.Helper()
	c.leafs = clustertest.FreeAddresses(c.t, len(c.nodes))
}

// Hubs are the addresses at which the nodes take leaf nodes.
func (c *Cluster) Hubs() []string {
	var hubs []string
	for _, address := range c.leafs {
		hubs = append(hubs, "nats-leaf://"+address)
	}
	return hubs
}

func reserve(t testing.TB, nodes int) *Cluster {
	t.Helper()
	c := &Cluster{t: t, confFile: Conf, folder: "auth"}
	addresses := clustertest.FreeAddresses(t, 3*nodes)
	for i := range nodes {
		c.nodes = append(c.nodes, &node{
			name: fmt.Sprintf("nats-%d", i+1), dir: t.TempDir(),
			client: addresses[3*i], cluster: addresses[3*i+1], monitor: addresses[3*i+2],
		})
	}
	return c
}

// Members are the addresses that the nodes know each other by.
func (c *Cluster) Members() []string {
	var members []string
	for _, n := range c.nodes {
		members = append(members, n.cluster)
	}
	return members
}

// Start starts the nodes with a folder beside their conf, auth or that of a leaf node, and returns when
// each is healthy. They end with the test.
func (c *Cluster) Start(auth string) {
	c.t.Helper()
	root := Root(c.t)
	c.binary = program.BuildBroker(c.t, c.t.TempDir())
	for i, n := range c.nodes {
		// What a conf includes lies beside the name that it was opened by.
		err := errors.Join(
			c.conf(i, filepath.Join(root, c.confFile), filepath.Join(n.dir, "nats.conf")),
			os.Symlink(auth, filepath.Join(n.dir, c.folder)),
		)
		if err != nil {
			c.t.Fatal(err)
		}
	}
	c.t.Cleanup(c.end)
	c.RestartAll()
}

// conf gives a node its conf: the very file, but for one that stands alone, which
// has no others to know, and where leaf nodes come in.
func (c *Cluster) conf(i int, from, to string) error {
	if c.confFile == LeafConf || len(c.nodes) > 1 && c.leafs == nil {
		return os.Symlink(from, to)
	}
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if len(c.nodes) == 1 {
		alone, _, found := bytes.Cut(text, []byte("\ncluster {"))
		if !found {
			return fmt.Errorf("natstest: %s does not end with a cluster", from)
		}
		text = alone
	}
	if c.leafs != nil {
		text = fmt.Appendf(text, "\nleafnodes { listen: %q, no_advertise: true }\n", c.leafs[i])
	}
	return os.WriteFile(to, text, 0o600)
}

// Variables are the names of those that a node is told beside its conf, in order.
func Variables() []string { return slices.Sorted(maps.Keys(new(node).environment())) }

func (n *node) environment() map[string]string {
	return map[string]string{
		"NATS_NAME":           n.name,
		"NATS_LISTEN":         n.client,
		"NATS_CLUSTER_LISTEN": n.cluster,
		"NATS_MONITOR":        n.monitor,
		"NATS_STORE":          filepath.Join(n.dir, "store"),
		"NATS_ACCOUNTS":       filepath.Join(n.dir, "accounts"),
	}
}

func (c *Cluster) launch(i int) {
	c.t.Helper()
	n := c.nodes[i]
	log, err := os.OpenFile(filepath.Join(n.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close()
	n.cmd = exec.Command(c.binary, "--config", filepath.Join(n.dir, "nats.conf"))
	n.cmd.Stderr = log
	for name, value := range n.environment() {
		n.cmd.Env = append(n.cmd.Env, name+"="+value)
	}
	if c.confFile == LeafConf {
		n.cmd.Env = append(n.cmd.Env, "NATS_LEAF_CREDS="+filepath.Join(n.dir, c.folder, "leaf.creds"))
	}
	if err := n.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	ended := make(chan error, 1)
	n.ended = ended
	go func(cmd *exec.Cmd) { ended <- cmd.Wait() }(n.cmd)
}

// end kills what still runs, and shows what the nodes said if the test failed.
func (c *Cluster) end() {
	for i, n := range c.nodes {
		c.Kill(i)
		if !c.t.Failed() {
			continue
		}
		if said, err := os.ReadFile(filepath.Join(n.dir, "log")); err == nil {
			c.t.Logf("%s said:\n%s", n.name, said[max(0, len(said)-4096):])
		}
	}
}

// Kill ends a node's process without a word, paused or not. It does nothing to one
// that has ended.
func (c *Cluster) Kill(i int) { c.finish(i, syscall.SIGKILL) }

// Stop ends a node as an operator does.
func (c *Cluster) Stop(i int) { c.finish(i, syscall.SIGTERM) }

func (c *Cluster) finish(i int, signal os.Signal) {
	n := c.nodes[i]
	if n.cmd == nil || n.cmd.Process == nil {
		return
	}
	_ = n.cmd.Process.Signal(signal) // one that has ended takes none
	<-n.ended
	n.cmd = nil
}

// Restart starts a node that was ended, on the files it left, and returns when it
// is healthy again.
func (c *Cluster) Restart(i int) {
	c.t.Helper()
	c.launch(i)
	c.Healthy(i)
}

// RestartAll starts all nodes, which have ended or were never started: none is healthy
// without others.
func (c *Cluster) RestartAll() {
	c.t.Helper()
	for i := range c.nodes {
		c.launch(i)
	}
	for i := range c.nodes {
		c.Healthy(i)
	}
}

// Pause has a node's process stand still: its connections stay open and nobody
// answers on them.
func (c *Cluster) Pause(i int) { c.signal(i, syscall.SIGSTOP) }

// Resume has a paused node go on as if nothing had been.
func (c *Cluster) Resume(i int) { c.signal(i, syscall.SIGCONT) }

func (c *Cluster) signal(i int, signal os.Signal) {
	c.t.Helper()
	if err := c.nodes[i].cmd.Process.Signal(signal); err != nil {
		c.t.Fatal(err)
	}
}

// URL is where clients come in: every node, beginning with the one given.
func (c *Cluster) URL(first int) string {
	var urls []string
	for i := range c.nodes {
		urls = append(urls, "nats://"+c.nodes[(first+i)%len(c.nodes)].client)
	}
	return strings.Join(urls, ",")
}

// Client is the address at which a node awaits clients.
func (c *Cluster) Client(i int) string { return c.nodes[i].client }

// Member is the address at which a node awaits the others.
func (c *Cluster) Member(i int) string { return c.nodes[i].cluster }

// Healthy returns when a node says that it is: it knows the leader, and has caught
// up with all that it keeps.
func (c *Cluster) Healthy(i int) {
	c.t.Helper()
	n := c.nodes[i]
	c.until(n.name+" to be healthy", func() bool {
		select {
		case err := <-n.ended:
			n.cmd = nil
			c.t.Fatalf("natstest: %s has ended: %v", n.name, err)
		default:
		}
		_, err := c.Ask(i, "/healthz")
		return err == nil
	})
}

// Ask asks a node's monitoring.
func (c *Cluster) Ask(i int, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.nodes[i].monitor+path, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("natstest: %s of %s: %s %s", path, c.nodes[i].name, res.Status, bytes.TrimSpace(body))
	}
	return body, err
}

// Leader returns the node that leads a stream, once the nodes that run agree on
// one of them.
func (c *Cluster) Leader(stream string) int {
	c.t.Helper()
	leader := -1
	c.until("a leader of "+stream, func() bool {
		leader = -1
		for i, n := range c.nodes {
			if n.cmd == nil {
				continue
			}
			named := c.leader(i, stream)
			if named < 0 || c.nodes[named].cmd == nil || leader >= 0 && leader != named {
				return false
			}
			leader = named
		}
		return leader >= 0
	})
	return leader
}

// leader is the node that a node takes for a stream's leader, -1 if there is none.
func (c *Cluster) leader(i int, stream string) int {
	told, err := c.stream(i, stream)
	if err != nil {
		return -1
	}
	return slices.IndexFunc(c.nodes, func(n *node) bool { return n.name == told.Cluster.Leader })
}

// State is what a node holds of a stream.
type State struct {
	Messages uint64 `json:"messages"`
	First    uint64 `json:"first_seq"`
	Last     uint64 `json:"last_seq"`
	Deleted  uint64 `json:"num_deleted"`
}

// Alike returns what every node holds of a stream, once it is the same.
func (c *Cluster) Alike(stream string) State {
	c.t.Helper()
	var first State
	c.until("the nodes to hold the same of "+stream, func() bool {
		for i := range c.nodes {
			told, err := c.stream(i, stream)
			if err != nil || i > 0 && told.State != first {
				return false
			}
			first = told.State
		}
		return true
	})
	return first
}

// streamDetail is what a node's monitoring tells of a stream.
type streamDetail struct {
	Name    string
	Cluster struct{ Leader string }
	State   State
}

func (c *Cluster) stream(i int, name string) (streamDetail, error) {
	body, err := c.Ask(i, "/jsz?streams=true")
	if err != nil {
		return streamDetail{}, err
	}
	var told struct {
		Accounts []struct {
			Streams []streamDetail `json:"stream_detail"`
		} `json:"account_details"`
	}
	if err := json.Unmarshal(body, &told); err != nil {
		return streamDetail{}, err
	}
	for _, account := range told.Accounts {
		for _, s := range account.Streams {
			if s.Name == name {
				return s, nil
			}
		}
	}
	return streamDetail{}, fmt.Errorf("natstest: %s has no stream %s", c.nodes[i].name, name)
}

// until waits for something that a cluster does in its own time.
func (c *Cluster) until(what string, done func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(pause) {
		if time.Now().After(deadline) {
			c.t.Fatalf("natstest: %s: not within %s", what, patience)
		}
	}
}

// Root returns the module's root folder.
func Root(t testing.TB) string {
	t.Helper()
	root, err := program.Root()
	if err != nil {
		t.Fatal(err)
	}
	return root
}
