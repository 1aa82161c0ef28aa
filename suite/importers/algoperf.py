"""AlgoPerf's logs: `<submission>/study_<k>/<workload>_<framework>/trial_<j>/` with their CSVs.

The format is that of mlcommons/algorithmic-efficiency and of the logs in
mlcommons/submissions_algorithms: each trial has `eval_measurements.csv` (a row an evaluation) and
`measurements.csv` (these, and rows of the training loss), and `meta_data_0.json` with the
workload's metric, its target and the machine. Seconds are `accumulated_submission_time`, the clock
of the benchmark, which stands still during evaluations; rows of the training loss have none. A
study is a seed. As in the benchmark's rules (Dahl et al. 2023, arXiv 2306.07179, section 4.4) the
fastest trial to the target speaks for its study; its hyperparameters are kept beside it, but do not
make another configuration of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from suite.importers.foreign import (
    Facts,
    ImportFaultError,
    direction_of,
    metric_name,
    read_csv,
    read_json,
    run_of,
)
from suite.results.run import Run

SOURCE = "algoperf"
EVALUATIONS, MEASUREMENTS, META, TUNED = (
    "eval_measurements.csv",
    "measurements.csv",
    "meta_data_0.json",
    "hparams.json",
)
STEP, SECONDS = "global_step", "accumulated_submission_time"
TRIAL = re.compile(r"(?P<workload>.+)_(?P<framework>jax|pytorch)/trial_(?P<trial>\d+)$")
STUDY = re.compile(r"study_(\d+)$")
# Metric and validation target of the base workloads, version 0.6, for logs without
# meta_data_0.json.
WORKLOADS: Mapping[str, tuple[str, float]] = {
    "criteo1tb": ("loss", 0.123735),
    "fastmri": ("ssim", 0.723653),
    "finewebedu_lm": ("ppl", 22.2995),
    "imagenet_resnet": ("accuracy", 0.77431),
    "imagenet_vit": ("accuracy", 0.77309),
    "librispeech_conformer": ("wer", 0.085884),
    "librispeech_deepspeech": ("wer", 0.119936),
    "ogbg": ("mean_average_precision", 0.28098),
    "wmt": ("bleu", 30.8491),
}


@dataclass(frozen=True)
class Trial:
    """A folder with measurements, and what its path and its metadata say."""

    folder: Path
    submission: str
    study: int
    number: int
    workload: str
    framework: str
    meta: Mapping[str, Any]


def read(path: Path) -> list[Run]:
    """All runs beneath a folder: one for each study of each workload of each submission.

    Raises:
        ImportFaultError: there are none, or a file is not what it should be.
    """
    trials = [_trial(folder) for folder in _folders(path)]
    if not trials:
        raise ImportFaultError(
            f"{path} has no trials of AlgoPerf; they are folders "
            f"<submission>/study_<k>/<workload>_<framework>/trial_<j> with {EVALUATIONS} or "
            f"{MEASUREMENTS}"
        )
    targets = {
        trial.workload: _target(trial)
        for trial in trials
        if "workload.validation_target_value" in trial.meta
    }
    studies: dict[tuple[str, str, str, int], list[Run]] = {}
    for trial in trials:
        metric, target = targets.get(trial.workload) or _target(trial)
        key = (trial.submission, trial.workload, trial.framework, trial.study)
        studies.setdefault(key, []).append(_run(trial, metric, target))
    return [_fastest(trials) for trials in studies.values()]


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        raise ImportFaultError(f"{path} is no folder")
    return sorted(
        {file.parent for name in (EVALUATIONS, MEASUREMENTS) for file in path.rglob(name)}
    )


def _trial(folder: Path) -> Trial:
    match = TRIAL.search(folder.resolve().as_posix())
    study = STUDY.search(folder.parent.parent.name)
    if match is None or study is None:
        raise ImportFaultError(
            f"{folder} is no study_<k>/<workload>_<framework>/trial_<j>, by which a trial is told"
        )
    meta = read_json(folder / META) if (folder / META).exists() else {}
    submission = folder.resolve().parents[2].name
    workload = match["workload"].rsplit("/", 1)[-1]
    return Trial(
        folder, submission, int(study[1]), int(match["trial"]), workload, match["framework"], meta
    )


def _target(trial: Trial) -> tuple[str, float]:
    metric, target = (
        trial.meta.get(f"workload.{key}")
        for key in ("target_metric_name", "validation_target_value")
    )
    if isinstance(metric, str) and isinstance(target, int | float):
        return metric, float(target)
    if trial.workload not in WORKLOADS:
        raise ImportFaultError(
            f"{trial.folder} has no {META} that tells the target of {trial.workload}"
        )
    return WORKLOADS[trial.workload]


def _run(trial: Trial, metric: str, target: float) -> Run:
    name = metric_name(metric)
    facts = Facts(
        source=SOURCE,
        task=trial.workload,
        optimizer=trial.submission,
        seed=trial.study,
        metric=name,
        direction=direction_of(metric),
        settings={"framework": trial.framework},
        more={"device": "cuda", "trial": trial.number, "hyperparameters": _tuned(trial.folder)},
        target=target,
        environment=_environment(trial.meta),
    )
    return run_of(
        facts, _history(trial.folder, metric, name), "/".join(trial.folder.resolve().parts[-4:])
    )


def _history(folder: Path, metric: str, name: str) -> pd.DataFrame:
    """Evaluations and, where they were logged, the rows of the training loss, by step."""
    files = [folder / file for file in (EVALUATIONS, MEASUREMENTS) if (folder / file).exists()]
    tables = [read_csv(file, (STEP,)) for file in files]
    if not any(f"validation/{metric}" in table for table in tables):
        raise ImportFaultError(
            f"{files[0]} has no column 'validation/{metric}', the metric of the workload's target"
        )
    # the first value that is known at a step
    joined = pd.concat(tables).groupby(STEP, as_index=False).first()
    columns = {
        STEP: "step",
        SECONDS: "seconds",
        "loss": "loss",
        f"validation/{metric}": f"val/{name}",
        f"test/{metric}": f"test/{name}",
        "grad_norm": "telemetry/gradient_norm",
    }
    present = {old: new for old, new in columns.items() if old in joined}
    return joined[list(present)].rename(columns=present)


def _tuned(folder: Path) -> dict[str, Any]:
    return read_json(folder / TUNED) if (folder / TUNED).exists() else {}


def _environment(meta: Mapping[str, Any]) -> dict[str, Any]:
    names = {
        "cpu_model_name": "cpu",
        "cpu_count": "cores",
        "python_version": "python",
        "git_commit_hash": "git_commit",
    }
    environment = {name: meta[key] for key, name in names.items() if key in meta}
    if "gpu_model_name" in meta:
        environment["gpu"] = f"{meta.get('gpu_count', 1)} x {meta['gpu_model_name']}"
    return environment


def _fastest(environment: Sequence[Run]) -> Run:
    """The trial that was first at the target; where none was, the one with the best value."""

    def order(run: Run) -> tuple[float, float]:
        sign = -1.0 if run.config["direction"] == "max" else 1.0
        spent, best = run.number("target_seconds"), run.number(f"best_{run.config['metric']}")
        return spent if spent == spent else math.inf, sign * best if best == best else math.inf

    return min(environment, key=order)
