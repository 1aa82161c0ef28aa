"""Plans that are trained as one batch and one by one."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
import torch

from suite.config.plan import Plan

MLP = ("task=mlp", "steps=100", "task.eval_every=25", "task.hidden=[16]", "task.image_size=7")


SHORT = (*MLP, "steps=45", "task.eval_every=15", "precision=float64")


TIMED = {"seconds", "seconds_per_step", "target_seconds"}  # what no two runs share


MARKS = {"parallel", "batched"}


@dataclass(frozen=True)
class Left:
    """What a run has left on disk."""

    plan: Plan

    @cached_property
    def summary(self) -> dict[str, Any]:
        return dict(json.loads((self.plan.directory / "summary.json").read_text()))

    @cached_property
    def rows(self) -> list[dict[str, str]]:
        with (self.plan.directory / "history.csv").open(newline="") as file:
            return [
                {key: value for key, value in row.items() if key != "seconds"}
                for row in csv.DictReader(file)
            ]

    @cached_property
    def checkpoint(self) -> dict[str, Any]:
        return dict(torch.load(self.plan.directory / "checkpoint.pt", weights_only=True))


Planned = Callable[..., Plan]


Pairs = Callable[[Sequence[Sequence[str]]], list[tuple[Left, Left]]]


def parameters(run: Left) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = run.checkpoint["model"]
    return found


def distance(one: Left, other: Left) -> float:
    """The largest difference between two runs' last parameters."""
    mine, theirs = parameters(one), parameters(other)
    assert mine.keys() == theirs.keys()
    return max(float((mine[name] - theirs[name]).abs().max()) for name in mine)


def assert_same_record(one: Left, other: Left, tolerance: float) -> None:
    """The same rows and the same summary but for seconds and for what marks a batch."""
    assert one.plan.directory.name == other.plan.directory.name
    assert [row.keys() for row in one.rows] == [row.keys() for row in other.rows]
    for mine, theirs in zip(one.rows, other.rows, strict=True):
        assert [key for key in mine if not mine[key]] == [key for key in theirs if not theirs[key]]
        there = [key for key in mine if mine[key]]
        found, wanted = [float(theirs[key]) for key in there], [float(mine[key]) for key in there]
        assert found == pytest.approx(wanted, rel=tolerance, abs=tolerance, nan_ok=True)
    mine, theirs = (
        {k: v for k, v in run.summary.items() if k not in TIMED | MARKS} for run in (one, other)
    )
    assert mine.keys() == theirs.keys()
    for key, value in mine.items():
        expected = (
            pytest.approx(value, rel=tolerance, abs=tolerance, nan_ok=True)
            if isinstance(value, float)
            else value
        )
        assert theirs[key] == expected, key
