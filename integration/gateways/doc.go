// Package gateways shows that real gateways in front of an application let pass
// what keyledger lets pass and nothing else: each one runs the configuration that
// docs/gateways holds for it, with the addresses put in.
//
// What every gateway must do is one table (promises_test.go). The programs are
// installed by `make setup`; a test fails when one is missing.
package gateways
