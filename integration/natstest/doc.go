// Package natstest runs the NATS cluster of deploy/nats in a test: three processes
// of nats-server, built from the module that go.mod pins and started with the very
// conf that docker-compose.yml mounts. Being processes, they can be killed without
// a word, and stopped as a machine that hangs is. A node that stands alone is
// started with the same conf but for the cluster.
package natstest
