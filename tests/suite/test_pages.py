"""The functions that the scripts for pages of docs/results/ compute their cells with."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from suite import paths
from suite.results.run import Run
from tests.conftest import Planted

INF = math.inf


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A script as a module, its own neighbours on the path."""
    monkeypatch.syspath_prepend(paths.ROOT / "scripts")
    return importlib.import_module


@pytest.mark.parametrize(
    ("values", "text", "count"),
    [
        ([1.0, 2.0, 4.0], "2.0 [1.0, 4.0]", "(3 of 3)"),
        ([3.0, INF, 1.0], "3.0 [1.0, —]", "(2 of 3)"),
        ([1.0, INF, INF], "— [1.0, —]", "(1 of 3)"),
        ([INF, INF], "—", "(0 of 2)"),
    ],
)
def test_a_cell_of_costs_counts_who_never_reached_the_level(
    script: Callable[[str], ModuleType], values: list[float], text: str, count: str
) -> None:
    pages = script("pages")
    assert (pages.median_range(values, ".1f"), pages.success_count(values)) == (text, count)


@pytest.mark.parametrize(
    ("values", "text"), [([], "—"), ([0.5], "0.5 (1)"), ([1.0, 3.0], "2 ± 1.4 (2)")]
)
def test_a_spread_needs_two_values(
    script: Callable[[str], ModuleType], values: list[float], text: str
) -> None:
    assert script("pages").spread(values) == text


def test_runs_are_chosen_by_the_values_of_their_settings(
    script: Callable[[str], ModuleType], sown: type[Planted]
) -> None:
    runs: list[Run] = [
        sown(name, seed, 60, hyper=(("lr", rate),)).run
        for name in ("sgd", "kfac")
        for rate in (0.1, 0.01)
        for seed in range(2)
    ]
    cells = script("pages").Cells(runs)
    assert len(cells.where(optimizer="kfac").runs) == 4
    assert len(cells.where(optimizer="kfac", optimizer__lr=0.01, seed=1).runs) == 1
    assert cells.where(task="cnn").runs == []
    assert cells.values("optimizer.lr") == [0.01, 0.1]


@pytest.fixture
def runs_of(script: Callable[[str], ModuleType]) -> Callable[..., Any]:
    """A method's runs on a task, from the accuracies of each seed at steps 1, 2, 3 ..."""

    def build(curves: list[list[float]], failed: int = 0) -> Any:
        histories = {
            seed: pd.DataFrame({"step": range(1, 1 + len(values)), "val/accuracy": values})
            for seed, values in enumerate(curves)
        }
        return script("claims_page").Runs(histories, "accuracy", 1.0, failed)

    return build


def test_differences_are_paired_by_seed(
    script: Callable[[str], ModuleType], runs_of: Callable[..., Any]
) -> None:
    claims = script("claims_page")
    better, worse = runs_of([[0.8], [0.7], [0.9]]), runs_of([[0.7], [0.58], [0.79]])
    interval = claims.difference(better, worse)
    half = 4.302652729749 * 0.01 / math.sqrt(3)  # Student's t with two degrees of freedom
    assert interval[:3] == pytest.approx((0.11, 0.11 - half, 0.11 + half))
    assert claims.relation(interval) == "better"
    assert claims.relation(claims.difference(worse, better)) == "worse"
    assert claims.relation(claims.difference(runs_of([[0.7]]), worse)) == "not measured"
    same = claims.difference(runs_of([[0.6], [0.7]]), runs_of([[0.7], [0.6]]))
    assert claims.relation(same) == "cannot be told"
    assert claims.in_numbers(interval, ".2f") == "+0.11 [+0.09, +0.13]"


def test_steps_are_shares_of_the_baselines_length(
    script: Callable[[str], ModuleType], runs_of: Callable[..., Any]
) -> None:
    claims = script("claims_page")
    baseline = runs_of([[0.1, 0.2, 0.3, 0.5]] * 3)
    method = runs_of([[0.5, 0.5], [0.1, 0.6]], failed=1)
    assert claims.steps_share(method, baseline) == "0.50 [0.25, —] (2 of 3)"


@pytest.mark.parametrize(
    ("words", "conclusion"),
    [
        (["better", "better"], "holds here"),
        (["better", "worse"], "holds in part"),
        (["cannot be told", "worse"], "does not hold here"),
        (["cannot be told", "not measured"], "not shown here"),
    ],
)
def test_a_claim_holds_where_every_task_says_so(
    script: Callable[[str], ModuleType], words: list[str], conclusion: str
) -> None:
    assert script("claims_page").concluded(words) == conclusion
