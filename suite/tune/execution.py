"""The execution of a trial: its runs, one for each tuning seed, and their summary as a Trial."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

import yaml

from suite import paths
from suite.config.plan import Plan
from suite.config.search_space import Settings
from suite.errors import FatalConfigError
from suite.results.status import Status
from suite.training.runner import Outcome, record_failure, run
from suite.training.training import Watch
from suite.tune.halving import scores_of
from suite.tune.study import Study, trial_plan
from suite.tune.trial import PRUNED, Trial, grad_equivalents


def plans_of(study: Study, settings: Settings) -> list[Plan]:
    """The runs of a trial."""
    return [
        trial_plan(study.request, study.optimizer, study.task, settings, seed)
        for seed in study.seeds
    ]


def execute(plan: Plan, watch: Watch | None = None) -> Outcome:
    """One run in this process; a run that cannot be built is a failure like any other.

    Raises:
        FatalConfigError: the mistake concerns every trial.
        KeyboardInterrupt: the run was interrupted.
    """
    try:
        outcome = run(plan, watch)
    except FatalConfigError:
        raise
    except (ValueError, FileNotFoundError) as error:
        outcome = record_failure(plan, error)
    pruned = bool(outcome.summary["message"])  # the reason that the watch gave
    if outcome.status is Status.INTERRUPTED and not pruned:
        raise KeyboardInterrupt
    return outcome


def trial_of(
    number: int, settings: Settings, plans: Sequence[Plan], outcomes: Sequence[Outcome]
) -> Trial:
    """The trial that its runs make; one that failed fails the trial."""
    metric = next((outcome.metric for outcome in outcomes if outcome.metric != "metric"), "")
    worst = next((outcome for outcome in outcomes if _value(outcome) is None), outcomes[0])
    sign = _sign(plans[0])
    stopped = any(outcome.status is Status.INTERRUPTED for outcome in outcomes)
    return Trial(
        number,
        settings,
        status=PRUNED if stopped else str(worst.status),
        value=_mean(outcomes),
        sign=sign,
        metric=metric,
        seconds=sum(_seconds(outcome) for outcome in outcomes),
        grad_equivalents=sum(grad_equivalents(plan.directory) for plan in plans),
        runs=[plan.directory.relative_to(paths.results()).as_posix() for plan in plans],
        message=str(worst.summary.get("message") or ""),
        scores=scores_of(plans[0].directory, plans[0].steps, metric, sign),
    )


def _mean(outcomes: Sequence[Outcome]) -> float | None:
    """The mean final value; None where a run has none."""
    values = [value for outcome in outcomes if (value := _value(outcome)) is not None]
    return fmean(values) if len(values) == len(outcomes) else None


def _seconds(outcome: Outcome) -> float:
    return float(outcome.summary.get("seconds") or 0.0)


def _value(outcome: Outcome) -> float | None:
    """The final validation metric of a run that has one."""
    value = outcome.summary.get(f"final_{outcome.metric}")
    return float(value) if value is not None and math.isfinite(value) else None


def _sign(plan: Plan) -> float:
    """1 where larger values of the task's metric are better, -1 where smaller ones are."""
    described = yaml.safe_load((plan.directory / "config.yaml").read_text())
    return 1.0 if described.get("direction") == "max" else -1.0
