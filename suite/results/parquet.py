"""Runs as Parquet tables, written and read.

One table has a row per run with its settings as JSON, the other all rows of all histories.

What many runs have in common (task, optimizer, the other settings, machine) is a column of its own,
which Parquet stores once. Histories with the same columns stand together in one row group each.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from suite.results.run import Run, assemble

RUNS, HISTORIES, TRAJECTORIES = "runs.parquet", "histories.parquet", "walks.parquet"
# parts of a configuration with a column of their own
APART = ("optimizer", "task", "seed", "command", "experiment")
ITEMS = "__items__"  # stands for a mapping whose keys are not all texts, which JSON cannot have
SMALL: dict[str, Any] = {"compression": "zstd", "compression_level": 19}
FAST: dict[str, Any] = {"compression": "lz4", "use_dictionary": False, "write_statistics": False}

Array = npt.NDArray[np.float64]


class PackError(ValueError):
    """The tables are not what was written: damaged, cut off, or of another format."""


def write(runs: Sequence[Run], folder: Path, *, small: bool) -> None:
    """Write the tables of `runs` into a folder that exists.

    `small` takes longer to write and less room.
    """
    groups = _groups(runs)
    table = _runs_table(runs, groups)
    parquet.write_table(table, folder / RUNS, **(SMALL if small else {"compression": "lz4"}))
    _write_histories([run.history for run in runs], groups, folder / HISTORIES, small=small)
    trajectories = {
        index: run.trajectory for index, run in enumerate(runs) if run.trajectory is not None
    }
    if trajectories:
        parquet.write_table(_trajectories_table(trajectories), folder / TRAJECTORIES, **SMALL)


def read(folder: Path, root: Path) -> list[Run]:
    """The runs, as they were given to `write`; their paths stand beneath `root`.

    Raises:
        PackError: the tables cannot be read or do not fit together.
    """
    try:
        rows = parquet.read_table(folder / RUNS).to_pydict()
        histories = _read_histories(folder / HISTORIES, rows)
        trajectories = _read_trajectories(folder / TRAJECTORIES)
        parsed = _Parsed()
        return [
            _run(
                root,
                {key: column[i] for key, column in rows.items()},
                histories[i],
                trajectories.get(i),
                parsed,
            )
            for i in range(len(rows["run"]))
        ]
    except (
        pa.ArrowException,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        AttributeError,
    ) as error:
        raise PackError(
            f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        ) from error


# -- settings --------------------------------------------------------------------------------------


class _Parsed:
    """JSON texts parsed once; what they hold is shared between runs."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}

    def __call__(self, text: str) -> Any:
        if text not in self._known:
            self._known[text] = decode(json.loads(text))
        return self._known[text]


