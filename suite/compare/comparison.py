"""The comparison of two methods: one function for the command and for Python."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from suite.compare import selection
from suite.compare.output import blocks
from suite.compare.sides import CostTable
from suite.compare.verdict import Verdict, judge
from suite.errors import ConfigError, did_you_mean
from suite.results.frame import Records
from suite.results.select import filter_texts, load_records, runs_folder


@dataclass(frozen=True, repr=False)
class Comparison(Sequence[Verdict]):
    """The verdicts on two methods, one a problem; a notebook shows their sentences.

    Attributes:
        table: the costs behind them.
        verdicts: in the order of the problems.
        unpaired: the problems that only one of the methods ran, in words.
    """

    table: CostTable
    verdicts: tuple[Verdict, ...]
    unpaired: tuple[str, ...] = ()

    @overload
    def __getitem__(self, index: int) -> Verdict: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Verdict, ...]: ...
    def __getitem__(self, index: int | slice) -> Verdict | tuple[Verdict, ...]:
        """The verdict of this number."""
        return self.verdicts[index]

    def __len__(self) -> int:
        """The number of problems."""
        return len(self.verdicts)

    def __iter__(self) -> Iterator[Verdict]:
        """The verdicts, problem by problem."""
        return iter(self.verdicts)

    def __repr__(self) -> str:
        paragraphs = blocks(self.table, self.verdicts)
        return "\n".join(
            "\n  ".join([headline, *lines]) for headline, lines in [*paragraphs, *self._rest()]
        )

    def _repr_html_(self) -> str:
        """The sentences as a list, the figures behind each beneath it."""
        paragraphs = blocks(self.table, self.verdicts)
        items = [
            f"<li><b>{html.escape(headline)}</b>{_list(map(html.escape, lines))}</li>"
            for headline, lines in [*paragraphs, *self._rest()]
        ]
        return f"<ul>{''.join(items)}</ul>"

    def _rest(self) -> list[tuple[str, list[str]]]:
        return [(f"not compared: {words}", []) for words in self.unpaired]


def compare(
    first: str,
    second: str,
    /,
    *,
    results: str | Path | None = None,
    level: str | int | None = None,
    across: Sequence[str] = (),
    mixed_devices: bool = False,
    **filters: Any,
) -> Comparison:
    """Compare what two methods spend to reach the target, as `python -m suite.compare` does.

    Examples:
        >>> suite.compare("kfac", "adamw", task="mlp")  # doctest: +SKIP
        mlp: kfac needs 0.38x the steps [0.31, 0.45], ...; faster at 95 %.

    Args:
        first: a method: `kfac`, or `kfac[lr=0.1]` for one of several configurations.
        second: the method that it is compared with.
        results: the folder of all results, or a folder of runs or an archive; None for the usual
            one.
        level: another level than the target, such as 80.
        across: settings in which problems may differ, such as `steps`.
        mixed_devices: whether seconds of different machines are compared.
        **filters: only runs with these settings: `task="mlp"`, `seed=[0, 1]`,
            `optimizer={"lr": 0.1}`.

    Returns:
        A verdict for each problem that both methods ran.

    Raises:
        ConfigError: no run fits, a method has no run or several configurations, or there is no
            such level; the message says what to type.
    """
    records = load_records(runs_folder(results), filter_texts(filters))
    keys = [*across, *(selection.DEVICE if mixed_devices else ())]
    return compare_methods(records, first, second, level=level, across=keys, mixed=mixed_devices)


def compare_methods(
    records: Records,
    first: str,
    second: str,
    *,
    level: str | int | None = None,
    across: Sequence[str] = (),
    mixed: bool = False,
) -> Comparison:
    """The verdicts on two methods, problem by problem, from records at hand.

    Raises:
        ConfigError: see `compare`.
    """
    methods = selection.method(first), selection.method(second)
    pairs = selection.pairs(records, *methods, across)
    table = CostTable(records)
    verdicts = (judge(table, a, b, _level(table, a.problem, level), mixed=mixed) for a, b in pairs)
    return Comparison(table, tuple(verdicts), tuple(selection.alone(records, *methods, pairs)))


def _level(table: CostTable, problem: str, wanted: str | int | None) -> str | None:
    """The level's name in full.

    Raises:
        ConfigError: the problem has no such level.
    """
    if wanted is None:
        return None
    text, known = str(wanted), list(table.levels(problem))
    name = text if text in known else f"{text.rstrip(' %')} %"
    if name not in known:
        hint = (
            f"It has: {', '.join(known)}" if known else "Set some: python -m suite.target task=..."
        )
        raise ConfigError(f"{problem} has no level {text}.{did_you_mean(text, known)} {hint}")
    return name


def _list(lines: Iterator[str]) -> str:
    items = "".join(f"<li>{line}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""
