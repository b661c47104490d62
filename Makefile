# Every target sets up what it needs: only Python 3.11+ and make are assumed.

# As given; otherwise the fastest build there is of the version that python3 has.
PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
STACK := $(VENV)/.stack
# Each has a stack of its own; most tests wait for something most of the time.
WORKERS ?= 4
# Also where the environment says otherwise: each process that a test starts would compile what it imports again.
test test-secure: export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo up test test-secure test-compose mutate lint chaos compare bench bench-against bench-api bench-console \
	bench-lists bench-relay bench-secured bench-tracing lock clean

help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

demo: $(STACK) ## Run 2,000 withdrawals on a stack of its own, audited
	@$(BIN)/settle demo

up: $(STACK) ## Start Kafka, PostgreSQL and every service; Ctrl-C stops them
	@$(BIN)/settle up

test: $(STACK) ## Run all tests on real Kafka and real PostgreSQL
	@$(BIN)/python -m pytest -n $(WORKERS) --no-loadscope-reorder

# Withdrawals, faults, crashes, dead letters, the audit, retries, the relay, a minute of chaos.
SECURE_TESTS = $(addprefix tests/integration/,test_secured.py test_withdrawals.py test_faults.py test_crashes.py \
	test_dead_letters.py test_gaps.py test_audit.py retries relay/test_faults.py \
	relay/test_coverage.py relay/test_table.py test_demo.py test_chaos.py)

test-secure: $(STACK) ## Run the core of the tests once more, on secured stacks
	@SETTLE_TEST_SECURE=1 $(BIN)/python -m pytest -n $(WORKERS) --no-loadscope-reorder $(SECURE_TESTS)

test-compose: $(READY) ## Test the compose stack; needs a Docker engine
	@$(BIN)/python -m pytest tests/compose

mutate: $(READY) ## Change one expression at a time where money is judged; list what no test notices
	@$(BIN)/python -m tests.mutate $(MUTATE)

lint: $(READY) ## Check style and types, and the compose file where it can be
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy .
	@if docker compose version >/dev/null 2>&1; then docker compose --profile '*' config --quiet; \
	else echo 'docker-compose.yml is not checked: no docker compose here'; fi
	@if command -v hadolint >/dev/null; then hadolint Dockerfile; \
	else echo 'Dockerfile is not checked: no hadolint here'; fi

chaos: $(STACK) ## Break everything for 10 minutes; prove that nothing was lost
	@$(BIN)/settle chaos --minutes 10 --pause --duplicates $(CHAOS)

compare: $(STACK) ## Run five ways to withdraw; rewrites docs/choosing.md
	@$(BIN)/settle compare --markdown docs/choosing.md --chart docs/choosing.png --json docs/choosing.json

bench: $(STACK) ## Measure the pipeline and what tracing costs; writes lab/benchmarks/results/
	@$(BIN)/python -m lab.benchmarks.pipeline
	@$(BIN)/python -m lab.benchmarks.tracing

bench-against: $(STACK) ## Measure this tree and REV=commit in turn; prints the ratios
	@test -n "$(REV)" || { echo 'name what to compare with: make bench-against REV=fa4d228'; exit 2; }
	@$(BIN)/python -m lab.benchmarks.against $(REV) $(AGAINST)

bench-api: $(STACK) ## Measure the HTTP API; needs wrk; writes lab/benchmarks/results/api.json
	@$(BIN)/python -m lab.benchmarks.api

bench-console: $(STACK) ## Measure the console's pages and streams; writes lab/benchmarks/results/console.json
	@$(BIN)/python -m lab.benchmarks.console

bench-lists: $(STACK) ## Measure lists of withdrawals with few and a million stored; writes lab/benchmarks/results/lists.json
	@$(BIN)/python -m lab.benchmarks.lists

bench-secured: $(STACK) ## Measure a secured stack beside one without; writes lab/benchmarks/results/secured.json
	@$(BIN)/python -m lab.benchmarks.secured

bench-tracing: $(STACK) ## Measure what tracing costs, alone
	@$(BIN)/python -m lab.benchmarks.tracing

bench-relay: $(STACK) ## Measure the relay; writes lab/benchmarks/results/relay.json
	@$(BIN)/python -m lab.benchmarks.relay

# uv, for it knows every Python and platform at once; versions that the locks have are kept where they fit.
COMPILE = $(VENV)/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --custom-compile-command 'make lock' $(LOCK)

lock: $(READY) ## Write the exact versions and hashes that pyproject.toml asks for; LOCK=--upgrade: the newest
	@$(BIN)/python -m venv $(VENV)/lock
	@$(VENV)/lock/bin/python -m pip install --quiet --disable-pip-version-check 'uv==0.13.9'
	@$(COMPILE) --extra dev --output-file requirements.lock pyproject.toml
	@$(COMPILE) --extra relay --extra services --constraint requirements.lock --no-annotate \
		--output-file deploy/requirements.lock pyproject.toml
	@$(COMPILE) --constraint requirements.lock --no-annotate --output-file deploy/relay/requirements.lock \
		deploy/relay/pyproject.toml
	@echo setuptools | $(COMPILE) --constraint requirements.lock --no-annotate --output-file deploy/build.lock -

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis settle.egg-info

$(READY): pyproject.toml requirements.lock
	@$(or $(PYTHON),python3) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'settle needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ...'; exit 1; }
	@if test -z "$(PYTHON)" && $(BIN)/python -c 'import ssl' 2>/dev/null; then \
		echo 'bringing $(VENV) up to date'; \
	else \
		python="$(PYTHON)"; python="$${python:-$$(python3 stack/interpreter.py)}"; \
		echo "setting up $(VENV) with $$python (once, about a minute)"; "$$python" -m venv --clear $(VENV); \
	fi
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(STACK): $(READY)
	@$(BIN)/python -m stack.setup
	@touch $@
