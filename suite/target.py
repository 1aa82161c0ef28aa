"""Targets from a tuned baseline.

    python -m suite.target task=mlp,cnn [optimizer=adamw] [seeds=0,1,2] [key=value ...]

The target of a task is the median, over the seeds, of the baseline's final validation value. Four
levels lead to it: 50, 80, 95 and 100 % of the improvement from the untrained value, on a log scale
where the metric falls by more than two decades. They are stored with the runs they come from in
configs/targets/<task>.yaml, an entry for each scale; from then on every run of the task at that
scale carries the levels, and the target where the task has none of its own.

The runs are ordinary ones of `python -m suite`: a run that is done already is taken from its
record. `out=FOLDER` stores elsewhere; all other words are settings of the runs.
"""

from __future__ import annotations

import csv
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import yaml

from suite import paths
from suite.config import messages, overrides, registry, targets, words
from suite.errors import ConfigError
from suite.files import write_atomically

if TYPE_CHECKING:
    from suite.config.plan import Plan
    from suite.training.runner import Outcome

BASELINE = "adamw"
SEEDS = (0, 1, 2)
HEADER = (
    "# Levels of the validation metric that runs are timed to: shares of the improvement of the "
    "tuned baseline.",
    "# Made by `python -m suite.target`; what they mean and where they hold: docs/guide/timing.md.",
)


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        tasks: the tasks that get a target.
        optimizer: the baseline.
        seeds: of its runs.
        overrides: further settings of every run, as typed.
        out: the folder of the stored targets.
    """

    tasks: Sequence[str]
    optimizer: str = BASELINE
    seeds: Sequence[int] = SEEDS
    overrides: Sequence[str] = ()
    out: Path = targets.FOLDER

    def command(self, task: str) -> str:
        """What repeats this for one task."""
        seeds = ",".join(map(str, self.seeds))
        own = [f"task={task}", f"optimizer={self.optimizer}", f"seeds={seeds}"]
        return shlex.join(["python", "-m", "suite.target", *own, *self.overrides])


@dataclass(frozen=True)
class Ended:
    """One of the baseline's runs that went to its end."""

    seed: int
    run: str
    untrained: float
    final: float


def establish(request: Request) -> list[Path]:
    """Set the targets of all tasks; a task without one does not hinder the others.

    Raises:
        ConfigError: for some task no target can be set; the message has the reason of each.
    """
    written, refused = [], []
    for task in request.tasks:
        try:
            written.append(set_target(request, task))
        except ConfigError as error:
            refused.append(f"{task}: {error}")
    if refused:
        raise ConfigError("\n".join(["No target was set for", *refused]))
    return written


def set_target(request: Request, task: str) -> Path:
    """Run the baseline, or read its records, and store the values that it reaches.

    Raises:
        ConfigError: a run failed, or the baseline improves nothing.
    """
    plans = [plan_of(request, task, seed) for seed in request.seeds]
    runs, metric, direction = _runs_of(plans)
    entry = entry_of(plans[0], runs, metric, direction)
    entry["origin"]["command"] = request.command(task)
    entry["origin"]["tuned"] = _tuned(task, request)
    path = request.out / f"{plans[0].task}.yaml"
    scale = str(plans[0].config["scale"])
    store({**targets.read(path), scale: entry}, path)
    print(_in_words(plans[0], entry, path), flush=True)
    return path


def plan_of(request: Request, task: str, seed: int) -> Plan:
    """One of the baseline's runs.

    Its target is the task's own, so that a stored one does not make it another run.
    """
    from suite.config.compose import compose_plan

    pair = [f"optimizer={request.optimizer}", f"task={task}", f"seed={seed}"]
    return compose_plan([*pair, "target=${task.target}", *request.overrides], paths.results())


def _runs_of(plans: Sequence[Plan]) -> tuple[list[Ended], str, str]:
    """The baseline's runs, the metric and its direction.

    Raises:
        ConfigError: a run failed.
    """
    from suite.multirun import note_outcome
    from suite.results.status import Status
    from suite.training.runner import run

    ended = []
    for plan in plans:
        outcome = run(plan)
        note_outcome(plan, outcome)
        if outcome.status is Status.INTERRUPTED:
            raise KeyboardInterrupt
        if outcome.status is not Status.DONE:
            raise ConfigError(_why_not(plan, outcome))
        ended.append(_ended(plan, outcome))
    described = yaml.safe_load((plans[0].directory / "config.yaml").read_text())
    return ended, str(described["metric"]), str(described["direction"])


def _why_not(plan: Plan, outcome: Outcome) -> str:
    because = f" ({outcome.summary['message']})" if outcome.summary["message"] else ""
    return (
        f"the baseline {plan.optimizer} ended as `{outcome.status}` with seed "
        f"{plan.seed}{because}, and a target is the median of whole runs. Tune it: python -m "
        f"suite.tune optimizer={plan.optimizer} task={plan.task}; or take another: optimizer=... "
        f"To repeat the run: {plan.command} force=true"
    )


