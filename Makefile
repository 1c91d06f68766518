# What can be done here. `make` alone lists it.
#
# Every recipe runs inside .make/env: a target directory outside the checkout, and ccache in front of the C++
# compiler where there is one. `eval "$$(make env)"` gives a shell the same, so that plain cargo shares it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

IN := .make/env
DATA ?= bench/data/flights-2013-01.csv.zst
SEEDS ?= 200
SECONDS_DEFAULT := 60
# Recipes are bash, where SECONDS is a clock: make's own value is used, never the shell's.
FUZZ_SECONDS := $(if $(filter command line,$(origin SECONDS)),$(SECONDS),$(SECONDS_DEFAULT))
unexport SECONDS
# One set of flags for everything in the dev profile: another set would be another build of the same crates.
ALL := --workspace --all-features

.PHONY: help demo test sim model models examples mutants bench bench-wal bench-net bench-engine bench-repl bench-state clippy-peers fuzz docs fmt lint clippy features golden bless deny audit setup env ci

help: ## This list
	@echo "Towline. The main job: make demo. What is promised: make test."
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { \
	  args = ""; text = $$2; \
	  if (match(text, /^\[[^]]*\] /)) { args = substr(text, 1, RLENGTH - 1); text = substr(text, RLENGTH + 1) } \
	  printf "  make %-26s %s\n", $$1 " " args, text }' Makefile

demo: ## [DATA=path] Three processes, real data, kills in the middle: ends with identical copies, or says why not
	@.make/setup build
	@$(IN) .make/with-progress release "building the program" cargo build --release -p towline --features cli --bin towline
	@$(IN) bash -c 'exec "$$CARGO_TARGET_DIR/release/towline" demo --data "$$1"' demo '$(DATA)'

test: ## All tests: the examples in the documentation, then units, properties, golden files, real processes
	@.make/setup test
	@$(IN) .make/with-progress debug "building the tests" cargo nextest run $(ALL) --no-run
	@$(IN) .make/with-progress debug "the examples in the documentation" cargo test $(ALL) --doc --quiet
	@$(IN) cargo nextest run $(ALL)

sim: ## [SEEDS=n SEED=n] Simulates whole clusters from seeds, faults and all; SEED=n runs that one
	@.make/setup rust
	@$(IN) .make/with-progress - "building the simulator (no C++ in it)" \
	  cargo build --profile sim -p towline --no-default-features --features sim --bin towline-sim
ifndef SEED
	@$(IN) .make/with-progress - "building it for a comparison of traces" \
	  cargo build -p towline --no-default-features --features sim --bin towline-sim
	@$(IN) .make/same-trace 1 2
endif
	@$(IN) bash -c 'exec "$$CARGO_TARGET_DIR/sim/towline-sim" "$$@"' sim $(if $(SEED),--seed $(SEED) --trace,--seeds $(SEEDS))

model: ## [ARGS=...] Every order of events of a few replicas, epochs and faults, the real core under search; ARGS=--quick in a minute
	@.make/setup rust
	@$(IN) .make/with-progress - "building the simulator (no C++ in it)" \
	  cargo build --profile sim -p towline --no-default-features --features sim --bin towline-sim
	@$(IN) bash -c 'exec "$$CARGO_TARGET_DIR/sim/towline-sim" model "$$@"' model $(ARGS)

models: ## The log's threads, and the engine's queue, bells and receipts: each test in 10,000 orders of steps or more
	@.make/setup rust
	@$(IN) .make/models

examples: ## The example programs: a ledger rebuilt from its feed, flights whose projection is killed and goes on, a service, the guide's shop, a client in Python
	@.make/setup test python
	@$(IN) .make/with-progress debug "building the examples" cargo build $(ALL) --examples --bin towline
	@$(IN) .make/examples

mutants: ## [SEEDS=n] Plants each known bug in turn; fails for one that neither a seed nor the search notices
	@.make/setup rust
	@$(IN) .make/with-progress - "building the simulator with planted bugs" \
	  cargo build --profile sim -p towline --no-default-features --features sim,mutants --bin towline-sim
	@$(IN) .make/mutants $(SEEDS)

bench: ## The criterion benches; the figures are printed, and kept under the target directory
	@.make/setup build
	@$(IN) .make/with-progress release "building the benches" cargo bench -p towline-bench --no-run
	@$(IN) cargo bench -p towline-bench

bench-wal: ## [ARGS=...] The log beside other logs and the bare disk, in one run; ARGS=--help tells the modes
	@.make/setup build
	@$(IN) .make/with-progress release "building the log's bench" \
	  cargo build --release --locked --manifest-path bench/peers/Cargo.toml
	@$(IN) bash -c 'exec "$$CARGO_TARGET_DIR/release/bench-wal" "$$@"' bench-wal $(ARGS)

bench-net: ## [ARGS=...] The transport beside bare TCP and TLS, gRPC and NATS, in one run; ARGS=--help tells the modes
	@.make/setup build
	@$(IN) .make/with-progress - "building the transport's bench" \
	  cargo build --release --locked --manifest-path bench/net-peers/Cargo.toml
	@$(IN) bash -c 'exec "$$CARGO_TARGET_DIR/release/bench-net" "$$@"' bench-net $(ARGS)

