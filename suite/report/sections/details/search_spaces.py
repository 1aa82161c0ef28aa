"""Search spaces of the optimizers, and where in them the settings of the runs lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from suite.config.search_space import Space, checked, inside, on_edge
from suite.errors import ConfigError
from suite.results.frame import Records
from suite.results.labels import show
from suite.tables.formats import NOT_RUN
from suite.tables.table import Cell, Table, make_table, runs_note

EDGE, OUTSIDE, INSIDE = "at the edge", "outside", "inside"


def space_table(records: Records) -> Table | None:
    """A row for each hyperparameter of a search space; None where no run recorded a space."""
    rows = [
        row
        for problem, name, runs in records.pairs()
        for row in _rows(records, problem, name, int(runs.index[0]))
    ]
    caption = (
        "What a study may look through, as the runs recorded it from the optimizer's YAML, and the "
        f"value that these runs have. {EDGE.capitalize()}: within two percent of an end of its "
        f"range, so that a better value may lie beyond it; {OUTSIDE}: no study would try it. A "
        "method without a row has no search space. "
    )
    table = make_table("spaces", "Search spaces", caption + runs_note(len(records.frame)), rows)
    return table if rows else None


def _rows(records: Records, problem: str, name: str, index: int) -> Iterator[dict[str, Cell | str]]:
    node = records.runs[index].config["optimizer"]
    for setting, entry in _space(node).items():
        value = node.get(setting)
        yield {
            "problem": problem,
            "optimizer": name,
            "hyperparameter": setting,
            "searched": _searched(entry),
            "value": Cell(show(value), order=value if _is_number(value) else None)
            if setting in node
            else NOT_RUN,
            "place": _place(setting, value, entry),
        }


def _space(node: Mapping[str, Any]) -> Space:
    """The `search` node; empty where it is missing or cannot be read."""
    space = node.get("search")
    try:
        return checked(space, "this record") if isinstance(space, Mapping) else {}
    except ConfigError:
        return {}


def _searched(entry: Mapping[str, Any]) -> str:
    if "choices" in entry:
        return ", ".join(map(show, entry["choices"]))
    kinds = [
        word
        for word, key in (("logarithmic", "log"), ("whole numbers", "integer"))
        if entry.get(key)
    ]
    how = f" ({', '.join(kinds)})" if kinds else ""
    return f"{show(entry['low'])} to {show(entry['high'])}{how}"


def _place(setting: str, value: Any, entry: Mapping[str, Any]) -> str:
    if not inside({setting: value}, {setting: entry}):
        return OUTSIDE
    return EDGE if on_edge({setting: value}, {setting: entry}) else INSIDE


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
