# Works on a machine that has Python 3.11 and nothing else: every target installs what it needs into .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test test-slow check docs clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: install  ## the whole loop on phantom images; the last line is the path of the report
	@$(BIN)/diffaug demo out/demo

check: install  ## format, lint, types, import layers
	@BIN=$(BIN) scripts/check

test: install check  ## checks and the default tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder  # in the order of tests/conftest.py

test-slow: install  ## tests that take minutes
	$(BIN)/python -m pytest -m slow -n 2 --dist worksteal --no-header -rs

docs: install  ## the documentation site: open site/index.html
	$(BIN)/python -m mkdocs build --quiet --strict

clean:
	rm -rf out site .pytest_cache .mypy_cache .ruff_cache
