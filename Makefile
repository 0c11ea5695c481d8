# Every task of this repository. CI calls the same targets (.ci/run).

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# What the tests need beyond Go, as command:package. The race detector wants a
# C compiler; scripts that show the HTTP surface want curl and jq; the gateways
# are shown with the programs that people run, and a hardware security module with
# SoftHSM.
NEEDS    := curl:curl jq:jq gcc:gcc nginx:nginx-light haproxy:haproxy ip:iproute2 softhsm2-util:softhsm2

VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
BIN      ?= bin
TIMEOUT  ?= 15m
FUZZTIME ?= 30s
BENCH    ?= .
COUNT    ?= 1
PKG      ?= ./...

# Tools are pinned in a module of their own, so that go.mod stays the product's.
TOOL     := go tool -modfile=tools/go.mod

.PHONY: help run build setup test check fmt fuzz bench

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "%-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: ## the guided tour, on an empty ledger in a temporary folder
	go run ./cmd/keyledger quickstart

build: ## bin/keyledger, one static binary; the image is built by this too
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o $(BIN)/keyledger ./cmd/keyledger

# Caddy, a gateway like those of NEEDS, which Debian has in an old version only. It is
# pinned like a tool, in a module of its own, and built when it is missing.
$(BIN)/caddy: tools/caddy/go.mod
	CGO_ENABLED=0 go build -C tools/caddy -trimpath -ldflags '-s -w' -o $(abspath $@) github.com/caddyserver/caddy/v2/cmd/caddy
	@touch $@

# What has keyledger use a key in a PKCS #11 token. It is built with a C compiler, in
# a module of its own.
$(BIN)/pkcs11kms: tools/pkcs11kms/go.mod $(wildcard tools/pkcs11kms/*.go) | packages
	CGO_ENABLED=1 go build -C tools/pkcs11kms -trimpath -o $(abspath $@) .
	@touch $@

setup: packages $(BIN)/caddy $(BIN)/pkcs11kms ## install what the tests need beyond Go, or say what is missing

.PHONY: packages
packages:
	@missing=(); PATH="$$PATH:/usr/sbin"; \
	for need in $(NEEDS); do \
		command -v "$${need%%:*}" >/dev/null || missing+=("$${need##*:}"); \
	done; \
	if [ $${#missing[@]} -eq 0 ]; then exit 0; fi; \
	if [ "$$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -q; \
		DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$${missing[@]}"; \
	else \
		echo "The tests need these packages; please install them: $${missing[*]}" >&2; \
		exit 1; \
	fi

# SQLite is C that was translated to Go, and guards itself. Watching each of its reads
# and writes for races takes half of the time of all tests; ours are watched, and the
# driver's.
UNWATCHED := -gcflags=modernc.org/sqlite/lib='-race=false -d=checkptr=0' -gcflags=modernc.org/libc=-d=checkptr=0

# Half of the packages mostly wait for other processes, so that more of them than there
# are cores run side by side.
test: setup ## all tests, with the race detector
	go test -race $(UNWATCHED) -p 3 -timeout $(TIMEOUT) ./...

# Nothing here needs C, so that what is compiled serves the program as it is built, too.
check: export CGO_ENABLED = 0
check: export GOFLAGS = -trimpath
check: ## format, vet, lint, the rooms and doors, docker-compose.yml, and a tidy go.mod
	@unformatted="$$($(TOOL) gofumpt -l .)"; \
	if [ -n "$$unformatted" ]; then \
		echo "Not formatted (make fmt does it):" >&2; echo "$$unformatted" >&2; exit 1; \
	fi
	go vet ./...
	CGO_ENABLED=1 go -C tools/pkcs11kms vet ./...
	$(TOOL) golangci-lint run
	go test ./integration/house
	go -C tools run ./composeconfig ../docker-compose.yml >/dev/null
	go mod tidy -diff

fmt: ## format every file
	$(TOOL) gofumpt -w .

fuzz: ## every fuzz target for FUZZTIME (30s)
	@{ grep -rnoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . || true; } | \
	while IFS=: read -r file _ decl; do \
		target="$${decl#func }"; \
		echo "$$target in $$(dirname "$$file")"; \
		go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 20x "$$(dirname "$$file")" </dev/null; \
	done

bench: ## benchmarks (BENCH=regexp COUNT=n PKG=path), compared with the run before
	@mkdir -p bin
	@if [ -s bin/bench.txt ]; then mv bin/bench.txt bin/bench.old.txt; fi
	go test -run '^$$' -bench '$(BENCH)' -benchmem -count $(COUNT) $(PKG) | tee bin/bench.txt
	@if [ -s bin/bench.old.txt ]; then $(TOOL) benchstat bin/bench.old.txt bin/bench.txt; fi
