#!/usr/bin/env bash
# Hessian-free against tuned momentum and Adam on two deep autoencoders and a long-memory problem: six trials each with a
# third of the passes, then three seeds that the tuning did not see. A pass is one gradient-equivalent of every training
# image. Momentum and Adam see mini-batches of 100, Hessian-free all images. About 50 minutes on two cores. MNIST has to be
# there: python scripts/fetch_data.py mnist
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
export SUITE_RESULTS=${SUITE_RESULTS:-$PWD/results/hessian_free}
jobs=${JOBS:-2}
mkdir -p "$SUITE_RESULTS/tuned"

source scripts/own.sh

compare() { # task, training examples, passes, settings of the data
    local task=$1 examples=$2 passes=$3 data=(threads=1 "${@:4}")
    for method in momentum adam hessian_free; do
        local batch=("task.batch_size=100") trial=("steps=$((passes * examples / 300))") run=("steps=$((passes * examples / 100))")
        trial+=("task.eval_every=$((passes * examples / 3000))") run+=("task.eval_every=$((passes * examples / 4000))")
        if [ "$method" = hessian_free ]; then
            batch=("task.batch_size=null" "steps=1000" "task.eval_every=1")
            trial=("max_grad_equivalents=$((passes / 3))") run=("max_grad_equivalents=$passes")
        fi
        "$python" -m suite.tune "optimizer=$method" "task=$task" trials=6 "jobs=$jobs" "out=$SUITE_RESULTS/tuned" \
            "${data[@]}" "${batch[@]}" "${trial[@]}"
        # shellcheck disable=SC2046
        "$python" -m suite -m $(own "${task}_$method") "optimizer=$method" "task=$task" seed=0,1,2 \
            hydra/launcher=joblib "hydra.launcher.n_jobs=$jobs" wandb.mode=disabled "${data[@]}" "${batch[@]}" "${run[@]}"
    done
}

for task in ${*:-long_memory curves_autoencoder mnist_autoencoder}; do
    case $task in
        long_memory) compare long_memory 2000 300 task.train_size=2000 ;;
        curves_autoencoder) compare curves_autoencoder 1000 1200 task.train_size=1500 ;; # 500 of them for validation
        mnist_autoencoder) compare mnist_autoencoder 1000 180 task.train_size=1500 task.val_size=500 task.data=mnist ;;
    esac
done
keep hessian_free # a text given with --about would stand on the page
"$python" scripts/hessian_free_page.py --from "$archive"
