#!/usr/bin/env bash
# A physics-informed network: Adam, its learning rate tuned over eight trials, for 20,000 steps with a cosine schedule, against
# second-order methods at their defaults; five seeds. About 40 minutes on one core; then docs/results/pinn.md is written.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
export SUITE_RESULTS=${SUITE_RESULTS:-$PWD/results/pinn}
mkdir -p "$SUITE_RESULTS/tuned"
seeds="seed=0,1,2,3,4"

source scripts/own.sh

run() { "$python" -m suite -m task=pinn_poisson $seeds threads=1 wandb.mode=disabled "$@"; }

"$python" -m suite.tune optimizer=adam task=pinn_poisson trials=8 steps=3000 schedule=cosine "out=$SUITE_RESULTS/tuned"
# shellcheck disable=SC2046
run $(own pinn_poisson_adam) optimizer=adam schedule=cosine steps=20000 task.eval_every=500
run optimizer=levenberg_marquardt steps=1000 task.eval_every=20
run optimizer=gauss_newton steps=200 task.eval_every=20
run optimizer=bfgs steps=5000 task.eval_every=100
run optimizer=hessian_free steps=2000 max_grad_equivalents=20000 task.eval_every=20
keep pinn --about "Poisson's equation by a physics-informed network" # docs/results/results.md shows it too: make reference
"$python" scripts/pinn_page.py --from "$archive"
