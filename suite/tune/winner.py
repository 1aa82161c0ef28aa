"""The result of a study: its best setting as a YAML with the origin, and the cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from suite.config import registry
from suite.config.search_space import on_edge
from suite.files import write_atomically
from suite.tune.journal import Journal
from suite.tune.sampling import TPE
from suite.tune.study import Request, Study
from suite.tune.trial import PRUNED, Trial


def conclude(study: Study, trials: Sequence[Trial]) -> Path | None:
    """Write the best setting of a study, its origin, and whether it lies on the space's edge."""
    trials = sorted(trials, key=lambda trial: trial.number)
    print(spent(study, trials))
    ended = [trial for trial in trials if not trial.failed and trial.status != PRUNED]
    if not ended:
        print(
            f"{study.label} on {study.problem}: no trial of {len(trials)} ended well "
            f"({_words(trials)}); nothing is written"
        )
        return None
    best = max(ended, key=lambda trial: trial.score)
    path = study.request.out / f"{study.problem}_{study.label}.yaml"
    write_atomically(path, "\n".join(_origin(study, trials, best)) + "\n" + _values(best))
    for name in on_edge(best.settings, study.space):
        print(f"{study.label} on {study.problem}: {_edge(study, best, name)}")
    if study.label != study.optimizer:  # one of many of a YAML: not for the others
        print(f"to use these values: tuned={study.problem}_{study.label}")
    elif study.problem not in registry.names("task"):  # a task of a file: not for other files
        print(f"to use these values: 'tuned={study.problem}_${{optimizer}}'")
    return path


def before(request: Request, journals: Sequence[Journal]) -> list[str]:
    """Notes before the first trial."""
    notes = []
    if recorded := sum(len(journal.recorded()) for journal in journals):
        notes.append(f"{recorded} of them are recorded already")
    for study in [journal.study for journal in journals if not journal.study.space]:
        notes.append(
            f"{study.label} on {study.problem}: nothing to search, so its default setting is its "
            "only trial"
        )
    if request.sampler == TPE and request.jobs > 1:
        notes.append(
            "sampler=tpe with several jobs tries other settings each time; jobs=1 is reproducible"
        )
    return notes


def compared(of: Sequence[Study], beyond: Sequence[int]) -> list[str]:
    """Notes on unequal studies of one request; `beyond` are the trials each has in excess."""
    notes = []
    for task in dict.fromkeys(study.problem for study in of):
        counts = {study.label: study.trials for study in of if study.problem == task}
        if len(set(counts.values())) > 1:
            words = ", ".join(f"{label} {count}" for label, count in counts.items())
            notes.append(
                f"not equally tuned on {task}; trials: {words} (nothing to search is one trial, "
                "the default)"
            )
    for study, more in zip(of, beyond, strict=True):
        if more:
            notes.append(
                f"{study.label} on {study.problem}: the study has {more} trials more, of a larger "
                f"request; the best of the first {study.trials} is written here"
            )
    return notes


def spent(study: Study, trials: Sequence[Trial]) -> str:
    """The cost of a study, in a line."""
    return f"tuning {study.label} on {study.problem}: {_cost(trials)}"


def _origin(study: Study, trials: Sequence[Trial], best: Trial) -> list[str]:
    default = trials[0]
    beside = f"{default.value:.5g}" if default.value is not None else default.status
    edges = [f"# {_edge(study, best, name)}" for name in on_edge(best.settings, study.space)]
    return [
        "# @package _global_",
        f"# Found by: {study.request.command}",
        f"# Trial {best.number} of {len(trials)}: final validation {best.metric} {best.value:.5g} "
        f"(trial 0, the default setting: {beside}).",
        f"# Study {study.name}: {_how(study)}; {_cost(trials)}.",
        *edges,
    ]


def _how(study: Study) -> str:
    request = study.request
    seeds = f"seed{'s' if len(study.seeds) > 1 else ''} {', '.join(map(str, study.seeds))}"
    return f"sampler {request.sampler}, pruner {request.pruner}, {seeds}"


def _cost(trials: Sequence[Trial]) -> str:
    seconds, equivalents = sum(t.seconds for t in trials), sum(t.grad_equivalents for t in trials)
    failed = [trial for trial in trials if trial.failed or trial.status == PRUNED]
    words = f", {_words(failed)}" if failed else ""
    count = f"{len(trials)} trial{'s' if len(trials) > 1 else ''}"
    return f"{count}{words}, {seconds:.1f} s of steps, {equivalents:.3g} gradient-equivalents"


def _words(trials: Sequence[Trial]) -> str:
    """`2 diverged, 1 oom`."""
    return ", ".join(
        f"{count} {word}" for word, count in Counter(str(trial.status) for trial in trials).items()
    )


def _edge(study: Study, best: Trial, name: str) -> str:
    low, high = study.space[name]["low"], study.space[name]["high"]
    place = f"{best.settings[name]:.3g} of {low:g} to {high:g}"
    return f"{name} lies at the edge of its search space ({place})."


def _values(best: Trial) -> str:
    if not best.settings:
        return "optimizer: {}\n"
    nested: dict[str, Any] = {}
    for name, value in best.settings.items():
        *outer, last = name.split(".")
        node = nested
        for part in outer:
            node = node.setdefault(part, {})
        node[last] = value
    return yaml.safe_dump({"optimizer": nested}, sort_keys=False, allow_unicode=True)
