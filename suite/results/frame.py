"""One frame with a row per run: what every table and figure is computed from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import pandas as pd

from suite.config import registry
from suite.config.registry import family_rank
from suite.results.labels import (
    Settings,
    optimizer_labels,
    optimizer_settings,
    problem_labels,
    problem_settings,
    unique_runs,
)
from suite.results.run import TRAINED, Damage, Run, plain
from suite.results.timings import Timings, speed_key

RUN_COLUMNS = (
    "experiment",
    "problem",
    "task",
    "scale",
    "optimizer",
    "seed",
    "status",
    "device",
    "parallel",
    "metric",
    "direction",
)
OWN_COLUMNS = ("step", "seconds", "grad_equivalents", "loss")

Asked = ParamSpec("Asked")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Records:
    """All that the report knows.

    Attributes:
        frame: a row per unique run, in the order of problem, family, optimizer, seed; its index is
            a running number.
        runs: the runs as they were read, under the frame's index.
        histories: the curve of each run, under the frame's index.
        environments: the environment of each run, under the frame's index.
        problem_settings: the full settings behind each problem's label.
        optimizer_settings: the full settings behind each (problem, optimizer) label.
        damaged: the directories that were skipped.
        repeats: the directories of runs that repeat a configuration and seed, left out.
        timings: what `suite.time` measured, by the key of the settings and the hardware.
        answers: what functions marked `once` have found out, by the function and its further
            arguments.
    """

    frame: pd.DataFrame
    runs: dict[int, Run]
    histories: dict[int, pd.DataFrame]
    environments: dict[int, dict[str, Any]]
    problem_settings: dict[str, Settings]
    optimizer_settings: dict[tuple[str, str], Settings]
    damaged: list[Damage]
    repeats: list[str]
    timings: Timings = field(default_factory=dict)
    answers: dict[tuple[Any, ...], Any] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @cached_property
    def problems(self) -> list[str]:
        """The problems' labels, in the order of the tables."""
        return list(dict.fromkeys(self.frame["problem"]))

    @cached_property
    def optimizers(self) -> list[str]:
        """The optimizers' labels, family by family."""
        ordered = self.frame.sort_values(["family_rank", "optimizer"], kind="stable")
        return list(dict.fromkeys(ordered["optimizer"]))

    def of(self, problem: str) -> pd.DataFrame:
        """The runs on one problem."""
        return self._by_problem.get(problem, self.frame.iloc[:0])

    def pair(self, problem: str, optimizer: str) -> pd.DataFrame:
        """The runs of one cell."""
        return self._by_pair.get((problem, optimizer), self.frame.iloc[:0])

    @cached_property
    def _by_problem(self) -> dict[str, pd.DataFrame]:
        """The frame cut up once: tables and figures ask for its parts thousands of times."""
        return {str(problem): runs for problem, runs in self.frame.groupby("problem", sort=False)}

    @cached_property
    def _by_pair(self) -> dict[tuple[str, str], pd.DataFrame]:
        groups = self.frame.groupby(["problem", "optimizer"], sort=False)
        return {(str(problem), str(optimizer)): runs for (problem, optimizer), runs in groups}

    def tidy(self) -> pd.DataFrame:
        """One long frame for a reader's own analysis: a row per logged step of every run.

        Columns of the run: run_id, experiment, problem (the label of the tables), task, scale,
        optimizer (the label), seed, status, device, parallel (the run shared its machine, so that
        its seconds are rough), metric, direction.
        Columns of the step: step, seconds, grad_equivalents, loss (of the mini-batch), value (the
        metric on the validation split) and test_value, NaN where not measured.
        A run without a history has a single row, without a step, so that it stays countable.
        """
        runs = self.frame[list(RUN_COLUMNS)]
        runs.insert(0, "run_id", self.frame["path"].str.rpartition("/")[2])
        steps = {
            index: _steps(history, str(self.frame.loc[index, "metric"]))
            for index, history in self.histories.items()
            if index in self.frame.index
        }
        logged = pd.concat(steps, names=["run", "row"]).droplevel("row")
        return runs.join(logged).reset_index(drop=True)

    def pairs(self) -> list[tuple[str, str, pd.DataFrame]]:
        """Every cell that has runs, problem by problem."""
        cells = [
            (problem, name, self.pair(problem, name))
            for problem in self.problems
            for name in self.optimizers
        ]
        return [(problem, name, runs) for problem, name, runs in cells if len(runs)]


