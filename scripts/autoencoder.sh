#!/usr/bin/env bash
# K-FAC against momentum and Adam on the deep autoencoder (digits, full batch). Momentum, Adam and K-FAC with a learning
# rate are tuned over 20 trials each; K-FAC with adapted damping and step length runs with its defaults. Then five seeds
# that the tuning did not see, and docs/results/autoencoder.md. About 6 minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
export SUITE_RESULTS=${SUITE_RESULTS:-$PWD/results/autoencoder}
trials=${TRIALS:-20}
mkdir -p "$SUITE_RESULTS/tuned"

source scripts/own.sh

length() { case $1 in momentum | adam) echo 2000 ;; kfac) echo 1000 ;; *) echo 500 ;; esac; }

for method in momentum adam kfac; do
    "$python" -m suite.tune "optimizer=$method" task=autoencoder "steps=$(length "$method")" "trials=$trials" threads=1 \
        "out=$SUITE_RESULTS/tuned"
done
for method in momentum adam kfac kfac_adaptive; do # one after the other, so that the seconds can be compared
    choice=tuned=null
    [ -e "$SUITE_RESULTS/tuned/autoencoder_$method.yaml" ] && choice=$(own "autoencoder_$method")
    # shellcheck disable=SC2086
    "$python" -m suite -m $choice "optimizer=$method" task=autoencoder \
        "steps=$(length "$method")" seed=0,1,2,3,4 threads=1 log_every=1 wandb.mode=disabled
done
keep autoencoder --rows 2001 --about "K-FAC on the deep autoencoder: scripts/autoencoder.sh" # every step: levels are read off
"$python" scripts/autoencoder_page.py --from "$archive"