bench-engine: ## [ARGS=...] The embedded engine beside bare RocksDB and the bare log, in one run; ARGS=--help tells the modes
	@.make/setup build
	@$(IN) .make/with-progress release "building the engine's bench" cargo build --release -p towline-bench --bin bench-engine
	@$(IN) bash -c 'exec "$$CARGO_TARGET_DIR/release/bench-engine" "$$@"' bench-engine $(ARGS)

bench-repl: ## [ARGS=...] Three nodes beside three of etcd, NATS, Redis and PostgreSQL, in one run; ARGS=--quick, ARGS=--help
	@.make/setup build python
	@$(IN) .make/with-progress release "building the program" cargo build --release -p towline --features cli --bin towline
	@$(IN) .make/with-progress - "building the bench of replication" \
	  cargo build --release --locked --manifest-path bench/repl-peers/Cargo.toml
	@$(IN) bash -c 'exec "$$CARGO_TARGET_DIR/release/bench-repl" --peers "$$(.make/repl-peers)" "$$@"' bench-repl $(ARGS)

bench-state: ## [ARGS=...] What each option of the state's RocksDB costs and brings
	@.make/setup build
	@$(IN) .make/with-progress release "building the bench of RocksDB's options" cargo build --release -p towline-bench --bin bench-state
	@$(IN) bash -c 'exec "$$CARGO_TARGET_DIR/release/bench-state" "$$@"' bench-state $(ARGS)

clippy-peers: ## Clippy on the benches beside peers (log, transport, replication), which are workspaces of their own
	@.make/setup build lint
	@$(IN) cargo fmt --manifest-path bench/peers/Cargo.toml --check
	@$(IN) cargo fmt --manifest-path bench/net-peers/Cargo.toml --check
	@$(IN) cargo fmt --manifest-path bench/repl-peers/Cargo.toml --check
	@$(IN) .make/with-progress release "clippy of the log's bench" \
	  cargo clippy --release --locked --manifest-path bench/peers/Cargo.toml -- -D warnings
	@$(IN) .make/with-progress - "clippy of the transport's bench" \
	  cargo clippy --release --locked --manifest-path bench/net-peers/Cargo.toml -- -D warnings
	@$(IN) .make/with-progress - "clippy of the bench of replication" \
	  cargo clippy --release --locked --manifest-path bench/repl-peers/Cargo.toml -- -D warnings

fuzz: ## [SECONDS=n] Feeds each parser of foreign bytes hostile ones, each for that long
	@.make/fuzz run $(FUZZ_SECONDS)

docs: ## The book (docs/book/index.html) and the documentation of every public item
	@.make/setup build mdbook
	@$(IN) mdbook build docs
	@$(IN) env RUSTDOCFLAGS=-Dwarnings .make/with-progress debug "rustdoc" cargo doc $(ALL) --no-deps
	@$(IN) bash -c 'echo "docs/book/index.html and $$CARGO_TARGET_DIR/doc/towline/index.html"'

fmt: ## Formats the sources
	@.make/setup lint
	@$(IN) cargo fmt --all
	@$(IN) cargo fmt --manifest-path bench/peers/Cargo.toml
	@$(IN) cargo fmt --manifest-path bench/net-peers/Cargo.toml
	@$(IN) cargo fmt --manifest-path bench/repl-peers/Cargo.toml

lint: ## Format, clippy and the tidy rules, as CI wants them
	@.make/setup lint
	@$(IN) cargo fmt --all --check
	@$(MAKE) clippy
	@$(IN) cargo test $(ALL) --test tidy --quiet

clippy: ## Clippy on everything, warnings denied
	@.make/setup build lint
	@$(IN) .make/with-progress debug "clippy" cargo clippy $(ALL) --all-targets -- -D warnings

features: ## Every feature set alone, and none, by itself: features must not lean on each other
	@.make/setup build lint
	@$(IN) .make/features

golden: ## No committed format changed its bytes without a new version
	@.make/golden

bless: ## Writes the golden files and their list anew, for a change that raises a format's version
	@.make/setup test
	@$(IN) env -u CI TOWLINE_BLESS=1 cargo nextest run $(ALL) -E 'test(golden) - binary(tidy)'
	@.make/golden list
	@git --no-pager diff --stat -- '*golden*' || true

deny: ## Licences, bans and sources of the dependencies
	@.make/setup rust cargo-deny
	@$(IN) cargo deny --all-features check --hide-inclusion-graph licenses bans sources

audit: ## Known advisories about the dependencies, where the database can be fetched
	@.make/setup rust cargo-deny
	@$(IN) .make/audit

setup: ## Installs what is missing: C++ and libclang for RocksDB, ccache, cargo-nextest, rustfmt, clippy, Python
	@.make/setup build test python lint ccache && echo "setup: everything is there"

env: ## Shell lines that give plain cargo the same target directory and compiler
	@$(IN) --print

ci: ## What CI runs
	@.ci/run