def once(
    function: Callable[Concatenate[Records, Asked], Answer],
) -> Callable[Concatenate[Records, Asked], Answer]:
    """Cache the result of a function of records, which several sections call.

    Callers must not change the result.

    The function's last argument, if it has any beside the records, names a problem, and the answer
    depends on the runs of that problem alone: `only` hands it on.
    """

    @wraps(function)
    def answer_once(records: Records, /, *asked: Asked.args, **named: Asked.kwargs) -> Answer:
        key = (function, *asked, *named.values())
        if key not in records.answers:
            records.answers[key] = function(records, *asked, **named)
        answer: Answer = records.answers[key]
        return answer

    return answer_once


def only(records: Records, problem: str) -> Records:
    """The records of one problem, for the same section functions that look at all of them."""
    frame = records.of(problem)
    part = replace(
        records,
        frame=frame,
        environments={index: records.environments[index] for index in frame.index},
        problem_settings={problem: records.problem_settings[problem]},
        optimizer_settings={
            key: value for key, value in records.optimizer_settings.items() if key[0] == problem
        },
        damaged=[],
        repeats=[],
    )
    part.answers.update(
        {key: answer for key, answer in records.answers.items() if key[1:] and key[-1] == problem}
    )
    return part


def build_records(
    runs: Sequence[Run], damaged: Sequence[Damage], timings: Timings | None = None
) -> Records:
    """Label the runs, drop repeats, and lay them out as one frame.

    `timings` are those of `suite.time`.
    """
    unique, repeats = unique_runs(runs)
    settings = problem_settings(unique)
    problems = problem_labels(unique, settings)
    optimizers = optimizer_labels(unique, problems)
    rows = [
        _row(*each, timings or {})
        for each in zip(unique, settings, problems, optimizers, strict=True)
    ]
    frame = pd.DataFrame(rows).sort_values(
        ["problem", "family_rank", "optimizer", "seed"], kind="stable"
    )
    order = list(frame.index)
    return Records(
        frame=frame,
        runs={index: unique[index] for index in order},
        histories={index: unique[index].history for index in order},
        environments={index: unique[index].environment for index in order},
        problem_settings={problems[index]: settings[index] for index in order},
        optimizer_settings={
            (problems[index], optimizers[index]): optimizer_settings(unique[index])
            for index in order
        },
        damaged=list(damaged),
        repeats=[_place(run) for run in repeats],
        timings=timings or {},
    )


def one_seed(runs: pd.DataFrame) -> pd.DataFrame:
    """One run of each optimizer: of the seed that most have, or of its own first seed."""
    counts = runs.groupby("seed")["optimizer"].nunique()
    common = counts.idxmax()
    ordered = runs.assign(other=runs["seed"] != common).sort_values(
        ["other", "seed"], kind="stable"
    )
    return runs.loc[sorted(ordered.drop_duplicates("optimizer").index, key=list(runs.index).index)]


