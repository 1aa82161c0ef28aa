#!/usr/bin/env bash
# The runs, pictures and numbers of docs/guide/telemetry.md: a method that wins and two that fail, watched. About 3 minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
export SUITE_RESULTS=${SUITE_RESULTS:-$PWD/results/telemetry}

watched() { "$python" -m suite "$@" scale=quick threads=1 telemetry=true wandb.mode=disabled; }

for optimizer in momentum ggn_cg; do
    watched task=autoencoder "optimizer=$optimizer" steps=2000 max_grad_equivalents=2000 task.eval_every=5 \
        telemetry_products=30
done
watched task=test_function task.name=rosenbrock optimizer=sgd optimizer.lr=0.003 steps=2000 task.eval_every=5
for run in "optimizer=newton optimizer.modification=none optimizer.line_search=none" "optimizer=saddle_free_newton"; do
    # shellcheck disable=SC2086
    watched task=test_function task.name=quartic_saddle steps=30 task.eval_every=1 $run
done
"$python" -m suite.report
"$python" scripts/telemetry_page.py
