"""The files of a run directory, parsed: quickly, and with words for what is wrong with one."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import yaml
from pyarrow import csv

from suite.results.run import HISTORY_COLUMNS, DamagedRunError

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
SECTION = re.compile(r"^(?=[A-Za-z_])", re.MULTILINE)  # where a key of the top level begins
KEY = re.compile(r"[A-Za-z_]\w*:[ \n]")
REMEMBERED = 50_000  # texts of which the parsed value is kept


class Memory:
    """Texts that were parsed before.

    The runs of a sweep have most of their configuration in common.

    What is found is shared between runs, so nobody may change it.
    """

    def __init__(self) -> None:
        self._sections: dict[str, dict[str, Any]] = {}
        self._json: dict[str, dict[str, Any]] = {}

    def config(self, text: str) -> Any:
        """The configuration in a YAML text, section by section.

        A text of another form is parsed as a whole.

        Raises:
            yaml.YAMLError: it is not YAML.
        """
        sections = SECTION.split(text)
        if sections[0].strip() or len(sections) == 1 or not all(map(KEY.match, sections[1:])):
            return yaml.load(text, Loader=LOADER)
        config: dict[str, Any] = {}
        try:
            for section in sections[1:]:
                config |= self._section(section)
        except (
            yaml.YAMLError,
            TypeError,
        ):  # an alias of another section, or text that only looked like a key
            return yaml.load(text, Loader=LOADER)
        return config

    def environment(self, path: Path) -> dict[str, Any]:
        """The mapping in a JSON file that is the same for many runs."""
        text = read_text(path) or "{}"
        if text not in self._json:
            _make_room(self._json)
            self._json[text] = parse_json(text, path.name)
        return self._json[text]

    def _section(self, text: str) -> dict[str, Any]:
        if text not in self._sections:
            _make_room(self._sections)
            self._sections[text] = yaml.load(text, Loader=LOADER)
        return self._sections[text]


def read_config(path: Path, memory: Memory) -> dict[str, Any]:
    """The resolved configuration of a run."""
    text = read_text(path)
    if text is None:
        raise DamagedRunError("config.yaml is missing")
    try:
        config = memory.config(text)
    except yaml.YAMLError as error:
        raise DamagedRunError(f"config.yaml is not YAML ({first_line(error)})") from error
    if not isinstance(config, dict):
        raise DamagedRunError("config.yaml is not a mapping")
    return config


def read_summary(path: Path) -> dict[str, Any]:
    """The summary of a run; empty while there is none."""
    text = read_text(path)
    return {} if text is None else parse_json(text, path.name)


def parse_json(text: str, name: str) -> dict[str, Any]:
    """The mapping in a JSON text."""
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise DamagedRunError(f"{name} is not JSON ({first_line(error)})") from error
    if not isinstance(content, dict):
        raise DamagedRunError(f"{name} is not a mapping")
    return content


def read_text(path: Path) -> str | None:
    """A file's text; None where there is no such file."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedRunError(f"{path.name} cannot be read ({error})") from error


def read_history(path: Path, *, needed: bool, ended: bool) -> pd.DataFrame:
    """The rows of history.csv; none where the file is absent and not needed."""
    content = _read_bytes(path)
    if not content:
        if needed:
            raise DamagedRunError("history.csv is missing or empty")
        return pd.DataFrame(columns=list(HISTORY_COLUMNS), dtype=float)
    if not ended:  # a killed run may have been cut off in the middle of its last line
        content = content[: content.rfind(b"\n") + 1] or content
    history = _parse_quickly(content)
    if history is None:
        history = _parse_carefully(content)
    absent = [column for column in HISTORY_COLUMNS if column not in history]
    if absent:
        raise DamagedRunError(f"history.csv lacks the column {absent[0]!r}")
    return history


def first_line(error: Exception) -> str:
    """What an error says, without the rest of it."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise DamagedRunError(f"{path.name} cannot be read ({error})") from error


def _parse_quickly(content: bytes) -> pd.DataFrame | None:
    """A well-formed table, as one block of memory.

    None where anything about it is out of the ordinary.
    """
    try:
        names = content.partition(b"\n")[0].decode().rstrip("\r").split(",")
        if len(set(names)) != len(names):
            return None
        table = csv.read_csv(
            pa.BufferReader(content),
            read_options=csv.ReadOptions(use_threads=False),
            convert_options=csv.ConvertOptions(column_types=dict.fromkeys(names, pa.float64())),
        )
        if table.column_names != names:
            return None
        values = np.empty((table.num_columns, table.num_rows))
        for row, column in zip(values, table.columns, strict=True):
            row[:] = column.to_numpy()
    except (pa.ArrowException, UnicodeDecodeError, ValueError):
        return None
    return pd.DataFrame(values.T, columns=names, copy=False)


def _parse_carefully(content: bytes) -> pd.DataFrame:
    try:
        return pd.read_csv(io.BytesIO(content), dtype=float, index_col=False)
    except (ValueError, pd.errors.ParserError) as error:
        raise DamagedRunError(
            f"history.csv is not a table of numbers ({first_line(error)})"
        ) from error


def _make_room(known: dict[str, dict[str, Any]]) -> None:
    if len(known) >= REMEMBERED:
        known.clear()
