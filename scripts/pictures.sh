#!/usr/bin/env bash
# The pictures of docs/results/pictures.md: paths on functions of two parameters, saddles, orders of convergence. About 2 minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
export SUITE_RESULTS=${SUITE_RESULTS:-$PWD/results/pictures}

"$python" -m suite -m experiment=landscapes threads=1 wandb.mode=disabled
"$python" -m suite optimizer=newton optimizer.modification=none optimizer.line_search=none \
    task=test_function task.name=quartic_saddle task.eval_every=1 scale=quick threads=1 wandb.mode=disabled
"$python" -m suite.report

figures=$SUITE_RESULTS/report/figures
for name in quartic_saddle rosenbrock himmelblau; do
    dashed=${name//_/-}
    cp "$figures/landscape-test-function-name-$dashed.png" "docs/pictures/landscape_$name.png"
    cp "$figures/animation-test-function-name-$dashed.gif" "docs/pictures/animation_$name.gif"
done
cp "$figures/order-test-function-name-rosenbrock.png" docs/pictures/order_rosenbrock.png
