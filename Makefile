# The short names of what one does here; `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RESULTS ?= $(or $(SUITE_RESULTS),results)

.DEFAULT_GOAL := help
.PHONY: help install compare report reference measured screenshots docs test lint bench functions nist sync clean

help: ## list these commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "Python 3.11 to 3.13 is needed, $(PYTHON) is another; try make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

install: $(READY) ## make .venv from requirements.lock (all others do it when needed)

compare: $(READY) ## the main job: nine tasks, first- and second-order optimizers, report and verdicts (10 minutes on two cores)
	$(BIN)/python -m suite -m experiment=quick hydra/launcher=joblib
	$(BIN)/python -m suite.report --experiment quick
	$(BIN)/python -m suite.compare --all --experiment quick

report: $(READY) ## tables, figures and index.html from the runs there are
	$(BIN)/python -m suite.report

reference: $(READY) ## README's and docs' tables and figures, anew from results/reference
	$(BIN)/python -m suite.reference
	for page in results autoencoder claims hessian_free pinn; do $(BIN)/python scripts/$${page}_page.py || exit 1; done
	$(BIN)/python scripts/methods_page.py --write-only

measured: functions nist ## docs/results' other pages: measured anew, which takes hours
	$(BIN)/python scripts/findings.py
	$(BIN)/python scripts/methods_page.py
	$(BIN)/python scripts/ogr_beale.py
	PYTHON=$(BIN)/python scripts/telemetry.sh
	PYTHON=$(BIN)/python scripts/pictures.sh

docs: $(READY) ## the documentation as a site that opens from a file: build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --clean
	@echo "build/site/index.html"

screenshots: $(READY) ## docs/pictures/report_*.png: the report in a headless Chromium
	$(BIN)/python scripts/screenshots.py

test: lint ## lint, type-check, test
	$(BIN)/python -m pytest -n 2

lint: $(READY) ## ruff, mypy, links of README and docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python scripts/links.py

bench: $(READY) ## measure the suite's overhead, oracle calls and methods beside other packages (20 minutes)
	$(BIN)/python benchmarks/bench.py
	$(BIN)/python benchmarks/matrix_free.py
	$(BIN)/python benchmarks/matrix.py
	$(BIN)/python benchmarks/natural_gradient.py
	$(BIN)/python benchmarks/diagonal.py
	$(BIN)/python benchmarks/scale.py --report
	$(BIN)/python benchmarks/functions.py

functions: $(READY) ## docs/results/functions.md: every method on the test functions, beside scipy and others (3 minutes)
	$(BIN)/python benchmarks/functions.py --write docs/results/functions.md --csv results/reference/functions.csv

nist: $(READY) ## docs/results/nist.md: NIST's nonlinear regressions, beside scipy (1 minute)
	$(BIN)/python scripts/nist_table.py --write docs/results/nist.md

sync: $(READY) ## upload the offline W&B runs (needs an account)
	find $(RESULTS)/runs -type d -name 'offline-run-*' -exec $(BIN)/wandb sync {} +

clean: ## remove the environment, caches and the generated report; runs are kept
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build *.egg-info $(RESULTS)/report
