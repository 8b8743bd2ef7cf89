# Each target does all of its own set-up: a clone, CPython 3.11 or newer and cargo are enough. See tools/ci.py.
PYTHON ?= python3
CI_PY := $(PYTHON) tools/ci.py

.PHONY: help demo example-api example-etl test test-cluster bench stress lint analyser mutants docs setup clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

demo: ## crawl a real local site: bounded, with progress, resumable; Ctrl-C drains
	@$(CI_PY) demo

example-api: ## a FastAPI service over PostgreSQL and Redis: restarted under load, and what its clients saw of that
	@$(CI_PY) example-api

example-etl: ## files from a web server into PostgreSQL: interrupted, gone on with, and once on a Dask cluster
	@$(CI_PY) example-etl

test: ## lint, docs, Rust tests, the full suite, the analyser, the core suite on every other CPython, the mutation run
	@$(CI_PY) test

test-cluster: ## amap on a real Ray of this machine, whose workers are killed; CPython with Ray's wheels
	@$(CI_PY) test-cluster

bench: ## every benchmark on 3.11, 3.13, 3.14 and 3.15, asyncio and uvloop; writes docs/benchmarks.md
	@$(CI_PY) bench

stress: ## the full suite with 1e6 random cancels per object, and other libraries' suites under the leak checks
	@$(CI_PY) stress

lint: ## rustfmt, clippy, ruff, mypy --strict, stubtest
	@$(CI_PY) lint

analyser: ## crates/check: clippy, its tests, its program in target/analyser, the Python tests that need it
	@$(CI_PY) analyser

mutants: ## hand-broken variants of the core: each has to turn a test red
	@$(CI_PY) mutants

docs: ## the documentation into site/, strictly
	@$(CI_PY) docs

setup: ## .venv with everything for development, and the extension in it
	@$(CI_PY) setup

clean: ## what the other targets made
	rm -rf target .venv .venv-3.* .pythons site crawl.db* .pytest_cache .mypy_cache .ruff_cache python/loopwright/*.so
