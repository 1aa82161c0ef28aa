#!/usr/bin/env bash
# What the papers claim, tested: every method tuned over 12 trials, like momentum and AdamW, on a residual network and a
# character transformer, then five seeds that the tuning did not see, and docs/results/claims.md. About 45 minutes on two cores.
# METHODS="sophia_g adamw" runs some of them; what has been run already is not repeated.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
export SUITE_RESULTS=${SUITE_RESULTS:-$PWD/results/claims}
methods=${METHODS:-momentum adamw adahessian sophia_h sophia_g soaa adafisher adafisher_released sgd_ph ogr}
tasks=${TASKS:-resnet char_transformer structured_sparsity structured_sparsity_mlp}
jobs=${JOBS:-2}
mkdir -p "$SUITE_RESULTS/tuned"

source scripts/own.sh

size() { # of a task, and a method
    echo scale=quick steps=600 task.eval_every=50 threads=1
    case $1 in
        char_transformer) echo task.val_size=500 task.test_size=500 ;;
        *) echo task.val_size=2000 task.test_size=null ;;
    esac
    case $2 in ramda) ;; *) echo schedule=cosine ;; esac # it lowers its own rate
}

for task in $tasks; do
    case $task in structured*) chosen=${METHODS:-adamw prox_sgd prox_adamw ramda} ;; *) chosen=$methods ;; esac
    for method in $chosen; do
        read -ra options <<<"$(size "$task" "$method" | tr '\n' ' ')"
        [ -e "$SUITE_RESULTS/tuned/${task}_$method.yaml" ] ||
            "$python" -m suite.tune "optimizer=$method" "task=$task" trials=12 "${options[@]}" "jobs=$jobs" \
                "out=$SUITE_RESULTS/tuned"
        # shellcheck disable=SC2046
        "$python" -m suite -m $(own "${task}_$method") "optimizer=$method" "task=$task" "${options[@]}" \
            seed=0,1,2,3,4 wandb.mode=disabled
    done
done
[ -n "${METHODS:-}" ] && exit
for task in resnet char_transformer; do # AdamW on a finer grid: what its 12 trials may have missed
    read -ra options <<<"$(size "$task" adamw | tr '\n' ' ')"
    case $task in resnet) rates=0.0063,0.009,0.013,0.032 ;; *) rates=0.0032,0.0045,0.0063,0.009,0.013 ;; esac
    SUITE_RESULTS=$SUITE_RESULTS/control "$python" -m suite -m optimizer=adamw "task=$task" "${options[@]}" '~tuned' \
        "optimizer.lr=$rates" seed=0,1,2,3,4 wandb.mode=disabled
done
read -ra options <<<"$(size structured_sparsity_mlp ramda | tr '\n' ' ')" # RAMDA's best trial that ends with exact zeros
SUITE_RESULTS=$SUITE_RESULTS/control "$python" -m suite -m optimizer=ramda task=structured_sparsity_mlp "${options[@]}" \
    '~tuned' optimizer.lr=0.098 optimizer.averaging=0.3 seed=0,1,2,3,4 wandb.mode=disabled
keep claims --about "what papers claim of a method, tested: scripts/claims.sh"
"$python" -m suite.archive write "$archive/control" --runs "$SUITE_RESULTS/control/runs" \
    --about "settings chosen by hand, beside those that tuning chose"
"$python" scripts/claims_page.py --from "$archive"
