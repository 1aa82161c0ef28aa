#!/usr/bin/env bash
# The experiments of docs/results/results.md, each whole: what configs/experiment/<name>.yaml sweeps, and the grids that one sweep
# cannot say. `scripts/experiments.sh conditioning saddles` runs two of them; runs that are done are not repeated.
# Settings that were tuned stand in configs/published, each file with the command that found it. The records go to
# results/experiments (SUITE_RESULTS says otherwise); docs/results/results.md tells how long each takes.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
export SUITE_RESULTS=${SUITE_RESULTS:-$PWD/results/experiments}
jobs=${JOBS:-2}

sweep() { "$python" -m suite -m "experiment=$1" "${@:2}" threads=1 wandb.mode=disabled hydra/launcher=joblib "hydra.launcher.n_jobs=$jobs"; }

timed() { "$python" -m suite.time "experiment=$1" "task=$2" "${@:3}" threads=1; }

conditioning() {
    sweep conditioning seed=0
    sweep conditioning seed=0 task.eval_every=20 optimizer=sgd optimizer.lr=1.0,1.5,1.9
    sweep conditioning seed=0 task.eval_every=20 optimizer=momentum optimizer.lr=0.3,1.0,3.0 optimizer.momentum=0.5,0.9,0.97,0.99,0.997
    sweep conditioning seed=0 task.eval_every=20 optimizer=adam optimizer.lr=1.0e-3,1.0e-2,3.0e-2,1.0e-1,3.0e-1
}

batch_size() { # every method at every size with five rates
    sweep batch_size optimizer=sgd optimizer.lr=0.03,0.1,0.3,1.0,3.0
    sweep batch_size optimizer=momentum optimizer.lr=0.003,0.01,0.03,0.1,0.3
    sweep batch_size optimizer=adamw optimizer.lr=3.0e-4,1.0e-3,3.0e-3,1.0e-2,3.0e-2
    sweep batch_size optimizer=kfac optimizer.lr=0.01,0.03,0.1,0.3,1.0
}

nanogpt_char() { # TEXT names nanoGPT's input.txt; AdamW as published, then tuned like the others; seconds a step at last
    local text="task.path=${TEXT:?name the text: TEXT=input.txt scripts/experiments.sh nanogpt_char}"
    local tuned=(optimizer.lr=0.00185 "optimizer.betas=[0.9,0.999]" optimizer.weight_decay=0.01)
    sweep nanogpt_char "$text"
    sweep nanogpt_char "$text" optimizer=adamw "${tuned[@]}"
    timed nanogpt_char char_transformer "$text" optimizer=adamw,kfac,soap,shampoo,muon,sophia_g
    timed nanogpt_char char_transformer "$text" optimizer=adamw "${tuned[@]}"
}

for name in "${@:?name experiments: deepobs_small autoencoder_classics kbfgs_autoencoder nanogpt_char pinn conditioning batch_size sensitivity saddles}"; do
    case $name in
        conditioning | batch_size | nanogpt_char) "$name" ;;
        *) sweep "$name" ;;
    esac
done
