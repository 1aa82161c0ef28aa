"""Settings of trials.

The same for the same space and number, spread over the space, the default first.
"""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from optuna.trial import TrialState, create_trial

from suite.config import registry
from suite.config.search_space import checked, distributions, inside, on_edge, rounded
from suite.errors import ConfigError
from suite.tune import sampling
from suite.tune.sampling import parameters, point, sequence

SPACE: dict[str, dict[str, Any]] = {
    "lr": {"low": 1e-4, "high": 1.0, "log": True},
    "damping": {"low": 0.0, "high": 2.0},
    "momentum": {"choices": [0.9, 0.95, 0.99]},
    "history": {"low": 2, "high": 64, "log": True, "integer": True},
}
KFAC = [  # what the committed configs/tuned/*_kfac.yaml were found among
    {},
    {"lr": 0.503, "damping": 0.622, "kl_clip": 0.01},
    {"lr": 0.0129, "damping": 0.0165, "kl_clip": 0.1},
    {"lr": 0.0466, "damping": 0.068, "kl_clip": 0.001},
    {"lr": 0.103, "damping": 0.00181, "kl_clip": 0.1},
    {"lr": 0.279, "damping": 0.171, "kl_clip": 0.1},
    {"lr": 0.0714, "damping": 0.00443, "kl_clip": 0.01},
    {"lr": 0.026, "damping": 0.251, "kl_clip": 0.01},
    {"lr": 0.577, "damping": 0.00646, "kl_clip": 0.001},
    {"lr": 0.797, "damping": 0.0389, "kl_clip": 0.01},
    {"lr": 0.0202, "damping": 0.00146, "kl_clip": 0.001},
    {"lr": 0.0987, "damping": 0.754, "kl_clip": 0.1},
]


def space_of(optimizer: str) -> dict[str, dict[str, Any]]:
    return checked(registry.read("optimizer", optimizer).get("search"), optimizer)


# -- points ----------------------------------------------------------------------------------------


def test_the_points_are_those_that_the_committed_values_were_found_among() -> None:
    assert sequence(space_of("kfac"), 12) == KFAC
    assert [point("quasi", space_of("kfac"), number) for number in range(12)] == KFAC


def test_the_points_are_scipys_scrambled_sobol_points() -> None:
    """Trial k > 0 is point k - 1 of the sequence.

    Optuna's sampler draws the very first one at random.
    """
    from scipy.stats.qmc import Sobol

    space = {"a": {"low": -1.0, "high": 1.0}, "b": {"low": 1e-3, "high": 10.0, "log": True}}
    units = Sobol(2, seed=sampling.SEED, scramble=True).random(16)
    for unit, setting in zip(units, sequence(space, 17)[1:], strict=True):
        assert setting["a"] == pytest.approx(2 * unit[0] - 1, abs=5e-3)
        assert setting["b"] == pytest.approx(10 ** (-3 + 4 * unit[1]), rel=6e-3)


def test_the_default_comes_first_and_all_values_lie_in_their_ranges() -> None:
    settings = sequence(SPACE, 33)

    assert settings[0] == {}
    assert len(settings) == 33
    for setting in settings[1:]:
        assert inside(setting, SPACE)
        assert setting["lr"] == float(f"{setting['lr']:.3g}")
        assert isinstance(setting["history"], int)


def test_settings_spread_over_the_space() -> None:
    settings = sequence(SPACE, 33)[1:]
    decades = [
        sum(10.0**k <= s["lr"] < 10.0 ** (k + 1) for s in settings) for k in (-4, -3, -2, -1)
    ]
    halves = [sum(low <= s["damping"] < low + 1 for s in settings) for low in (0, 1)]

    assert min(decades) >= 6  # of 32, evenly in the logarithm
    assert min(halves) >= 14
    assert {s["momentum"] for s in settings} == {0.9, 0.95, 0.99}


@pytest.mark.parametrize("sampler", ["quasi", "random"])
def test_a_point_depends_on_the_space_and_its_number_only(sampler: str) -> None:
    alone = [point(sampler, SPACE, number) for number in (7, 3, 20)]
    assert alone == [
        [point(sampler, SPACE, number) for number in range(21)][number] for number in (7, 3, 20)
    ]
    assert len({json.dumps(setting) for setting in alone}) == 3


def test_a_larger_budget_adds_to_a_smaller_one() -> None:
    assert sequence(SPACE, 9) == sequence(SPACE, 100)[:9]
    assert sequence(SPACE, 1) == [{}]
    assert sequence({}, 5) == [{}]


def test_random_points_are_no_sequence_of_low_discrepancy() -> None:
    space = {"a": {"low": 0.0, "high": 1.0}}
    drawn = [point("random", space, number)["a"] for number in range(1, 257)]
    evenly = [point("quasi", space, number)["a"] for number in range(1, 257)]

    def gap(values: list[float]) -> float:
        return max(abs(value - (index + 0.5) / 256) for index, value in enumerate(sorted(values)))

    assert gap(evenly) < 0.006 < 0.01 < gap(drawn) < 0.12  # Kolmogorov: 0.12 at level 0.001


@pytest.mark.parametrize("optimizer", registry.names("optimizer"))
def test_every_optimizer_gets_the_same_number_of_different_settings(optimizer: str) -> None:
    settings = sequence(space_of(optimizer), 12)
    assert len(settings) == 12
    assert len({json.dumps(setting, sort_keys=True) for setting in settings}) == 12


# -- TPE -------------------------------------------------------------------------------------------


