"""Runs of Weights & Biases.

The .wandb files that an offline run leaves, or runs on a server through its API.

A .wandb file is a log of records in blocks of 32 KiB, laid out like LevelDB's: each piece has a
checksum (CRC-32 of type and content), a length and a type (whole, first, middle or last piece of a
record), and a record is a protocol buffer of `wandb.proto`. The steps of a run are read from its
key `step` (this suite's) or from W&B's own `_step`, seconds from `seconds` or `_runtime`. Which
metric counts stands in the configuration's `metric` and `direction`, or is asked for.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from suite.importers.foreign import Facts, ImportFaultError, direction_of, metric_name, run_of
from suite.results.run import Run

SOURCE = "wandb"
# prefixes of a metric's names by split, and the names of other columns, the likelier first
SPLITS = {"val": ("val/", "validation/", "val_"), "test": ("test/",)}
NAMES = {
    "step": ("step", "_step", "global_step"),
    "seconds": ("seconds", "_runtime"),
    "loss": ("loss", "train/loss", "train_loss"),
}
MAGIC = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
BLOCK, HEADER = 32 * 1024, struct.Struct("<IHB")
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4
OWN = ("optimizer", "task", "seed")  # what a configuration of this suite has
SUITE_KEYS = ("counts", "state_bytes", "peak_memory_bytes", "parallel", "world_size", "message")
STATES = {
    "finished": "",
    "running": "interrupted",
    "crashed": "interrupted",
    "killed": "interrupted",
    "failed": "error",
}


@dataclass
class Logged:
    """What W&B knows of a run."""

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    state: str = "running"


def read(path: Path, metric: str | None = None) -> list[Run]:
    """All offline runs beneath a folder, or the one in a .wandb file.

    `metric` is that of runs that name none.

    Raises:
        ImportFaultError: there are none, a file is damaged, or it is not clear which metric counts.
    """
    files = [path] if path.is_file() else sorted(path.rglob("*.wandb"))
    if not files:
        raise ImportFaultError(
            f"{path} has no .wandb files; an offline run leaves one in wandb/offline-run-*/"
        )
    return [as_run(_logged(file), metric) for file in files]


def read_api(project: str, metric: str | None = None, api: Any = None) -> list[Run]:
    """All runs of `<entity>/<project>` on a server, through `wandb.Api` or an object like it."""
    if api is None:
        import wandb

        api = wandb.Api()
    return [as_run(_from_api(run), metric) for run in api.runs(project)]


def as_run(logged: Logged, metric: str | None = None) -> Run:
    """A run from what W&B knows of it."""
    config = {key: value for key, value in logged.config.items() if not str(key).startswith("_")}
    history = pd.DataFrame([_numbers(row) for row in logged.rows])
    named = _metric(logged, config, history, metric)
    table = _history(history, named)
    if all(key in config for key in OWN) and isinstance(config["optimizer"], Mapping):
        return _own(logged, config, table, named)
    facts = Facts(
        source=SOURCE,
        task=str(config.get("task", config.get("dataset", "unnamed"))),
        optimizer=str(config.get("optimizer", config.get("optim", "unnamed"))),
        seed=config["seed"] if isinstance(config.get("seed"), int) else 0,
        metric=metric_name(named),
        direction=str(config.get("direction") or direction_of(named)),
        hyperparameters={
            key: value for key, value in config.items() if key not in (*OWN, "metric", "direction")
        },
        status=STATES.get(logged.state, "error"),
    )
    return run_of(facts, table, logged.name)


def _own(logged: Logged, config: dict[str, Any], table: pd.DataFrame, metric: str) -> Run:
    """A run that this suite recorded: configuration and summary are those of its directory."""
    status = logged.summary.get("status") or STATES.get(logged.state, "error")
    task, optimizer = (
        str(logged.summary.get(key) or _class(config[key])) for key in ("task", "optimizer")
    )
    direction = str(config.get("direction") or direction_of(metric))
    facts = Facts(
        SOURCE, task, optimizer, int(config["seed"]), metric, direction, status=str(status)
    )
    run = run_of(facts, table, logged.name)
    own = {
        key: value
        for key, value in logged.summary.items()
        if not key.startswith("_") and key in run.summary
    }
    known = {
        **run.summary,
        **{key: logged.summary[key] for key in SUITE_KEYS if key in logged.summary},
        **own,
    }
    return replace(
        run, path=run.path.with_name(logged.name), config=config, summary=known, status=str(status)
    )


def _class(node: Mapping[str, Any]) -> str:
    return str(node.get("_target_", "unnamed")).rpartition(".")[-1].lower()


# -- what is in a history --------------------------------------------------------------------------


def _metric(
    logged: Logged, config: Mapping[str, Any], history: pd.DataFrame, asked: str | None
) -> str:
    """The name of the metric, without the split before it."""
    wanted = asked or config.get("metric")
    if wanted:
        logged_names = {f"{prefix}{wanted}" for prefix in ("", *SPLITS["val"])} & set(history)
        if not logged_names and asked:
            raise ImportFaultError(
                f"{logged.name} logged no {asked!r}; it has "
                f"{', '.join(map(str, history)) or 'nothing'}"
            )
        return _without_split(str(wanted))
    candidates = [name for name in map(str, history) if name.startswith(SPLITS["val"])]
    if len(candidates) != 1:
        listed = ", ".join(map(str, history.columns)) or "nothing"
        raise ImportFaultError(
            f"say which metric of {logged.name} counts: --metric NAME; it logged {listed}"
        )
    return _without_split(candidates[0])


def _without_split(name: str) -> str:
    for prefix in SPLITS["val"]:
        name = name.removeprefix(prefix)
    return name


def _history(history: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The columns under the names of this suite."""
    if not len(history):
        return pd.DataFrame(columns=["step", "seconds", "loss", f"val/{metric}"], dtype=float)
    sources = {
        own: next((name for name in names if name in history), None) for own, names in NAMES.items()
    }
    named = {name: own for own, name in sources.items() if name is not None}
    table = history.rename(columns=named | _metric_columns(history, metric, sources["loss"]))
    if sources["step"] is None:
        table["step"] = np.arange(len(table), dtype=float)
    return table[[name for name in table if not str(name).startswith("_")]].dropna(subset=["step"])


