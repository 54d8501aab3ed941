# Everything needs only Python 3.11 or newer and a package index. PYTHON chooses another interpreter.
PYTHON ?= python3
VENV ?= .venv
PIP_OPTIONS ?=
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist worksteal
READY := $(VENV)/.ready

.PHONY: demo test quick check install clean

demo: install
	$(BIN)/myosotis run

test: install
	$(PYTEST)

# All but what takes long.
quick: install
	$(PYTEST) -m 'not slow'

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(READY)

# torch first and by itself: a bare torch may bring gigabytes for devices that are not there.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build dist
