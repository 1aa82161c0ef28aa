"""Mean ranks: by hand, with Demsar's critical difference, failures tied, and what is too little."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from suite.report.sections.answers.critical_difference import ranking, section

INF = math.inf


def rows(costs: dict[str, list[float]]) -> pd.DataFrame:
    """A method's costs, one a problem, `None` where it was not run."""
    return pd.DataFrame(
        [
            {"problem": f"p{place}", "optimizer": name, "seed": 0, "cost": cost}
            for name, values in costs.items()
            for place, cost in enumerate(values)
            if cost is not None
        ]
    )


def test_ranks_by_hand() -> None:
    """Ranks of a: 1, 1, 2; b: 2, 2.5, 1; c: 3, 2.5 (both failed), 3."""
    one = ranking(rows({"a": [10, 5, 20], "b": [20, INF, 10], "c": [30, INF, 30]}), ["a", "b", "c"])
    assert one is not None
    assert one.test.ranks.to_dict() == pytest.approx({"a": 4 / 3, "b": 5.5 / 3, "c": 8.5 / 3})
    assert one.problems == 3
    # Demsar's table 5
    assert one.test.difference == pytest.approx(2.343 * math.sqrt(3 * 4 / (6 * 3)), abs=2e-3)
    assert one.test.groups == [["a", "b", "c"]]


def test_who_differs_is_under_no_common_bar() -> None:
    many = 30
    one = ranking(rows({"a": [1.0] * many, "b": [2.0] * many, "c": [3.0] * many}), ["a", "b", "c"])
    assert one is not None
    assert one.test.groups == []
    assert one.p_value < 1e-6


def test_only_those_that_ran_on_every_problem_are_ranked() -> None:
    costs = {"a": [1, 1], "b": [2, 2], "c": [3, 3], "d": [0.5, None]}
    one = ranking(rows(costs), list("abcd"))  # type: ignore[arg-type]
    assert one is not None
    assert list(one.test.ranks.index) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "costs", [{"a": [1.0, 2.0], "b": [1.0, 2.0]}, {"a": [1.0], "b": [2.0], "c": [3.0]}]
)
def test_too_little_is_not_ranked(costs: dict[str, list[float]]) -> None:
    assert ranking(rows(costs), list(costs)) is None


def test_the_diagram(plant: Callable[..., Any], context: Any) -> None:
    cells = {
        (task, name): [steps, steps]
        for task in ("mlp", "cnn")
        for name, steps in (("sgd", 40.0), ("kfac", 10.0), ("adamw", 20.0))
    }
    records = plant({**cells, ("mlp", "newton"): [5.0]})
    content = section(context(records))
    (picture,) = content.pictures
    assert picture.file.exists()
    assert "steps, mean ranks from the best: kfac 1.00, adamw 2.00 and sgd 3.00" in picture.alt
    assert "the best cannot be told from adamw and sgd" in picture.alt
    assert "Not ranked, since not run on all problems: newton." in picture.caption
    assert "2 in steps" in picture.caption
    assert "From 13 runs." in picture.caption


def test_all_failed_is_a_tie(plant: Callable[..., Any], context: Any) -> None:
    cells = {(task, name): [INF] for task in ("mlp", "cnn") for name in ("sgd", "kfac", "adamw")}
    (picture,) = section(context(plant(cells))).pictures
    assert "adamw 2.00, sgd 2.00 and kfac 2.00" in picture.alt


def test_too_little_is_said(
    plant: Callable[..., Any], record: Callable[..., Path], context: Any
) -> None:
    record("cnn", "sgd")
    assert section(context(plant({}))).note == ""
    content = section(context(plant({("mlp", "sgd"): [10], ("mlp", "kfac"): [20]})))
    assert not content.pictures
    assert (
        "Mean ranks need 2 problems with a target and 3 methods that ran on all of them"
        in content.note
    )
    assert "here they are 1 and 2" in content.note
