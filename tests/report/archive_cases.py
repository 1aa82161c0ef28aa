"""Runs to be archived."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

Record = Callable[..., Path]