def _ended(plan: Plan, outcome: Outcome) -> Ended:
    with (plan.directory / "history.csv").open(newline="") as file:
        first = next(csv.DictReader(file))
    place = f"{plan.task}/{plan.optimizer}/{plan.run_id}"
    untrained = float(first[f"val/{outcome.metric}"])
    return Ended(plan.seed, place, untrained, float(outcome.summary[f"final_{outcome.metric}"]))


def entry_of(plan: Plan, runs: Sequence[Ended], metric: str, direction: str) -> dict[str, Any]:
    """The stored entry of one scale.

    Raises:
        ConfigError: the median of the runs is no improvement over the untrained model.
    """
    untrained, final = (
        median(getattr(run, name) for run in runs) for name in ("untrained", "final")
    )
    from suite.config.plan import without_descriptions

    try:
        ladder = targets.ladder(untrained, final, direction)
    except ValueError as error:
        raise ConfigError(f"the baseline {plan.optimizer} sets no target: {error}") from error
    return {
        "metric": metric,
        "direction": direction,
        "target": ladder.values[100],
        "shared_out": ladder.scale,
        "levels": dict(ladder.values),
        "untrained": untrained,
        "final": final,
        "setting": targets.setting(plan.config["task"]),
        "origin": {
            "command": "",
            "baseline": plan.optimizer,
            "tuned": None,
            "optimizer": without_descriptions(plan.config["optimizer"]),
            "schedule": dict(plan.config["schedule"]),
            "steps": plan.steps,
            "batch_size": plan.config["task"].get("batch_size"),
            "runs": [vars(run) for run in runs],
            "versions": _versions(plan),
        },
    }


def _versions(plan: Plan) -> dict[str, Any]:
    """What the first of the runs was computed with."""
    facts = json.loads((plan.directory / "environment.json").read_text())
    packages = facts.get("packages", {})
    kind = "cuda" if facts.get("gpu") else "cpu"
    return {
        "python": facts.get("python"),
        "torch": packages.get("torch"),
        "device": kind,
        "commit": facts["git_commit"],
    }


def _tuned(task: str, request: Request) -> str | None:
    """The file of tuned values that the runs used, if they did."""
    name = f"{task}_{request.optimizer}"
    if "~tuned" in request.overrides:
        return None
    if typed := overrides.typed("tuned", request.overrides):
        return typed[-1]
    return name if name in registry.names("tuned") else None


def store(entries: Mapping[str, Any], path: Path) -> None:
    """Write a file of targets, the scales in the order of their size."""
    from suite.config.resolvers import SCALES

    ordered = {scale: dict(entries[scale]) for scale in SCALES if scale in entries}
    body = yaml.safe_dump(
        ordered, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True
    )
    write_atomically(path, "\n".join(HEADER) + "\n" + body)


def _in_words(plan: Plan, entry: Mapping[str, Any], path: Path) -> str:
    """The target in words, with the reasons to doubt it."""
    runs = entry["origin"]["runs"]
    values = ", ".join(f"{run['final']:.6g}" for run in runs)
    steps = ", ".join(f"{share} %: {value:g}" for share, value in entry["levels"].items())
    lines = [
        f"{plan.task} ({plan.config['scale']}): {entry['metric']} {entry['untrained']:.4g} "
        f"untrained, {values} at the end of {plan.optimizer}; levels {steps} "
        f"({entry['shared_out']})",
        f"  {path}",
    ]
    if len(runs) == 1:
        lines.append(
            "  From one seed only: a lucky run sets the bar for all. Give several: seeds=0,1,2"
        )
    if entry["origin"]["tuned"] is None:
        study = f"optimizer={plan.optimizer} task={plan.task} scale={plan.config['scale']}"
        lines.append(
            "  The baseline is not tuned, which makes targets easy. First: python -m suite.tune "
            f"{study}"
        )
    if (own := plan.config["task"].get("target")) is not None:
        lines.append(f"  The target of runs stays the task's own, {own:g}.")
    return "\n".join(lines)


# -- the command line ------------------------------------------------------------------------------


OWN: Mapping[str, words.Reader] = {
    "task": words.names,
    "optimizer": words.one_name,
    "seeds": words.whole_numbers,
    "out": words.folder,
}
REFUSED = dict.fromkeys(
    ("target", "levels", "seed", "stop_at_target"),
    "it runs the baseline to its end. Seeds: seeds=0,1,2",
)


def parse(arguments: Sequence[str]) -> Request:
    """The request that a command line makes.

    Raises:
        ConfigError: an unknown name, a value of the wrong kind, or a key that is refused.
    """
    own, settings = words.read(arguments, OWN, REFUSED)
    if "task" not in own:
        raise words.lacking(__doc__, task=None)
    return Request(own.pop("task"), **own, overrides=settings)


def main() -> None:
    """The command line."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    words.answer_help(sys.argv[1:], __doc__)
    with messages.answered(sys.argv[1:]):
        establish(parse(sys.argv[1:]))


if __name__ == "__main__":
    main()
