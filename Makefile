# `make run` and `make test` install everything they need.
PORT ?= 8000
WORKERS ?= 2
THREADS ?= 4
PYTHON ?= python3
BIN := .venv/bin
unexport PYTHONDONTWRITEBYTECODE # the tests start a hundred processes, and each would compile all of the code
.DEFAULT_GOAL := help
.PHONY: run test test-deploy test-engines check bench lighthouse soak campaign mutants help screens screenshots format pins translations

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

.venv/.run: requirements.txt $(wildcard static/*.css static/*.js)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Auth Portal needs Python 3.11 or later."; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "Python's venv is missing: apt-get install python3-venv"; exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@$(BIN)/python -m whitenoise.compress --quiet --no-brotli static
	@touch $@

.venv/.test: .venv/.run requirements-dev.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@

run: .venv/.run ## Serve the portal with its demo and sandbox on http://localhost:8000 (another port: PORT=)
	@PORT=$(PORT) WORKERS=$(WORKERS) THREADS=$(THREADS) ./deploy/demo

test: .venv/.test ## Run all checks and tests; installs missing system packages where it may
	@./deploy/system-packages
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/bandit -q -ll -r auth_portal app.py migrations 2>/dev/null
	@$(BIN)/python -m tests.advisories
	@types=$$(mktemp); $(BIN)/mypy >$$types 2>&1 & mypy=$$!; \
	$(BIN)/python -m pytest -n $${JOBS:-3}; tests=$$?; \
	wait $$mypy; typed=$$?; cat $$types; rm $$types; test $$tests = 0 -a $$typed = 0

# SUITE= rolling, bookworm, trixie, containers or failover runs one part.
test-deploy: .venv/.test ## Upgrade and roll back, install, break and remove it on a fresh Debian 12 and 13 and in containers, as root
	@case "$(SUITE)" in "" | rolling) $(BIN)/python -m tests.releases.together && $(BIN)/python -m tests.releases.rolling ;; esac
	@case "$(SUITE)" in rolling | containers | failover) ;; *) $(BIN)/python -m tests.deploy.debian $${SUITE:+--suite $$SUITE} ;; esac
	@case "$(SUITE)" in "" | containers) $(BIN)/python -m tests.deploy.containers ;; esac
	@case "$(SUITE)" in "" | failover) $(BIN)/python -m tests.faults.failover ;; esac

test-engines: .venv/.test ## Go a customer's main way in Firefox and WebKitGTK (Debian: firefox-esr, webkit2gtk-driver, xvfb)
	@$(BIN)/python -m pytest -v -n 0 tests/engines/customer_pages.py

check: .venv/.test ## Check lint, format, types and layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/bandit -q -ll -r auth_portal app.py migrations 2>/dev/null
	@$(BIN)/python -m tests.advisories
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -n 0 tests/test_layers.py

format: .venv/.test ## Format the code
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

bench: .venv/.test ## Measure how fast it is on this machine
	@$(BIN)/python -m bench

lighthouse: .venv/.test ## Score the customer's pages with Lighthouse, as on a phone (needs npx, of Debian's package npm)
	@$(BIN)/python -m bench.lighthouse

soak: .venv/.test ## Serve customers behind nginx for MINUTES (30) and check that nothing grows
	@$(BIN)/python -m tests.deploy.soak --minutes $${MINUTES:-30}

campaign: .venv/.test ## Play faults in random combination for MINUTES (60) and check that nothing is lost
	@$(BIN)/python -m tests.faults.campaign --minutes $${MINUTES:-60} $${SEED:+--seed $$SEED}

mutants: .venv/.test ## Change one thing at a time for MINUTES (60) and see that a test notices; MODULES="tries prove" for some
	@$(BIN)/python -m tests.mutants --minutes $${MINUTES:-60} $${MODULES:+--module $$MODULES} $${SEED:+--seed $$SEED}

# The packages are the same for every Python from 3.11 on and for every machine; the hashes are those of all their files.
PIN = .venv/pins/bin/uv pip compile --quiet --python-version 3.11 --python-platform linux --generate-hashes \
  --no-annotate --custom-compile-command 'make pins' pyproject.toml
pins: ## Pin what pyproject.toml lists and all that it needs, with hashes; the newest versions: UPGRADE=--upgrade
	@$(PYTHON) -m venv .venv/pins && .venv/pins/bin/pip install --quiet --disable-pip-version-check uv
	@$(PIN) $(UPGRADE) -o requirements.txt
	@$(PIN) $(UPGRADE) --group dev -c requirements.txt -o requirements-dev.txt

translations: .venv/.run ## Extract what customers read, merge it into each language and compile; NEW=zu adds one
	@$(BIN)/python -m translations.catalogs $(NEW)

screens: .venv/.test ## Take a picture of every customer page in every state; LANGUAGES=en,zu,ar
	@$(BIN)/python -m tests.e2e.screens $${LANGUAGES:+--languages $$LANGUAGES}

screenshots: .venv/.test ## Take the pictures for the documents from the running product
	@$(BIN)/python -m docs.screenshots
