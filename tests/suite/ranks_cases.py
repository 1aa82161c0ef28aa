"""Runs by several processes, and when two of them agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Train = Callable[..., Any]


CNN = ("task=cnn", "precision=float64", "steps=20", "task.eval_every=5", "log_every=1")


MLP = ("task=mlp", "task.hidden=[8]", "task.eval_every=5", "log_every=1")


def agree(some: list[dict[str, str]], others: list[dict[str, str]], tolerance: float) -> None:
    """Every number of two histories but the seconds."""
    assert [row["step"] for row in some] == [row["step"] for row in others]
    for one, other in zip(some, others, strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"seconds"}:
            assert (one[name] == "") == (other[name] == "")
            if one[name]:
                assert float(one[name]) == pytest.approx(
                    float(other[name]), rel=tolerance, abs=tolerance
                ), name
