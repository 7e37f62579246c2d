# What can be done here; `make` alone lists it. One thing at a time, with `make -j` as well: cargo fills the cores by itself.

CARGO ?= cargo
RUSTC ?= rustc
PYTHON ?= python3

# Where Python's environments are built: one to make the wheel, a fresh one for each run of its tests, one for the peers.
PY := target/python

# Where `make install` puts the C and C++ library.
PREFIX ?= /usr/local
DESTDIR ?=

# Machines without an operating system that core has to build for, where their library is installed.
BARE_TARGETS := thumbv7em-none-eabihf wasm32-unknown-unknown

# Whatever cannot be checked on this machine is written here, a line each, and shown when `make test` ends.
# Tests may add lines of the same form.
SKIPPED := target/skipped.txt
export GATEWAY_SKIPPED := $(CURDIR)/$(SKIPPED)

# A person's build may update Cargo.lock; a machine's may not.
ifeq ($(CI),true)
EMPTY :=
LOCKED := $(EMPTY) --locked
endif

.DEFAULT_GOAL := help
.NOTPARALLEL:
# Cargo would look for make's job slots, which are not passed on.
unexport MAKEFLAGS MFLAGS

.PHONY: help
help: ## List what can be done
	@printf 'usage: make <what>\n\n'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s  %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: ## Replay two hours of traffic and write a report: target/demo.html
	$(CARGO) run$(LOCKED) --release -p libgateway-examples --bin replay -- --report target/demo.html
	@test -s target/demo.html
	@printf '\nthe report: file://%s\n' '$(CURDIR)/target/demo.html'

.PHONY: test
test: skipped-none test-workspace test-features test-no-std test-c test-python ## Run every test, and say at the end what could not run
	@if test -s $(SKIPPED); then \
		printf '\nmake test: passed, except for what this machine cannot check:\n'; sed 's/^/  /' $(SKIPPED); \
	else printf '\nmake test: passed, nothing skipped\n'; fi

.PHONY: lint
lint: lint-format lint-clippy lint-docs lint-rules ## Check format, lints, documentation and the rules of the house

.PHONY: install
install: ## Install the C and C++ library: make install PREFIX=/usr/local [DESTDIR=..]
	$(CARGO) build$(LOCKED) --release -p libgateway-c
	bindings-c/install target/release '$(PREFIX)' '$(DESTDIR)'

.PHONY: header
header: ## Make include/gateway.h from the sources
	GATEWAY_HEADER=write $(CARGO) test$(LOCKED) -p libgateway-c --test header -- --quiet the_header

.PHONY: bench
bench: ## Measure against the peers, side by side in one run
	$(CARGO) run$(LOCKED) --release -p libgateway-tests --features bench --bin bench
	$(MAKE) bench-python

.PHONY: wheel
wheel: $(PY)/build/.ready ## Build the Python wheel: target/wheels
	@rm -rf target/wheels
	cd bindings-python && "$(CURDIR)/$(PY)/build/bin/maturin" build --release$(LOCKED) --out ../target/wheels -i "$(PYTHON)"

.PHONY: bench-instructions
bench-instructions: ## Count instructions of the main rows: steadier than time, needs valgrind
	$(CARGO) run$(LOCKED) --release -p libgateway-tests --features bench --bin bench -- --instructions

.PHONY: simulate
simulate: ## Run the simulation over many seeds: make simulate SEEDS=100000 (10 to 15 minutes)
	GATEWAY_SEEDS=$(or $(SEEDS),100000) $(CARGO) test$(LOCKED) -p libgateway-tests --test simulation nothing_wrong -- --nocapture

.PHONY: ci
ci: ## Do what the continuous integration does: lint and test, without questions
	.ci/run

.PHONY: fmt
fmt: ## Format the Rust code
	$(CARGO) fmt --all

.PHONY: clean
clean: ## Remove everything built
	$(CARGO) clean

# The parts of `make test`.

.PHONY: skipped-none
skipped-none:
	@mkdir -p target
	@: > $(SKIPPED)

.PHONY: test-workspace
test-workspace:
	$(CARGO) test$(LOCKED) --workspace --no-fail-fast -- --quiet

# The workspace's tests turn every feature on for each other; users of core have the default ones, or none.
.PHONY: test-features
test-features:
	$(CARGO) check$(LOCKED) -p libgateway
	$(CARGO) test$(LOCKED) -p libgateway --no-default-features -- --quiet

