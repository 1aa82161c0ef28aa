"""Equality of problems and of configurations, and short labels for different ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from suite.config import task_file
from suite.config.instantiate import DESCRIPTIVE
from suite.results.run import Run, plain

Settings = dict[str, str]

SPEAKS_FOR_ITSELF = ("scale", "device", "precision")
DERIVED = ("device", "precision", "metric", "direction")
PROBLEM_KEYS = (
    "scale",
    *DERIVED,
    "steps",
    "max_seconds",
    "max_grad_equivalents",
    "target",
    "stop_at_target",
)
OPTIMIZER_KEYS = ("schedule", "compile")
LONGEST_LABEL = 3


def flatten(value: Any, prefix: str = "") -> Settings:
    """Nested settings as `{"a.b": "text"}`.

    Equal numbers give equal text, whichever type they have.
    """
    if not isinstance(value, Mapping):
        return {prefix: show(value)}
    flat: Settings = {}
    for key, inner in value.items():
        flat |= flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat


def show(value: Any) -> str:
    """A setting as it would be typed on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:.12g}"
    if isinstance(value, list):
        return f"[{', '.join(map(show, value))}]"
    return plain(value)


def problem_settings(runs: Sequence[Run]) -> list[Settings]:
    """Everything that makes two runs answers to different questions.

    They are budget, data, model, device and metric.

    A run that was refused before its task was built knows nothing of what is found out by building
    it: it joins the problem with which it agrees in all else, so that it stays in the denominators.
    """
    own = [_problem(run) for run in runs]
    built = [
        (run.task, settings)
        for run, settings in zip(runs, own, strict=True)
        if "metric" in settings
    ]
    return [
        settings
        if "metric" in settings
        else next(
            (other for task, other in built if task == run.task and _agree(settings, other)),
            settings,
        )
        for run, settings in zip(runs, own, strict=True)
    ]


def optimizer_settings(run: Run) -> Settings:
    """Everything that makes two runs of one optimizer different configurations."""
    chosen = {key: run.config[key] for key in OPTIMIZER_KEYS if run.config.get(key) is not None}
    own = {key: value for key, value in run.config["optimizer"].items() if key not in DESCRIPTIVE}
    return flatten(own) | flatten(chosen)


def unique_runs(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """Keep one run of each (configuration, seed) and give back the repeats apart.

    A repeat is not a sample. An ended run is kept before an unfinished one, and the later of two
    ended ones: never the better one.
    """
    latest: dict[tuple[object, ...], Run] = {}
    for run in runs:
        key = _identity(run)
        if key not in latest or _precedence(run) > _precedence(latest[key]):
            latest[key] = run
    chosen = {run.path for run in latest.values()}
    return [run for run in runs if run.path in chosen], [
        run for run in runs if run.path not in chosen
    ]


def problem_labels(runs: Sequence[Run], settings: Sequence[Settings]) -> list[str]:
    """The label of each run's problem.

    It is the task's name, with the settings that differ between several problems of a task.
    """
    return _labels(
        [(run.task, one) for run, one in zip(runs, settings, strict=True)], "{} ({})", smallest=True
    )


def optimizer_labels(runs: Sequence[Run], problems: Sequence[str]) -> list[str]:
    """The label of each run's optimizer.

    Its name, and the keys that differ between its configurations on a problem.
    """
    labels = [""] * len(runs)
    for problem in dict.fromkeys(problems):
        members = [index for index, label in enumerate(problems) if label == problem]
        named = [(runs[index].optimizer, optimizer_settings(runs[index])) for index in members]
        for index, label in zip(members, _labels(named, "{} [{}]", smallest=False), strict=True):
            labels[index] = label
    return labels


def differing_keys(settings: Sequence[Settings]) -> list[str]:
    """The keys whose values are not the same everywhere, those that speak for themselves first."""
    keys = dict.fromkeys([*SPEAKS_FOR_ITSELF, *(key for one in settings for key in one)])
    return [key for key in keys if len({one.get(key) for one in settings}) > 1]


def distinguishing_keys(settings: Sequence[Settings]) -> list[str]:
    """A small set of keys that already tells all settings apart.

    A key is taken only if it splits something further.
    """
    chosen: list[str] = []
    for key in differing_keys(settings):
        if _groups(settings, [*chosen, key]) > _groups(settings, chosen):
            chosen.append(key)
    return chosen


def _groups(settings: Sequence[Settings], keys: Sequence[str]) -> int:
    return len({tuple(one.get(key) for key in keys) for one in settings})


def _labels(named: Sequence[tuple[str, Settings]], pattern: str, *, smallest: bool) -> list[str]:
    variants: dict[str, list[Settings]] = {}
    for name, settings in named:
        variants.setdefault(name, []).append(settings)
    keys = {name: _label_keys(settings, smallest=smallest) for name, settings in variants.items()}
    return [
        pattern.format(name, ", ".join(_difference(settings, keys[name]))) if keys[name] else name
        for name, settings in named
    ]


def _label_keys(settings: Sequence[Settings], *, smallest: bool) -> list[str]:
    keys = differing_keys(settings)
    return distinguishing_keys(settings) if smallest or len(keys) > LONGEST_LABEL else keys


def _difference(settings: Settings, keys: Sequence[str]) -> list[str]:
    """`quick` for a scale, `depth=20` for a key.

    Dotted keys lose their path where that leaves them distinct.
    """
    last = [key.rsplit(".", 1)[-1] for key in keys]
    return [
        _setting_text(settings, key, name if last.count(name) == 1 else key)
        for key, name in zip(keys, last, strict=True)
    ]


def _setting_text(settings: Settings, key: str, name: str) -> str:
    value = settings.get(key, "unset")
    if key in SPEAKS_FOR_ITSELF:
        return value
    if (
        name == "_target_"
    ):  # `schedule._target_=torch.optim.lr_scheduler.StepLR` reads better as schedule=StepLR
        owner = key.removesuffix("_target_").rstrip(".").rpartition(".")[-1]
        return f"{owner or 'class'}={value.rpartition('.')[-1]}"
    return f"{name}={value}"


def _problem(run: Run) -> Settings:
    chosen = {key: run.config[key] for key in PROBLEM_KEYS if run.config.get(key) is not None}
    return flatten(task_file.identifying(run.config["task"])) | flatten(chosen)


def _agree(refused: Settings, built: Settings) -> bool:
    return all(built.get(key) == value for key, value in refused.items() if key not in DERIVED)


def _identity(run: Run) -> tuple[object, ...]:
    problem, optimizer = _problem(run), optimizer_settings(run)
    return (
        run.task,
        run.optimizer,
        run.seed,
        tuple(sorted(problem.items())),
        tuple(sorted(optimizer.items())),
    )


def _precedence(run: Run) -> tuple[bool, float, str]:
    return bool(run.summary), run.written, run.path.as_posix()