def _metric_columns(history: pd.DataFrame, metric: str, loss: str | None) -> dict[str, str]:
    """The columns that hold the metric on each split, with their names in this suite.

    Of several for one split the first counts; the mini-batches' loss is no metric of validation.
    """
    columns: dict[str, str] = {}
    for split, prefixes in (("val", (*SPLITS["val"], "")), ("test", SPLITS["test"])):
        names = [f"{prefix}{metric}" for prefix in prefixes]
        present = [name for name in names if name in history and (name != metric or name != loss)]
        columns |= {name: f"{split}/{metric_name(metric)}" for name in present[:1]}
    return columns


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row; W&B writes those that are not finite as texts."""
    numbers: dict[str, float] = {}
    for key, value in row.items():
        if isinstance(value, str) and value in ("NaN", "Infinity", "-Infinity"):
            value = float(value.replace("Infinity", "inf"))
        if isinstance(value, int | float) and not isinstance(value, bool):
            numbers[str(key)] = float(value)
    return numbers


# -- offline files ---------------------------------------------------------------------------------


def _logged(file: Path) -> Logged:
    """Everything that the records of a file say."""
    messages: Any = import_module("wandb.proto.wandb_internal_pb2")
    faults: Any = import_module("google.protobuf.message")
    logged = Logged(file.stem.removeprefix("run-"))
    for content in _records(file):
        record = messages.Record()
        try:
            record.ParseFromString(content)
        except faults.DecodeError as error:
            raise ImportFaultError(f"{file} has a record that cannot be read ({error})") from error
        kind = record.WhichOneof("record_type")
        if kind == "run":
            logged.name = record.run.run_id or logged.name
            logged.config |= _items(record.run.config.update)
        elif kind == "config":
            logged.config |= _items(record.config.update)
        elif kind == "history":
            logged.rows.append(_items(record.history.item))
        elif kind == "summary":
            logged.summary |= _items(record.summary.update)
        elif kind == "exit":
            logged.state = "failed" if record.exit.exit_code else "finished"
    return logged


def _items(items: Iterable[Any]) -> dict[str, Any]:
    """Keys and values; nested keys are joined by a dot, unless there is one alone."""
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(file: Path) -> Iterator[bytes]:
    """The records of a file; a last one that a kill has cut off is left out."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ImportFaultError(f"{file} cannot be read ({error})") from error
    if content[: len(MAGIC)] != MAGIC:
        raise ImportFaultError(
            f"{file} is no file of an offline run: it does not begin with {MAGIC!r}"
        )
    position, parts = len(MAGIC), b""
    while position + HEADER.size <= len(content):
        if (
            left := BLOCK - position % BLOCK
        ) < HEADER.size:  # no header is split between two blocks
            position += left
            continue
        checksum, length, kind = HEADER.unpack_from(content, position)
        piece = content[position + HEADER.size : position + HEADER.size + length]
        if len(piece) < length:
            return
        if kind not in (WHOLE, FIRST, MIDDLE, LAST) or checksum != zlib.crc32(
            piece, zlib.crc32(bytes([kind]))
        ):
            raise ImportFaultError(f"{file} is damaged at byte {position}")
        parts = piece if kind in (WHOLE, FIRST) else parts + piece
        position += HEADER.size + length
        if kind in (WHOLE, LAST):
            yield parts


# -- the server ------------------------------------------------------------------------------------


def _from_api(run: Any) -> Logged:
    """A run of `wandb.Api`: its whole history, not the sample that `history()` gives."""
    return Logged(
        str(run.id),
        dict(run.config),
        [dict(row) for row in run.scan_history()],
        dict(run.summary),
        str(run.state),
    )
