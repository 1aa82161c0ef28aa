"""DeepOBS's output: a JSON file a run, with lists over epochs, as in DeepOBS_Baselines.

`train_losses`, `test_losses` and, where the problem has them, `*_accuracies` have a value before
training and after each epoch; `minibatch_train_losses` one for every `train_log_interval`-th step
of an epoch. Version 1.2 adds `valid_*`. Before it there was no validation set, and its published
results are those on the test set: they stand here as `val/` so that they can be looked at beside
others, and the problem's settings say so. No times were recorded, so seconds are unknown; a step is
one forward and one backward pass, so gradient-equivalents are steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from suite.importers.foreign import EVALUATED_LOSS, Facts, ImportFaultError, read_json, run_of
from suite.results.run import Run

SOURCE = "deepobs"
NEEDED = (
    "train_losses",
    "test_losses",
    "optimizer",
    "testproblem",
    "num_epochs",
    "batch_size",
    "random_seed",
)
SPLITS = {"valid": "validation set", "test": "test set"}


def read(path: Path) -> list[Run]:
    """All runs beneath a folder, or the one in a file.

    Raises:
        ImportFaultError: there are none, or a file is not what it should be.
    """
    files = [path] if path.is_file() else sorted(path.rglob("*.json"))
    if not files:
        raise ImportFaultError(
            f"{path} has no JSON files; DeepOBS writes "
            "<testproblem>/<optimizer>/<setting>/<seed>.json"
        )
    return [_run(file) for file in files]


def _run(file: Path) -> Run:
    content = read_json(file)
    absent = [key for key in NEEDED if key not in content]
    if absent:
        raise ImportFaultError(f"{file} is no output of DeepOBS: it has no {absent[0]!r}")
    metric = "accuracy" if _listed(content, "test_accuracies") else EVALUATED_LOSS
    split = "valid" if _listed(content, "valid_losses") else "test"
    history = _history(file, content, metric, split)
    facts = Facts(
        source=SOURCE,
        task=str(content["testproblem"]),
        optimizer=str(content["optimizer"]),
        seed=int(content["random_seed"]),
        metric=metric,
        direction="max" if metric == "accuracy" else "min",
        settings={
            "batch_size": content["batch_size"],
            "epochs": content["num_epochs"],
            "weight_decay": content.get("weight_decay") or content.get("l2_reg"),
            "judged_on": SPLITS[split],
        },
        hyperparameters=_hyperparameters(content),
        status=_status(content),
    )
    return run_of(facts, history, file.name + str(_hyperparameters(content)) + facts.task)


def _history(file: Path, content: Mapping[str, Any], metric: str, split: str) -> pd.DataFrame:
    """A row for each logged mini-batch and each evaluation."""
    epochs = len(content["train_losses"]) - 1
    per_epoch, interval = _steps(file, content, epochs)
    evaluated = pd.DataFrame({"step": np.arange(epochs + 1) * float(per_epoch)})
    kind = "accuracies" if metric == "accuracy" else "losses"
    for name, prefix in (("val", split), ("test", "test")):
        values = _listed(content, f"{prefix}_{kind}")
        if len(values) != epochs + 1:
            raise ImportFaultError(
                f"{file}: {prefix}_{kind} has {len(values)} values for {epochs} epochs, not "
                f"{epochs + 1}"
            )
        evaluated[f"{name}/{metric}"] = np.asarray(values, dtype=float)
    evaluated["loss"] = np.where(
        np.arange(epochs + 1) > 0, np.asarray(content["train_losses"], dtype=float), np.nan
    )
    batches = np.asarray(_listed(content, "minibatch_train_losses"), dtype=float)
    if len(batches):  # the loss that is logged with step k + 1 is that of the parameters before it
        count = len(batches) // epochs
        within = np.tile(np.arange(count) * float(interval), epochs)[: len(batches)]
        logged = np.repeat(np.arange(epochs) * float(per_epoch), count) + within + 1.0
        frame = pd.DataFrame({"step": logged, "loss": batches})
        evaluated = (
            pd.concat([frame, evaluated.drop(columns="loss")])
            .groupby("step", as_index=False)
            .first()
        )
    return evaluated.assign(grad_equivalents=evaluated["step"])


def _steps(file: Path, content: Mapping[str, Any], epochs: int) -> tuple[int, int]:
    """Steps of an epoch and between two logged ones.

    With an interval above 1, up to interval - 1 steps too many.
    """
    interval = int(content.get("train_log_interval") or 1)
    batches = _listed(content, "minibatch_train_losses")
    if epochs < 1 or len(batches) % epochs:
        raise ImportFaultError(
            f"{file}: {len(batches)} mini-batch losses in {epochs} epochs: cut off, or not of "
            "DeepOBS"
        )
    return (
        len(batches) // epochs or 1
    ) * interval, interval  # without a log of steps, a step is an epoch


def _hyperparameters(content: Mapping[str, Any]) -> dict[str, Any]:
    """The learning rate, the optimizer's settings under either version's name, and the schedule."""
    own = content.get("optimizer_hyperparams", content.get("hyperparams")) or {}
    schedule = {
        key: content[key] for key in ("lr_sched_epochs", "lr_sched_factors") if content.get(key)
    }
    lr = {} if "learning_rate" not in content else {"lr": content["learning_rate"]}
    return {
        **lr,
        **{key: value for key, value in own.items() if key not in ("learning_rate",)},
        **schedule,
    }


def _status(content: Mapping[str, Any]) -> str:
    ends = [
        float(content[key][-1]) for key in ("train_losses", "test_losses") if _listed(content, key)
    ]
    return "done" if all(map(math.isfinite, ends)) else "diverged"


def _listed(content: Mapping[str, Any], key: str) -> list[float]:
    values = content.get(key)
    return values if isinstance(values, list) else []
