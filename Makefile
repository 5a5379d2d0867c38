# Two commands are all the set-up there is: `make run` and `make test`.
PORT ?= 8000
WORKERS ?= 2
THREADS ?= 4
PYTHON ?= python3
BIN := .venv/bin
export FLASK_APP := app
.DEFAULT_GOAL := help
.PHONY: run test check bench help screenshots format

help: ## Shows this
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

.venv/.run: requirements.txt $(wildcard static/*.css static/*.js)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Auth Portal needs Python 3.11 or later."; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "Python's venv is missing: apt-get install python3-venv"; exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(BIN)/python -m whitenoise.compress --quiet --no-brotli static
	@touch $@

.venv/.test: .venv/.run requirements-dev.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

run: .venv/.run ## The portal with its demo and sandbox on http://127.0.0.1:8000 (PORT= changes it)
	@PORT=$(PORT) WORKERS=$(WORKERS) THREADS=$(THREADS) ./deploy/run

test: .venv/.test ## Everything: checks and tests; installs the system packages it needs where it may
	@./deploy/system-packages
	@$(MAKE) --no-print-directory check
	@$(BIN)/python -m pytest -n $${JOBS:-4}

check: .venv/.test ## Lint, types, layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -n 0 tests/test_layers.py

format: .venv/.test ## Formats the code
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

bench: .venv/.test ## What is fast and how fast, measured here
	@$(BIN)/python -m bench

screenshots: .venv/.test ## Takes the README's pictures from the running product
	@$(BIN)/python -m docs.screenshots
