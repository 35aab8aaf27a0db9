# `make run [DIR=…]` watches DIR (default: a small demo library that it makes) and shows what it finds.
# `make test` and `make check` are all that CI runs; `make bench`, `make soak` and `make system-test` take longer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo-library
DIR ?= $(DEMO)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: run test check format bench soak system-test clean

run: $(VENV)/.daemon
	@if [ "$(DIR)" = "$(DEMO)" ]; then $(BIN)/python -m bench.demo $(DEMO); fi
	@echo "Watching $(DIR): copy files in, remove some. $(BIN)/loractl status tells more. Ctrl-C stops."
	@$(BIN)/lorad --watch "$(DIR)" --log-format console

test: $(VENV)/.dev
	$(BIN)/python -m pytest

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev
	$(BIN)/python -m bench
	$(BIN)/python -m bench.path
	$(BIN)/python -m bench.startup
	$(BIN)/python -m bench.publish
	$(BIN)/python -m bench.daemon
	$(BIN)/python -m bench.hashes
	$(BIN)/python -m bench.listing
	$(BIN)/python -m bench.understand
	$(BIN)/python -m bench.change_surgery
	$(BIN)/python -m bench.change_compare
	$(BIN)/python -m bench.change_bake

# The integration tests with 200 killed scans instead of 15, 1,000 kills of a daemon and its children instead of
# 25, 100 histories instead of 10, and 50 histories of an owner for each action instead of one; all of them new ones.
soak: $(VENV)/.dev
	LORAD_RANDOM=1 LORAD_KILLS=200 LORAD_DAEMON_KILLS=1000 LORAD_HISTORIES=100 LORAD_OWNERS=50 LORAD_DEDUPE_EXAMPLES=1500 \
		LORAD_EDIT_STRIDE=1 \
		$(BIN)/python -m pytest tests/integration tests/daemon/dedupe/test_owner.py tests/toolkit/jobs/edit --timeout 7200

# The service under a real systemd in a container, as root: installed from the wheel, in both profiles. It needs
# Debian's packages debootstrap and systemd-container, and keeps the container (300 MB) for the next time.
system-test: $(VENV)/.dev
	LORAD_SYSTEM_TEST=$${LORAD_SYSTEM_TEST:-/var/tmp/lorad-system-test} $(BIN)/python -m pytest tests/system

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "lorad needs Python 3.11 or newer"'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.daemon: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) -e '.[daemon]'
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) torch
	$(PIP) -e '.[dev]'
	$(PIP) atheris || echo "atheris could not be installed: the coverage-guided fuzz test will skip"
	@touch $@ $(VENV)/.daemon

clean:
	rm -rf $(VENV) $(DEMO) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
