# `make` lists the targets. The two that matter on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
COMPOSE ?= docker compose

# What goes into the images: the same versions as everywhere.
IMAGE_LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.13 --generate-hashes --no-emit-index-url \
  --no-annotate --no-header --constraint requirements.lock

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types imports schemas check up down run bench lock clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## ?(.*)/\1|\2/' \
	  | while IFS='|' read -r name text; do printf '  make %-8s %s\n' "$$name" "$$text"; done

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 13)) and "Daybook needs Python 3.11 to 3.13; name one with: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

setup: $(STAMP)  ## make .venv with everything: services, local stack, tests

# On the compose stack nothing is installed here: the demonstration runs in a container as well.
ifeq ($(STACK),compose)
demo: up
	$(COMPOSE) run --rm daybook demo --attach

up:
	$(COMPOSE) up --build --wait $(UP)

down:
	$(COMPOSE) down
else
demo: $(STAMP)  ## a month of a bank through real servers (FILE=, MAPPING=, KEEP=1, STACK=compose)
	$(BIN)/python -m daybook demo $(if $(FILE),--file "$(FILE)") $(if $(MAPPING),--mapping "$(MAPPING)") $(if $(KEEP),--keep)

up: $(STAMP)  ## start the local stack in .daybook and deploy topics, schemas and search indices (STACK=compose)
	$(BIN)/daybook stack up && $(BIN)/daybook deploy apply

down: $(STAMP)  ## stop the local stack; its data stays (STACK=compose)
	$(BIN)/daybook stack down
endif

test: $(STAMP)  ## the whole test suite, on real servers (ARGS= goes to pytest)
	$(BIN)/python -m pytest $(ARGS)

lint: $(STAMP)  ## ruff: style and formatting
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(STAMP)  ## mypy --strict
	$(BIN)/mypy

imports: $(STAMP)  ## the import rules of docs/ARCHITECTURE.md
	$(BIN)/lint-imports

schemas: $(STAMP)  ## the gate for schemas: nothing released is edited, every version is read as the newest
	$(BIN)/daybook schemas check

check: lint types imports schemas  ## lint, types, import rules and schemas

run: $(STAMP)  ## command service and projectors on the local stack, until Ctrl-C
	$(BIN)/daybook run

bench: $(STAMP)  ## throughput and latency, beside a plain loop in the same run
	$(BIN)/python -m benchmarks

lock: $(STAMP)  ## write requirements.lock anew from pyproject.toml
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-annotate --no-header --all-extras --group dev --upgrade pyproject.toml -o requirements.lock
	$(IMAGE_LOCK) --group build -o deploy/image/build.lock
	$(IMAGE_LOCK) --extra tracing pyproject.toml -o deploy/image/service.lock
	$(IMAGE_LOCK) --extra tracing --extra analytics --extra activity pyproject.toml -o deploy/image/analytics.lock

clean:  ## remove .venv and caches; the stack's data stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