def encode(value: Any) -> Any:
    """A value of YAML as one of JSON, in the same order.

    Numbers that are not finite stay what they are.
    """
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value) and ITEMS not in value:
            return {key: encode(item) for key, item in value.items()}
        return {ITEMS: [[encode(key), encode(item)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def decode(value: Any) -> Any:
    """The inverse of `encode`."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if isinstance(value, Mapping):
        if set(value) == {ITEMS}:
            return {decode(key): decode(item) for key, item in value[ITEMS]}
        return {key: decode(item) for key, item in value.items()}
    return value


def _text(value: Any) -> str:
    return json.dumps(encode(value), separators=(",", ":"), ensure_ascii=False)


def _runs_table(runs: Sequence[Run], groups: Mapping[tuple[str, ...], list[int]]) -> pa.Table:
    group_of = {
        index: number for number, members in enumerate(groups.values()) for index in members
    }
    names = list(groups)
    rows = [
        {
            "task": run.path.parts[-3],
            "optimizer": run.path.parts[-2],
            "run": run.path.parts[-1],
            "written": run.written,
            "config": _text(
                {key: None if key in APART else value for key, value in run.config.items()}
            ),
            **{
                f"config.{key}": _text(run.config[key]) if key in run.config else None
                for key in APART
            },
            "summary": _text(run.summary),
            "environment": _text(run.environment),
            "group": group_of[index],
            "columns": _text(list(names[group_of[index]])),
            "rows": len(run.history),
        }
        for index, run in enumerate(runs)
    ]
    return pa.Table.from_pylist(rows)


def _run(
    root: Path,
    row: Mapping[str, Any],
    history: pd.DataFrame,
    trajectory: pd.DataFrame | None,
    parsed: _Parsed,
) -> Run:
    config = dict(parsed(row["config"]))
    for key in APART:
        if row[f"config.{key}"] is not None:
            config[key] = parsed(row[f"config.{key}"])
    summary = decode(json.loads(row["summary"]))
    path = root / row["task"] / row["optimizer"] / row["run"]
    return assemble(
        path, config, summary, parsed(row["environment"]), history, row["written"], trajectory
    )


# -- histories -------------------------------------------------------------------------------------


def _groups(runs: Sequence[Run]) -> dict[tuple[str, ...], list[int]]:
    """The runs whose histories have the same columns."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, run in enumerate(runs):
        groups.setdefault(tuple(map(str, run.history.columns)), []).append(index)
    return groups


def _write_histories(
    histories: Sequence[pd.DataFrame],
    groups: Mapping[tuple[str, ...], list[int]],
    path: Path,
    *,
    small: bool,
) -> None:
    names = list(dict.fromkeys(chain.from_iterable(groups)))
    whole = [name for name in names if _is_whole_everywhere(name, histories)] if small else []
    schema = pa.schema([(name, pa.int64() if name in whole else pa.float64()) for name in names])
    options = _encodings(names, whole) if small else FAST
    with parquet.ParquetWriter(path, schema, **options) as writer:
        for columns, members in groups.items():
            rows = sum(len(histories[index]) for index in members)
            if rows:
                values = _stack([histories[index] for index in members], len(columns), rows)
                named = dict(zip(columns, values, strict=True))
                writer.write_table(_history_table(named, schema, rows), rows)


def _is_whole_everywhere(name: str, histories: Sequence[pd.DataFrame]) -> bool:
    """Whether a column holds whole numbers in all histories that have it."""
    return all(_is_whole(history[name]) for history in histories if name in history)


def _encodings(names: Iterable[str], whole: Sequence[str]) -> dict[str, Any]:
    """Differences for whole numbers.

    The bytes of the others apart from each other, as those at the end are often 0.
    """
    chosen = {
        name: "DELTA_BINARY_PACKED" if name in whole else "BYTE_STREAM_SPLIT" for name in names
    }
    return {**SMALL, "use_dictionary": False, "column_encoding": chosen, "write_statistics": False}


def _is_whole(column: pd.Series[float]) -> bool:
    values = column.to_numpy(dtype=float)
    return bool(
        (np.isfinite(values) & (values == np.round(values)) & (np.abs(values) < 2**53)).all()
    )


def _stack(histories: Sequence[pd.DataFrame], columns: int, rows: int) -> Array:
    """All values of some histories with the same columns, a row of the array for each column."""
    values = np.empty((columns, rows))
    start = 0
    for history in histories:
        values[:, start : start + len(history)] = history.to_numpy(dtype=float).T
        start += len(history)
    return values


def _history_table(values: Mapping[str, Array], schema: pa.Schema, rows: int) -> pa.Table:
    """One row group; an empty cell is null, which takes less room than NaN."""
    columns = []
    for field in schema:
        if field.name not in values:
            columns.append(pa.nulls(rows, field.type))
            continue
        column = pa.array(values[field.name], from_pandas=True)
        columns.append(column.cast(field.type) if column.type != field.type else column)
    return pa.Table.from_arrays(columns, schema=schema)


def _read_histories(path: Path, rows: Mapping[str, Sequence[Any]]) -> list[pd.DataFrame]:
    """The history of each run, a view on the one block of memory that holds its group."""
    histories: dict[int, pd.DataFrame] = {}
    members: dict[int, list[int]] = {}
    for index, group in enumerate(rows["group"]):
        members.setdefault(group, []).append(index)
    with parquet.ParquetFile(path) as file:
        number = 0
        for _, indices in sorted(members.items()):
            columns = pd.Index(json.loads(rows["columns"][indices[0]]))
            lengths = [rows["rows"][index] for index in indices]
            values = (
                _read_group(file, number, list(columns))
                if sum(lengths)
                else np.empty((len(columns), 0))
            )
            number += bool(sum(lengths))
            if values.shape[1] != sum(lengths):
                raise PackError("the histories have another number of rows than the runs say")
            ends = np.cumsum(lengths)
            for index, end, length in zip(indices, ends, lengths, strict=True):
                histories[index] = pd.DataFrame(
                    values[:, end - length : end].T, columns=columns, copy=False
                )
    return [histories[index] for index in range(len(rows["run"]))]


def _read_group(file: Any, number: int, columns: list[str]) -> Array:
    """One column after the other, so that nothing is in memory twice but for one of them."""
    rows = file.metadata.row_group(number).num_rows
    values = np.empty((len(columns), rows))
    for row, name in zip(values, columns, strict=True):
        row[:] = file.read_row_group(number, columns=[name], use_threads=False).column(0).to_numpy()
    return values


# -- the paths of models with two parameters -------------------------------------------------------


def _trajectories_table(trajectories: Mapping[int, pd.DataFrame]) -> pa.Table:
    frames = [points.astype("float64").assign(run=index) for index, points in trajectories.items()]
    return pa.Table.from_pandas(pd.concat(frames), preserve_index=False)


def _read_trajectories(path: Path) -> dict[int, pd.DataFrame]:
    if not path.exists():
        return {}
    frame = parquet.read_table(path).to_pandas()
    return {
        int(index): points.drop(columns="run").reset_index(drop=True)
        for index, points in frame.groupby("run")
    }
