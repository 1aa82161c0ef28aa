"""How much tuning stands behind a run, found by the file whose values it has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from suite.compare.sides import sides
from suite.compare.tuning_effort import Tuning, tuning, tuning_text
from suite.config import registry
from suite.config.instantiate import DESCRIPTIVE
from suite.results.frame import build_records

Sown = Callable[..., Any]


def tuning_of(sown: Sown, folder: Path, **changes: Any) -> Tuning:
    """The budget found for a run of momentum with its defaults, some of them changed."""
    node = registry.read("optimizer", "momentum")
    hyper = {
        key: value for key, value in node.items() if key not in DESCRIPTIVE | {"_target_"}
    } | changes
    run = sown(
        "momentum",
        0,
        hyper=tuple(hyper.items()),
        config=(("optimizer", {"_target_": node["_target_"], **hyper}),),
    )
    records = build_records([run.run], [])
    return tuning(records, sides(records, "mlp")["momentum"], [folder])


@pytest.fixture
def tuned(tmp_path: Path) -> Callable[..., Path]:
    def write(trials: int, **values: Any) -> Path:
        head = (
            f"# @package _global_\n# Found by: python -m suite.tune ...\n"
            f"# Trial 3 of {trials}: final ...\n"
        )
        (tmp_path / "mlp_momentum.yaml").write_text(head + yaml.safe_dump({"optimizer": values}))
        return tmp_path

    return write


def test_a_run_with_the_tuned_values_was_tuned(sown: Sown, tuned: Callable[..., Path]) -> None:
    assert tuning_of(sown, tuned(12, lr=0.0123), lr=0.0123) == Tuning(12, "12 trials")


def test_a_run_that_departs_from_them_in_anything_was_not(
    sown: Sown, tuned: Callable[..., Path]
) -> None:
    folder = tuned(12, lr=0.0123)
    assert tuning_of(sown, folder, lr=0.5).trials is None
    assert tuning_of(sown, folder, lr=0.0123, momentum=0.5).trials is None


def test_the_defaults_may_be_what_was_found(sown: Sown, tuned: Callable[..., Path]) -> None:
    folder = tuned(20)
    assert tuning_of(sown, folder) == Tuning(20, "20 trials")
    assert tuning_of(sown, folder, lr=0.777).trials is None


def test_defaults_without_a_study_are_called_so(sown: Sown, tmp_path: Path) -> None:
    assert tuning_of(sown, tmp_path) == Tuning(0, "default settings")
    assert tuning_of(sown, tmp_path, lr=0.777).words.startswith("settings of its own")


def test_a_broken_file_is_no_tuning(sown: Sown, tmp_path: Path) -> None:
    (tmp_path / "mlp_momentum.yaml").write_text("# Trial 3 of 12:\noptimizer: [")
    assert tuning_of(sown, tmp_path).trials == 0


@pytest.mark.parametrize(
    ("a", "b", "text"),
    [
        (Tuning(12, "12 trials"), Tuning(12, "12 trials"), "tuning: 12 trials each"),
        (
            Tuning(20, "20 trials"),
            Tuning(12, "12 trials"),
            "unequal tuning: a 20 trials, b 12 trials",
        ),
        (
            Tuning(20, "20 trials"),
            Tuning(0, "default settings"),
            "unequal tuning: a 20 trials, b default settings",
        ),
        (Tuning(None, "unknown"), Tuning(12, "12 trials"), "tuning: a unknown, b 12 trials"),
        (Tuning(None, "unknown"), Tuning(None, "unknown"), "tuning: a unknown, b unknown"),
    ],
)
def test_unequal_budgets_are_called_so(a: Tuning, b: Tuning, text: str) -> None:
    assert tuning_text(a, b, ("a", "b")) == text
