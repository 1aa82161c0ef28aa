"""Budget curves: expectations by hand, failures, defaults, which studies count."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from suite.report.sections.tuning.tuning_budgets import section, tuned
from suite.tune.trials_frame import COLUMNS


def study(
    name: str,
    values: Sequence[float],
    optimizer: str = "sgd",
    *,
    task: str = "mlp",
    sampler: str = "quasi",
    pruner: str = "none",
    sign: float = 1.0,
) -> pd.DataFrame:
    rows = [
        {
            "study": name,
            "task": task,
            "optimizer": optimizer,
            "number": number,
            "value": value,
            "status": "diverged" if math.isnan(value) else "done",
            "sign": sign,
            "metric": "accuracy",
            "score": -math.inf if math.isnan(value) else sign * value,
            "sampler": sampler,
            "pruner": pruner,
            "settings": {"lr": 0.1 * (number + 1)},
            "seconds": 1.0,
            "grad_equivalents": 1.0,
            "seeds": 1,
            "space": {},
            "path": "",
        }
        for number, value in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def test_the_expected_best_by_hand() -> None:
    curves, left_out = tuned(study("one", [0.2, 0.8]))
    one = curves["mlp"]["sgd"]
    # of two draws with replacement
    assert list(one.curve["expected"]) == pytest.approx([0.5, 0.2 / 4 + 0.8 * 3 / 4])
    assert (one.default, one.trials, one.failed, left_out) == (0.2, 2, 0, [])


def test_a_failed_trial_is_drawn_as_the_worst() -> None:
    curves, _ = tuned(study("one", [math.nan, 0.8, 0.4]))
    one = curves["mlp"]["sgd"]
    assert one.curve["expected"].iloc[0] == pytest.approx((0.4 + 0.8 + 0.4) / 3)
    assert math.isnan(one.default)
    assert one.failed == 1


def test_smaller_is_better_where_the_sign_says_so() -> None:
    curves, _ = tuned(study("one", [0.2, 0.8], sign=-1.0))
    one = curves["mlp"]["sgd"]
    assert list(one.curve["expected"]) == pytest.approx([0.5, 0.8 / 4 + 0.2 * 3 / 4])
    assert (one.curve["low"] <= one.curve["high"]).all()


def test_only_trials_that_could_have_come_in_any_order_make_a_curve() -> None:
    trials = pd.concat(
        [
            study("learns", [0.1, 0.2, 0.3], sampler="tpe"),
            study("small", [0.1, 0.2]),
            study("large", [0.3, 0.4, 0.5]),
            study("halves", [0.3, 0.4], "kfac", pruner="halving"),
            study("fails", [math.nan, math.nan], "adamw"),
        ]
    )
    curves, left_out = tuned(trials)
    assert list(curves["mlp"]) == ["sgd"]
    assert curves["mlp"]["sgd"].trials == 3
    assert left_out == ["learns", "small", "halves", "fails"]


def test_the_picture_and_its_words(plant: Callable[..., Any], context: Any) -> None:
    records = plant({("mlp", "sgd"): [10], ("mlp", "kfac"): [10]})
    trials = pd.concat(
        [
            study("a", [0.2, 0.9, np.nan]),
            study("b", [0.5, 0.6], "kfac"),
            study("c", [0.5], task="cnn"),
        ]
    )
    content = section(context(records, trials=trials))
    (picture,) = content.pictures
    assert picture.file.exists()
    assert "1 of 5 trials failed." in picture.caption
    assert "different numbers of trials on mlp" in picture.caption
    assert "From 5 trials of 2 studies." in picture.caption  # cnn is not reported on
    assert "mlp: best with one trial kfac (0.5500), with all sgd" in picture.alt


def test_one_trial_and_names_without_a_label(plant: Callable[..., Any], context: Any) -> None:
    records = plant({("mlp", "kfac"): [10]})
    content = section(context(records, trials=study("a", [0.5], "elsewhere")))
    assert "From 1 trial of 1 study." in content.pictures[0].caption


def test_no_trials_no_picture(plant: Callable[..., Any], context: Any) -> None:
    records = plant({("mlp", "kfac"): [10]})
    assert not section(context(records, trials=pd.DataFrame(columns=list(COLUMNS)))).is_shown
    assert not section(context(records, trials=study("a", [math.nan]))).is_shown
