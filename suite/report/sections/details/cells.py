"""Cells that several tables of details have."""

from __future__ import annotations

import pandas as pd

from suite.results.labels import show


def settings_text(settings: dict[str, str]) -> str:
    """Settings as a person types them, without the prefix of a task."""
    return ", ".join(f"{key.removeprefix('task.')}={value}" for key, value in settings.items())


def seeds_text(runs: pd.DataFrame) -> str:
    """The seeds of some runs, each once, in ascending order."""
    return ", ".join(map(show, sorted(set(runs["seed"]))))
