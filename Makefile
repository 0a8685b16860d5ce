# Everything starts here: `make help` lists what there is. Needs make and Python 3.11 or newer, nothing else.

PYTHON ?= python3
UV ?= uv
RUN := .venv/bin/python
COMPILE := $(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate --no-header
INSTALL := -m pip --disable-pip-version-check --no-input install -qq --require-hashes
# half of a test is waiting: for PostgreSQL, for a process to start
SIDE_BY_SIDE := --numprocesses auto --maxprocesses 8 --dist worksteal
SAY := >&2 echo

.DEFAULT_GOAL := help
.PHONY: help setup demo bench seed soak crash-points fuzz test check lock stop

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

setup: .venv/complete .venv-mds/complete ## install everything into .venv and .venv-mds; once, about a minute
	@:

demo: setup ## the whole planner on this machine, with sample data; ONCE=1 runs one sample job and ends
	@$(RUN) -m planner_site.demo $(if $(ONCE),--once)

bench: setup ## figures measured on this machine, minutes per part; ONLY=latency,pipeline takes some
	@$(RUN) -m planner_site.bench $(if $(ONLY),--only $(ONLY))

seed: setup ## ROWS=1000000 jobs as long use leaves them, minutes a million, into DATABASE_URL or the database of `manage.py`
	@$(RUN) manage.py seed $(if $(ROWS),--rows $(ROWS))

soak: setup ## kill, stop and restart everything under load, then tell what was lost; MINUTES=3 JOBS=300, PROVIDER=simulated, SEED=n repeats one
	@$(RUN) -m planner_site.soak $(if $(MINUTES),--minutes $(MINUTES)) $(if $(JOBS),--jobs $(JOBS)) $(if $(PROVIDER),--provider $(PROVIDER)) $(if $(SEED),--seed $(SEED))

crash-points: setup ## every fault at every commit and outside call, with real processes; hours; ONLY=words takes a part
	@$(RUN) -m pytest -v -m crash_points tests/test_fault_points.py tests/test_crash_points.py $(if $(ONLY),-k "$(ONLY)")

fuzz: setup ## requests made from the API's schema: no 5xx, no answer that is not documented; EXAMPLES=200 of each operation
	@FUZZ_EXAMPLES=$(or $(EXAMPLES),200) $(RUN) -m pytest $(SIDE_BY_SIDE) tests/test_fuzz.py

test: setup ## the tests, on a PostgreSQL and metadata services of their own
	@$(RUN) -m pytest $(SIDE_BY_SIDE)

check: setup ## everything that must hold before a change is handed in: format, lint, types, borders, tests
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	.venv/bin/lint-imports
	DJANGO_DEBUG=1 $(RUN) manage.py makemigrations --check --dry-run
	DJANGO_DEBUG=0 DJANGO_ALLOWED_HOSTS=planner.example.org PLANNER_PROXIES=1 DJANGO_SECRET_KEY=$$($(RUN) -c 'import secrets; print(secrets.token_urlsafe(64))') \
		$(RUN) manage.py check --deploy --fail-level WARNING
	DJANGO_DEBUG=1 $(RUN) manage.py spectacular --validate --fail-on-warn --file /dev/null
	$(RUN) -m pytest $(SIDE_BY_SIDE)

stop: ## end a running demo, bench or soak, and every embedded PostgreSQL of this checkout
	@test ! -e .venv/complete || $(RUN) -m planner_site.demo --stop
	@test ! -e .venv/complete || $(RUN) -m planner_site.postgres stop

lock: ## resolve requirements/*.lock anew from pyproject.toml and requirements/mds.in; needs uv
	$(COMPILE) --python-version 3.11 --group dev pyproject.toml -o requirements/dev.lock
	$(COMPILE) --python-version 3.11 --constraint requirements/dev.lock pyproject.toml -o requirements/planner.lock
	$(COMPILE) --python-version 3.10 requirements/mds.in -o requirements/mds.lock

# An environment without the file `complete` was interrupted, one older than its lock is out of date: both start over.

.venv/complete: requirements/dev.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python 3.11 or newer is needed; $(PYTHON) is {v[0]}.{v[1]}. Name another: make PYTHON=python3.12")'
	@$(SAY) "Installing the planner into .venv (about 30 s) ..."
	@rm -rf .venv
	@$(PYTHON) -m venv .venv
	@$(RUN) $(INSTALL) -r requirements/dev.lock
	@touch $@

# The metadata service's package needs Python 3.10 to 3.12.
.venv-mds/complete: requirements/mds.lock
	@for python in $(PYTHON) python3.12 python3.11 python3.10; do \
		if $$python -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then $(SAY) "The metadata service needs Python 3.10, 3.11 or 3.12 beside $(PYTHON): install one."; exit 1; fi; \
	$(SAY) "Installing the metadata service into .venv-mds (about 30 s) ..."; \
	rm -rf .venv-mds && $$found -m venv .venv-mds
	@.venv-mds/bin/python $(INSTALL) -r requirements/mds.lock
	@touch $@