# Two proofs that nothing below core needs an operating system. The first runs everywhere: a panic handler of one's own
# does not compile next to std, however deep in the dependencies it hides. The second builds for machines that have none.
.PHONY: test-no-std
test-no-std:
	$(CARGO) build$(LOCKED) -p libgateway --no-default-features --target-dir target/no-std
	@printf 'no_std: on this machine, with a panic handler of our own\n'
	@$(RUSTC) --edition 2024 --crate-type rlib --emit metadata -o target/no-std/proof.rmeta \
		-L dependency=target/no-std/debug/deps --extern libgateway=target/no-std/debug/liblibgateway.rlib tests/no_std.rs
	@for target in $(BARE_TARGETS); do \
		if ls "$$($(RUSTC) --print target-libdir --target $$target 2>&1)"/libcore-*.rlib >/dev/null 2>&1; then \
			printf 'no_std: %s\n' "$$target"; \
			$(CARGO) check$(LOCKED) -p libgateway --no-default-features --target "$$target" || exit 1; \
		else \
			printf 'skipped: no_std on %s (its Rust library is not installed: rustup target add %s)\n' \
				"$$target" "$$target" | tee -a $(SKIPPED); \
		fi; \
	done

# Root on a Debian machine gets what the tests of C, C++ and Python need; anybody else is told at the end what was passed
# over.
.PHONY: test-tools
test-tools:
	@missing=; \
	for tool in c++:g++ cmake:cmake pkg-config:pkg-config valgrind:valgrind; do \
		command -v "$${tool%%:*}" >/dev/null || missing="$$missing $${tool#*:}"; \
	done; \
	"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || missing="$$missing python3-venv"; \
	if [ -n "$$missing" ] && [ "$$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then \
		printf 'installing%s\n' "$$missing"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing \
			|| printf 'not installed:%s\n' "$$missing"; \
	fi

# The library as C and C++ programs get it. `tests/c/run word` does the parts that have the word in their name.
.PHONY: test-c
test-c: test-tools
	tests/c/run

# The wheel in a fresh environment of its own, as a user has it: unit, property, conformance and example tests, doctests,
# stubs and types.
.PHONY: test-python
test-python: test-tools ## Build the Python wheel and test it in a fresh environment
	@mkdir -p $(PY)
	@if ! "$(PYTHON)" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then \
		printf 'skipped: python (%s is not Python 3.10 or newer with venv: apt-get install python3-venv)\n' "$(PYTHON)" \
			| tee -a $(SKIPPED); \
	elif ! $(MAKE) $(PY)/build/.ready && test "$(CI)" != true; then \
		printf 'skipped: python (maturin could not be installed from PyPI)\n' | tee -a $(SKIPPED); \
	else \
		$(MAKE) wheel && $(CARGO) build$(LOCKED) -p libgateway-examples --bin script && $(MAKE) test-python-wheel; \
	fi

.PHONY: test-python-wheel
test-python-wheel:
	@rm -rf $(PY)/test && "$(PYTHON)" -m venv $(PY)/test
	$(PY)/test/bin/pip install -q --disable-pip-version-check -r tests/python/requirements.txt target/wheels/*.whl
	cd tests/python && GATEWAY_SCRIPT="$(CURDIR)/target/debug/script" "$(CURDIR)/$(PY)/test/bin/python" -m pytest -q
	cd $(PY) && "$(CURDIR)/$(PY)/test/bin/python" -m pytest -q -p no:cacheprovider --doctest-modules --pyargs libgateway

.PHONY: bench-python
bench-python: wheel ## Measure Python's side beside its peers
	@test -x $(PY)/bench/bin/python || "$(PYTHON)" -m venv $(PY)/bench
	$(PY)/bench/bin/pip install -q --disable-pip-version-check -r tests/python/requirements-bench.txt
	$(PY)/bench/bin/pip install -q --disable-pip-version-check --force-reinstall --no-deps target/wheels/*.whl
	$(PY)/bench/bin/python tests/python/bench.py target/bench.json

$(PY)/build/.ready: bindings-python/requirements.txt
	@mkdir -p $(PY)
	"$(PYTHON)" -m venv $(PY)/build
	$(PY)/build/bin/pip install -q --disable-pip-version-check -r bindings-python/requirements.txt
	@touch $@

# The parts of `make lint`.

.PHONY: lint-format
lint-format:
	$(CARGO) fmt --all --check

.PHONY: lint-clippy
lint-clippy:
	$(CARGO) clippy$(LOCKED) --workspace --all-targets -- -D warnings
	$(CARGO) clippy$(LOCKED) -p libgateway --no-default-features -- -D warnings
	$(CARGO) clippy$(LOCKED) -p libgateway-tests --features bench --bin bench -- -D warnings

.PHONY: lint-docs
lint-docs:
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc$(LOCKED) --no-deps --workspace

.PHONY: lint-rules
lint-rules:
	$(CARGO) test$(LOCKED) -p libgateway-tests --test house -- --quiet
