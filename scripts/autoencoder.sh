#!/usr/bin/env bash
# K-FAC after 300 steps against Adam after 1,000 on the deep autoencoder (digits, full batch): both tuned over 20 trials,
# then run with three seeds that the tuning did not see. About 3 minutes on one core; the last lines are the table.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
trials=${TRIALS:-20}

"$python" -m suite.tune optimizer=kfac task=autoencoder steps=300 "trials=$trials"
"$python" -m suite.tune optimizer=adam task=autoencoder steps=1000 "trials=$trials"
"$python" -m suite -m optimizer=kfac task=autoencoder steps=300 seed=0,1,2 threads=1
"$python" -m suite -m optimizer=adam task=autoencoder steps=1000 seed=0,1,2 threads=1
"$python" scripts/autoencoder_table.py