def trial_of(space: dict[str, Any], settings: dict[str, Any], score: float | None) -> Any:
    state = TrialState.RUNNING if score is None else TrialState.COMPLETE
    return create_trial(
        params=settings, distributions=distributions(space), value=score, state=state
    )


def past(count: int, best: float = 1e-2) -> list[Any]:
    """Trials whose score falls with the distance of their learning rate from the best one."""
    space = {"lr": SPACE["lr"]}
    points = sequence(space, count + 1)[1:]
    return [trial_of(space, p, -abs(math.log(p["lr"] / best))) for p in points]


def test_tpe_begins_with_the_quasi_random_points() -> None:
    assert [point("tpe", SPACE, n, past(0)) for n in range(sampling.STARTUP)] == sequence(
        SPACE, sampling.STARTUP
    )


def test_tpe_goes_where_the_past_was_good() -> None:
    space = {"lr": SPACE["lr"]}
    suggested = [point("tpe", space, number, past(24))["lr"] for number in range(24, 44)]
    far = [abs(math.log10(lr / 1e-2)) for lr in suggested]
    assert sorted(far)[10] < 0.35  # decades, the median; a random point is 1 away
    assert suggested == [point("tpe", space, number, past(24))["lr"] for number in range(24, 44)]


def test_tpe_takes_running_trials_for_bad_ones() -> None:
    """A lie that keeps parallel trials apart.

    With 20 at work on the best place, others look elsewhere more often.
    """
    space = {"lr": SPACE["lr"]}
    busy = [trial_of(space, {"lr": 1e-2}, None)] * 20
    numbers = range(24, 64)

    def near(trials: list[Any]) -> int:
        return sum(
            abs(math.log10(point("tpe", space, number, trials)["lr"] / 1e-2)) < 0.1
            for number in numbers
        )

    assert near([*past(24), *busy]) < near(past(24)) / 2


def test_tpe_takes_failures_for_the_worst() -> None:
    space = {"lr": SPACE["lr"]}
    trials = [
        trial_of(space, p, -math.inf if p["lr"] > 1e-2 else p["lr"])
        for p in sequence(space, 25)[1:]
    ]
    suggested = [point("tpe", space, number, trials)["lr"] for number in range(24, 44)]
    assert sum(lr > 0.02 for lr in suggested) <= 4


# -- what Optuna is told ---------------------------------------------------------------------------


def test_a_default_within_the_space_is_a_point_of_it_and_one_outside_is_none() -> None:
    defaults = {"lr": 0.01, "damping": 0.5, "momentum": 0.9, "history": 10}
    assert parameters({}, SPACE, defaults) == defaults
    assert parameters({}, SPACE, {**defaults, "lr": 3.0}) == {}
    assert parameters({}, SPACE, {**defaults, "momentum": 0.8}) == {}
    assert parameters({}, SPACE, {**defaults, "lr": None}) == {}
    assert parameters({"lr": 0.1}, {"lr": SPACE["lr"]}, {"lr": 9.0}) == {"lr": 0.1}


def test_rounding_stays_within_the_range() -> None:
    entry = {"low": 0.12345, "high": 0.98765}
    assert rounded(0.12346, entry) == 0.12345
    assert rounded(0.98764, entry) == 0.98765
    assert rounded(0.5678912, entry) == 0.568
    assert rounded(3, {"low": 1, "high": 5, "integer": True}) == 3
    assert rounded(0.00012345, {"choices": [0.00012345]}) == 0.00012345


# -- spaces ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (0.1, "lr must be {low: ..., high: ...} or {choices: [...]}, got 0.1"),
        ({"low": 1.0, "high": 0.1}, "lr must have a low below its high, got 1.0 and 0.1"),
        ({"low": 0.5, "high": 0.5}, "lr must have a low below its high"),
        (
            {"low": 0.0, "high": 1.0, "log": True},
            "lr is searched in the logarithm, so low must be above 0, got 0.0",
        ),
        ({"low": 1e-3}, "lr must have numbers as low and high, got 0.001 and None"),
        ({"low": "1e-3", "high": 1.0}, "lr must have numbers as low and high, got '1e-3' and 1.0"),
        ({"low": float("nan"), "high": 1.0}, "lr must have numbers"),
        ({"low": 0.0, "high": float("inf")}, "lr must have numbers"),
        (
            {"low": 1.5, "high": 3, "integer": True},
            "lr must have whole numbers as low and high, got 1.5 and 3",
        ),
        ({"choices": []}, "lr has no choices"),
        (
            {"low": 1.0, "hihg": 2.0},
            "lr has a key 'hihg' that means nothing here. Did you mean high?",
        ),
    ],
)
def test_an_entry_that_makes_no_sense_is_refused(entry: Any, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        checked({"lr": entry}, "optimizer mine")
    assert str(refused.value).startswith(f"the search space of optimizer mine: {message}")


def test_no_space_is_an_empty_one() -> None:
    assert checked(None, "x") == {}
    assert point("quasi", {}, 0) == {}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"lr": 1e-4, "damping": 1.0, "momentum": 0.9}, ["lr"]),
        ({"lr": 0.99, "damping": 1.99, "momentum": 0.99}, ["lr", "damping"]),
        ({"lr": 1.3e-4, "damping": 0.05}, []),
        ({"lr": 0.01, "damping": 0.01}, ["damping"]),
        ({"history": 64}, ["history"]),
        ({}, []),
    ],
)
def test_values_at_the_edge_of_their_range_are_named(
    settings: dict[str, Any], expected: list[str]
) -> None:
    assert on_edge(settings, SPACE) == expected
