# Two commands on a fresh machine that has git, make and Python 3.11 or later: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test check browser servers kills bench bench-calls endless docs clean
.DEFAULT_GOAL := help

help:  ## Say what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# The environments are made anew when what they are made of changes.
$(VENV)/demo.stamp: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "pipeline_engine needs Python 3.11 or later; this is " + sys.version.split()[0] + ". Set PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/test.stamp: $(VENV)/demo.stamp
	$(BIN)/python -m pip install --quiet --editable '.[pdf,docx]' --group test --group check
	@touch $@

$(VENV)/bench.stamp: $(VENV)/demo.stamp
	$(BIN)/python -m pip install --quiet --group bench
	@touch $@

$(VENV)/docs.stamp: $(VENV)/demo.stamp
	$(BIN)/python -m pip install --quiet --group docs
	@touch $@

demo: $(VENV)/demo.stamp  ## Run the document pipeline over this repository's own docs, offline
	@mkdir -p demo
	$(BIN)/pipeline-engine run pipelines/document.py README.md docs --offline --out demo/results.jsonl --report demo/report.html

check: $(VENV)/test.stamp  ## Lint, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check  ## Everything that must hold: lint, types, layers, tests
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

browser: $(VENV)/test.stamp  ## Use the report in a real browser; that needs Chromium and Node.js
	$(BIN)/python -m tests.browser

servers: $(VENV)/test.stamp  ## Run the pipeline against servers that nobody here wrote; they need Node.js
	$(BIN)/python -m tests.servers

kills: $(VENV)/test.stamp  ## End processes by the hundred, and see what their journals keep and what is paid for twice
	$(BIN)/python -m tests.kills

bench: $(VENV)/bench.stamp  ## Print the benchmarks' ratios
	$(BIN)/python -m tests.benchmarks

bench-calls: $(VENV)/bench.stamp  ## Print what calls cost under load, up to 10,000 at once, against httpx2 and aiohttp: two processors, an hour
	$(BIN)/python -m tests.benchmarks calls

endless: $(VENV)/bench.stamp  ## Print what a million documents leave behind in memory: a quarter of an hour
	$(BIN)/python -m tests.benchmarks endless

docs: $(VENV)/docs.stamp  ## Build these pages and the docstrings as a site, in site/, and follow its links
	$(BIN)/python -m tests.site

clean:  ## Remove what was made
	rm -rf $(VENV) demo site build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