def seed_text(runs: pd.DataFrame) -> str:
    """`seed 0`, or `seeds 0, 1` where the optimizers have no seed in common."""
    seeds = sorted(set(runs["seed"]))
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _steps(history: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The logged steps of one run under names that do not depend on its metric."""
    columns = metric_columns(metric)
    # a history has a column `value` of its own, which counts evaluations of the objective
    sources = [*OWN_COLUMNS, columns["val"], columns["test"]]
    steps = history.reindex(columns=sources).astype(float)
    return steps.set_axis([*OWN_COLUMNS, "value", "test_value"], axis=1)


def metric_columns(metric: str) -> dict[str, str]:
    """Where the history keeps a metric: validation and test."""
    return {"val": f"val/{metric}", "test": f"test/{metric}"}


def hardware(device: str, environment: Mapping[str, Any]) -> str:
    """What a run's seconds were measured on: timing tables never mix two of these."""
    name = environment.get("gpu" if device == "cuda" else "cpu")
    threads = environment.get("threads")
    parts = [device, _name(name)]
    if device != "cuda" and isinstance(threads, int):
        parts.append(f"{threads} thread{'s' if threads != 1 else ''}")
    return ", ".join(part for part in parts if part)


def _row(
    run: Run, settings: Settings, problem: str, optimizer: str, timings: Timings
) -> dict[str, Any]:
    metric = settings.get("metric", "metric")
    device = settings.get("device", "cpu")
    family = registry.family(run.config["optimizer"])
    numbers = ("final_loss", "seconds_per_step", "state_bytes", "peak_memory_bytes")
    targets = ("target", "target_step", "target_seconds", "target_grad_equivalents")
    return {
        "problem": problem,
        "optimizer": optimizer,
        "name": run.optimizer,
        "task": run.task,
        "seed": run.seed,
        "status": run.status,
        "message": run.message,
        "family": family,
        "family_rank": family_rank(family),
        "metric": metric,
        "direction": "max" if settings.get("direction") == "max" else "min",
        "final": run.number(f"final_{metric}"),
        "best": run.number(f"best_{metric}"),
        "test": _last(run.history, metric_columns(metric)["test"]),
        "steps": run.number("steps"),
        "grad_equivalents": _last(run.history, "grad_equivalents"),
        **{key: run.number(key) for key in (*numbers, *targets)},
        "parallel": bool(run.summary.get("parallel", False)),
        "device": device,
        "hardware": hardware(device, run.environment),
        "exclusive_seconds_per_step": isolated_seconds(run, timings),
        "scale": plain(run.config.get("scale") or ""),
        "experiment": plain(run.config.get("experiment") or ""),
        "command": plain(run.config.get("command") or ""),
        "path": _place(run),
    }


def isolated_seconds(run: Run, timings: Timings) -> float:
    """Seconds of a step with the run's hardware to itself.

    The value is NaN without an isolated timing on that hardware.
    """
    place = hardware(str(run.config.get("device", "cpu")), run.environment)
    timing = timings.get((speed_key(run.config), place)) if timings else None
    return float("nan") if timing is None or timing.shared else timing.seconds_per_step


def _last(history: pd.DataFrame, column: str) -> float:
    """The last value of a history's column that is a number."""
    values = history[column].dropna() if column in history else pd.Series(dtype=float)
    return float(values.iloc[-1]) if len(values) else float("nan")


def _place(run: Run) -> str:
    return "/".join(run.path.parts[-3:])


def _name(value: Any) -> str:
    """The device's name, whether it stands alone or as the `name` of a mapping."""
    return plain((value.get("name") if isinstance(value, Mapping) else value) or "")


SHARED = "~ marks seconds from runs that shared cores with others: read them as rough."


def timed_runs(runs: pd.DataFrame) -> pd.Series:
    """Which runs trained long enough for their time per step to mean something."""
    return runs["status"].isin(TRAINED) & (runs["seconds_per_step"] > 0)


def step_times(runs: pd.DataFrame) -> tuple[list[float], bool]:
    """Seconds per step of one cell, and whether they come from shared cores.

    Runs that had their cores to themselves push the others out.
    """
    timed = runs[timed_runs(runs)]
    alone = timed[~timed["parallel"]]
    chosen = alone if len(alone) else timed
    return [float(value) for value in chosen["seconds_per_step"]], len(alone) == 0 and len(
        timed
    ) > 0
