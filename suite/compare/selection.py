"""The runs of a comparison: filters, the two methods, and the problems that both of them ran."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from suite.compare.sides import Side, sides
from suite.config import registry
from suite.errors import ConfigError, did_you_mean
from suite.results.frame import Records
from suite.results.labels import Settings

METHOD = re.compile(r"(?P<name>[^\[\]=]+?)\s*(?:\[(?P<settings>.*)\])?")
DEVICE = ("device", "precision")


@dataclass(frozen=True)
class Method:
    """A method as it is typed.

    `kfac`, or `kfac[lr=0.1]` where there are several configurations of it.
    """

    name: str
    settings: Mapping[str, str]
    text: str


def method(text: str) -> Method:
    """Read a method off the command line.

    Raises:
        ConfigError: it is neither a name nor a name with settings in brackets.
    """
    if not isinstance(text, str):
        raise ConfigError(f"{text!r} is no method: name one, such as 'kfac' or 'kfac[lr=0.1]'")
    match = METHOD.fullmatch(text.strip())
    pairs = (
        [part.partition("=") for part in (match["settings"] or "").split(",") if part.strip()]
        if match
        else []
    )
    if match is None or not all(sign and value for _, sign, value in pairs):
        raise ConfigError(
            f"{text!r} is no method: type a name, or one with settings such as 'kfac[lr=0.1]'"
        )
    return Method(
        match["name"], {key.strip(): value.strip() for key, _, value in pairs}, text.strip()
    )


def pairs(
    records: Records, first: Method, second: Method, across: Sequence[str] = ()
) -> list[tuple[Side, Side]]:
    """The two sides of every problem that both methods ran.

    Problems that differ in `across` only count as one.

    Raises:
        ConfigError: there is none; the message says what there is and what to type.
    """
    mine, theirs = _sides(records, first), _sides(records, second)
    matched = [
        (mine[problem], theirs[problem])
        for problem in records.problems
        if problem in mine and problem in theirs
    ]
    if across:
        matched += _across(records, mine, theirs, set(across))
    if not matched:
        raise ConfigError(_no_pair(records, first, second, mine, theirs))
    if any(a.label == b.label for a, b in matched):
        raise ConfigError(f"{first.text} and {second.text} are the same runs; name two methods")
    return matched


def _across(
    records: Records, mine: Mapping[str, Side], theirs: Mapping[str, Side], keys: set[str]
) -> list[tuple[Side, Side]]:
    """Sides of problems that only one method ran, and that differ in these keys only."""
    matches = []
    for problem in (name for name in mine if name not in theirs):
        settings = records.problem_settings[problem]
        alike = (
            other
            for other in theirs
            if other not in mine
            and not set(differing(settings, records.problem_settings[other])) - keys
        )
        matches += [(mine[problem], theirs[other]) for other in list(alike)[:1]]
    return matches


def alone(
    records: Records, first: Method, second: Method, matched: Sequence[tuple[Side, Side]]
) -> list[str]:
    """The problems that only one of the methods ran, in words."""
    paired = {side.problem for pair in matched for side in pair}
    return [
        f"{name} (no run of {other.text})"
        for mine, other in ((first, second), (second, first))
        for name in _sides(records, mine)
        if name not in paired
    ]


def differing(one: Settings, other: Settings) -> list[str]:
    """The settings in which two problems differ."""
    return sorted(key for key in {*one, *other} if one.get(key) != other.get(key))


def command_for(records: Records, name: str, problem: str) -> str:
    """What makes runs of an optimizer on a problem.

    The command of a run that is there, with another optimizer.
    """
    typed = next((text for text in records.of(problem)["command"] if text), "")
    words = shlex.split(typed)[3:] or [f"task={records.of(problem)['task'].iloc[0]}"]
    others = [
        word
        for word in words
        if not re.match(r"\+*(optimizer[.=]|seed=|experiment=|-m$|hydra)", word)
    ]
    seeds = ",".join(map(str, sorted(set(records.of(problem)["seed"]))))
    return shlex.join(
        ["python", "-m", "suite", "-m", f"optimizer={name}", *others, f"seed={seeds}"]
    )


def _sides(records: Records, wanted: Method) -> dict[str, Side]:
    """A method's runs by problem.

    Raises:
        ConfigError: there are none, or several configurations on a problem.
    """
    frame = records.frame
    exact = frame[frame["optimizer"] == wanted.text]
    runs = exact if len(exact) else frame[frame["name"] == wanted.name]
    if runs.empty:
        raise ConfigError(_no_runs(records, wanted))
    if not len(exact):
        runs = runs[
            [
                _has(records, row["problem"], row["optimizer"], wanted.settings)
                for _, row in runs.iterrows()
            ]
        ]
    by_problem: dict[str, Side] = {}
    for problem, group in runs.groupby("problem", sort=False):
        labels = list(dict.fromkeys(group["optimizer"]))
        if len(labels) > 1:
            raise ConfigError(_several(wanted, str(problem), labels))
        by_problem |= {str(problem): side for side in sides(records, str(problem), group).values()}
    if not by_problem:
        labels = sorted(set(frame.loc[frame["name"] == wanted.name, "optimizer"]))
        raise ConfigError(
            f"no run of {wanted.name} has these settings: {wanted.text}\nThere are: "
            f"{', '.join(labels)}"
        )
    return by_problem


def _has(records: Records, problem: str, label: str, wanted: Mapping[str, str]) -> bool:
    settings = records.optimizer_settings[problem, label]
    return all(
        settings.get(key, settings.get(f"schedule.{key}", "unset")) == value
        for key, value in wanted.items()
    )


def _no_runs(records: Records, wanted: Method) -> str:
    """Which methods have runs instead, and what makes some of the one that was wanted."""
    names = sorted(set(records.frame["name"]))
    text = (
        f"there is no run of {wanted.name}.{did_you_mean(wanted.name, names)} There are runs of: "
        f"{', '.join(names)}"
    )
    if wanted.name not in registry.names("optimizer"):
        return text
    commands = [f"  {command_for(records, wanted.name, p)}" for p in records.problems[:3]]
    return "\n".join([text, "Make some:", *commands])


def _several(wanted: Method, problem: str, labels: Sequence[str]) -> str:
    lines = [f"  '{label}'" for label in labels]
    return "\n".join(
        [f"{wanted.text} has {len(labels)} configurations on {problem}; name one of them:", *lines]
    )


def _no_pair(
    records: Records,
    first: Method,
    second: Method,
    mine: Mapping[str, Side],
    theirs: Mapping[str, Side],
) -> str:
    """Both have runs, but on different problems: in what they differ, and what to type."""
    lines = [
        f"{first.text} and {second.text} have no problem in common, and problems are never mixed "
        "silently."
    ]
    lines += [
        f"  {one.text}: {', '.join(names)}" for one, names in ((first, mine), (second, theirs))
    ]
    alike = [
        (differing(records.problem_settings[a], records.problem_settings[b]), a, b)
        for a, one in mine.items()
        for b, other in theirs.items()
        if one.task == other.task
    ]
    if alike:
        keys, a, b = min(alike, key=lambda one: len(one[0]))
        words = ", ".join(
            f"{key}={records.problem_settings[a].get(key, 'unset')} against "
            f"{records.problem_settings[b].get(key, 'unset')}"
            for key in keys
        )
        lines.append(
            f"They differ in {words}. To set them against each other all the same: --across "
            f"{','.join(keys)}"
        )
    name = next(iter(theirs.values())).name
    lines.append(f"Make runs of both:\n  {command_for(records, name, next(iter(mine)))}")
    return "\n".join(lines)
