"""Learning rates: which runs and trials join a line, the good region by hand, failures, what is too
little."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from suite.report.sections.tuning.lr_sensitivity import rates, section
from suite.tune.trials_frame import COLUMNS

NONE = pd.DataFrame(columns=list(COLUMNS))
SPACE = {"lr": {"low": 1e-4, "high": 1.0, "log": True}}


def trials(
    settings: Sequence[Mapping[str, float]], values: Sequence[float], optimizer: str = "kfac"
) -> pd.DataFrame:
    rows = [
        {
            "study": "s",
            "task": "mlp",
            "optimizer": optimizer,
            "number": number,
            "value": value,
            "status": "done",
            "score": value if math.isfinite(value) else -math.inf,
            "sign": 1.0,
            "metric": "accuracy",
            "settings": dict(chosen),
            "sampler": "quasi",
            "pruner": "none",
            "space": SPACE,
            "seeds": 1,
        }
        for number, (chosen, value) in enumerate(zip(settings, values, strict=True))
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


@pytest.fixture
def sweep(record: Callable[..., Path], training: Any) -> Callable[..., None]:
    """Runs of a sweep over rates: `{rate: the final values of its seeds}`.

    None is a run that diverged.
    """

    def record_sweep(
        finals: Mapping[float, Sequence[float | None]], optimizer: str = "sgd", **hyper: Any
    ) -> None:
        for rate, values in finals.items():
            for seed, final in enumerate(values):
                one = training(status="diverged", cut=5) if final is None else training(final=final)
                record("mlp", optimizer, seed, one, hyper={"lr": rate, **hyper})

    return record_sweep


def test_a_sweep_by_hand(sweep: Callable[..., None], plant: Callable[..., Any]) -> None:
    sweep(
        {0.001: [0.5, 0.6, 0.7], 0.01: [0.9, 0.9, 0.1], 0.1: [0.88] * 3, 1.0: [None, None, 0.9]},
        search=SPACE,
    )
    ((problem, methods),) = rates(plant({}), NONE).items()
    one = methods["sgd"]
    assert (problem, list(one.by_rate.index), list(one.by_rate)) == (
        "mlp",
        [0.001, 0.01, 0.1, 1.0],
        [0.6, 0.9, 0.88, -math.inf],
    )
    assert (one.alone, one.mode, one.metric, one.space, one.runs) == (
        True,
        "max",
        "accuracy",
        (1e-4, 1.0),
        12,
    )


def test_the_table_says_how_wide_the_good_region_is(
    sweep: Callable[..., None], plant: Callable[..., Any], context: Any
) -> None:
    sweep({0.001: [0.5], 0.01: [0.9], 0.1: [0.88], 1.0: [None]}, search=SPACE)
    content = section(context(plant({}), trials=NONE))
    (row,) = (
        dict(zip(content.tables[0].columns, cells, strict=True)) for cells in content.tables[0].rows
    )
    # good are 0.01 and 0.1, whose cells reach from 10^-2.5 to 10^-0.5: two of the four decades of
    # the space
    assert (row["good share"].text, row["decades"].text, row["best rate"].order) == (
        "50%",
        "2.00",
        0.01,
    )
    assert row["good region"].text == "0.0032 to 0.32"
    assert (row["rates"].text, row["failed"].text, row["else fixed"].text) == ("4", "1", "yes")
    (picture,) = content.pictures
    assert picture.file.exists()
    assert "mlp: the widest good region has sgd, 2.0 decades round 0.01" in picture.alt
    assert "From 4 runs and trials." in picture.caption


def test_a_line_holds_only_runs_that_differ_in_the_rate(
    sweep: Callable[..., None], plant: Callable[..., Any]
) -> None:
    sweep({0.001: [0.5], 0.01: [0.9], 0.1: [0.88]}, momentum=0.9)
    sweep({0.001: [0.1], 0.01: [0.1]}, momentum=0.0)
    sweep({0.001: [0.1], 0.01: [0.1]}, "adamw")
    ((_, methods),) = rates(plant({}), NONE).items()
    assert list(methods) == ["sgd"]
    assert list(methods["sgd"].by_rate) == [0.5, 0.9, 0.88]


def test_trials_stand_apart_from_sweeps(
    sweep: Callable[..., None], plant: Callable[..., Any]
) -> None:
    sweep({0.001: [0.5], 0.01: [0.9], 0.1: [0.88]}, "kfac")
    settings = [
        {},
        {"lr": 0.01, "damping": 1.0},
        {"lr": 0.1, "damping": 0.1},
        {"lr": 0.001, "damping": 0.1},
    ]
    sensitivities = rates(plant({}), trials(settings, [0.3, 0.4, 0.5, math.nan]))
    assert list(sensitivities) == ["mlp", "mlp (tuning)"]
    one = sensitivities["mlp (tuning)"]["kfac"]
    # the default's rate is not told
    assert (one.alone, one.space, one.runs) == (False, (1e-4, 1.0), 3)
    assert one.by_rate.to_dict() == {0.001: -math.inf, 0.01: 0.4, 0.1: 0.5}


def test_a_space_that_does_not_hold_the_rates_is_not_used(plant: Callable[..., Any]) -> None:
    records = plant({("mlp", "kfac"): [10]})
    sensitivities = rates(
        records, trials([{"lr": 0.01}, {"lr": 0.1}, {"lr": 10.0}], [0.3, 0.4, 0.5])
    )
    assert sensitivities["mlp (tuning)"]["kfac"].space is None


def test_rates_that_are_no_numbers_and_methods_that_always_fail(
    sweep: Callable[..., None], plant: Callable[..., Any], context: Any
) -> None:
    sweep({0.001: [None], 0.01: [None], 0.1: [None]})
    settings: list[Any] = [{"lr": None}, {"lr": "auto"}, {"lr": -1.0}]
    records = plant({})
    assert rates(records, trials(settings, [0.1, 0.2, 0.3])) == {}
    assert not section(context(records, trials=NONE)).is_shown


def test_many_methods_and_both_kinds_in_one_picture(
    sweep: Callable[..., None], plant: Callable[..., Any], context: Any
) -> None:
    for place in range(12):
        sweep({10.0**-power: [0.5 + 0.03 * power] for power in range(4)}, f"a_method_{place}")
    some = trials(
        [{"lr": 0.01 * n, "damping": 1.0} for n in range(1, 5)],
        list(np.linspace(0.2, 0.8, 4)),
        "unknown",
    )
    (picture,) = section(context(plant({}), trials=some)).pictures
    assert "Other settings change too for unknown." in picture.caption
    assert "From 52 runs and trials." in picture.caption
