# The one door. `make` alone lists what there is.
SHELL := /bin/bash
.DEFAULT_GOAL := help
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup demo up down status doctor lab test test-unit bench lint format lock reset clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | awk -F'\t' '{ printf "  make %-10s %s\n", $$1, $$2 }'

setup: ## make .venv from the hashed lock file
	@scripts/setup

demo: setup ## the main job: start everything, promote a notebook, get a decision and a report
	@quantflow demo

up: setup ## start the local stack
	@quantflow up

down: ## stop the local stack; data are kept
	@if [ -x $(BIN)/quantflow ]; then quantflow down; else echo "nothing was ever started here"; fi

status: setup ## what is running
	@quantflow status

doctor: setup ## what is missing on this machine, and how to get it
	@quantflow doctor

lab: setup ## JupyterLab on the notebooks, with the stack's settings
	@quantflow lab

test: setup ## every test whose part is present, the real stack included
	@scripts/test

test-unit: setup ## the tests that need nothing; under a minute
	@python -m pytest -q -n auto -m "not stack and not browser and not ollama and not vllm and not faults and not containers and not slow" tests

bench: setup ## measure against the peers and write docs/benchmarks.md; wants a quiet machine
	@scripts/bench

lint: setup ## format check, lint, types, import rules
	ruff format --check .
	ruff check .
	mypy
	lint-imports

format: setup ## format and fix what can be fixed
	ruff format .
	ruff check --fix .

lock: setup ## resolve the dependencies anew into requirements.lock
	@scripts/lock

reset: ## delete the local stack's data, after asking
	@quantflow reset

clean: down ## remove the environment and caches; data are kept
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.*
