# Every target makes its own virtual environment in .venv and installs what it needs, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Of the tests: those that look at the same run share one (tests/conftest.py).
WORKERS ?= -n auto --maxprocesses 4 --dist loadgroup

.PHONY: help train test check types audit fast nightly clean

help:
	@echo "make train   install, then train the three phases on the embedded market and compare with the baselines"
	@echo "             (make train ARGS='--market bars.parquet --macro macro.parquet' trains on your own bars)"
	@echo "make test    install, then run every test (MTQUANT_BARS=folder adds those on real bars)"
	@echo "make check   format, lint, types, an audit of the dependencies and the fast tests: a minute"
	@echo "make nightly what takes hours: kills, damage, full disks, benches, an hour's soak"
	@echo "make clean   remove .venv and caches; runs/ stays"

$(VENV)/run.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

train: $(VENV)/run.stamp
	$(BIN)/mtquant train --config laptop.yaml $(ARGS)

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest $(WORKERS) $(ARGS)

# Side by side: types take one core, the audit mostly waits for an answer.
check: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(MAKE) --no-print-directory --jobs 3 types audit fast

types: $(VENV)/dev.stamp
	$(BIN)/mypy mtquant_rllib

audit: $(VENV)/dev.stamp
	$(BIN)/python .ci/audit.py

fast: $(VENV)/dev.stamp
	$(BIN)/python -m pytest $(WORKERS) -m "not slow and not ray and not nightly" $(ARGS)

nightly: $(VENV)/dev.stamp
	$(BIN)/python -m pytest tests -m nightly $(ARGS)
	$(BIN)/python -m pytest nightly $(ARGS)

clean:
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist
