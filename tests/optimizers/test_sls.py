"""SLS: the published search as a plain loop, its conditions, and what it does where no step
serves."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimizers import minimize
from optimizers.step_size import SLS
from tests.optimizers.cases import Problem
from tests.optimizers.step_size_cases import (
    batches,
    bowl,
    classification,
    evaluated,
    full,
    function,
    interpolating,
    put,
    run,
    separable,
    slope,
    vector,
)


def armijo(value: Any, start: float, squares: float, eta: float, c: float) -> tuple[float, int]:
    for trial in range(100):
        if value(eta) <= start - eta * c * squares:
            return eta, trial
        eta *= 0.9
    return 1e-6, 100


def goldstein(value: Any, start: float, squares: float, eta: float, c: float) -> tuple[float, int]:
    backtracks = 0
    for _ in range(100):
        low = value(eta) <= start - eta * c * squares
        high = value(eta) >= start - eta * (1 - c) * squares
        if low and (high or eta == 10):
            return eta, backtracks
        backtracks += not low
        eta = min(2 * eta, 10.0) if low else 0.9 * eta
    return 1e-6, backtracks


@pytest.mark.parametrize("search", [armijo, goldstein])
@pytest.mark.parametrize(
    ("reset", "growth"), [("grow", 2 ** (1 / 5)), ("keep", 1.0), ("first", 1.0)]
)
def test_the_steps_are_those_of_the_algorithm(search: Any, reset: str, growth: float) -> None:
    problem = classification()
    twin = copy.deepcopy(problem)
    method = SLS(
        problem.params, condition=search.__name__, c=0.2, reset=reset, first=6.0, steps_per_epoch=5
    )
    eta, total, l2 = 6.0, 0, 0.01
    for batch in batches(problem, 30):
        method.step(problem.objective(l2).on(*batch))

        start = float(evaluated(twin, batch, l2))
        theta, gradient = vector(twin), slope(twin)

        def value(
            size: float, theta: Tensor = theta, gradient: Tensor = gradient, batch: Any = batch
        ) -> float:
            put(twin, theta - size * gradient)
            return float(evaluated(twin, batch, l2))

        first = 6.0 if reset == "first" else min(growth * eta, 10.0)
        eta, backtracks = search(value, start, float(gradient @ gradient), first, 0.2)
        total += backtracks
        put(twin, theta - eta * gradient)
        torch.testing.assert_close(vector(problem), vector(twin), rtol=1e-11, atol=1e-12)
        assert method.telemetry()["backtracks"] == backtracks
    assert total > 0
    assert method.telemetry()["mean_backtracks"] == pytest.approx(total / 30)
    assert method.telemetry()["step_size"] == pytest.approx(eta)


def test_half_a_square_takes_the_largest_power_that_serves() -> None:
    """f(x - eta x) <= f - c eta |x|^2 where eta <= 2 (1 - c) = 1.8."""
    problem = bowl()
    method = SLS(problem.params, first=3.0, reset="first")
    run(problem, method, full(problem, 1))
    eta = 3.0 * 0.9**5
    assert 1.8 / 0.9 > eta / 0.9 > 1.8 > eta
    torch.testing.assert_close(vector(problem), torch.tensor([3.0, -4.0]).double() * (1 - eta))


def test_trials_are_evaluations_without_a_gradient() -> None:
    problem = bowl()
    objective = problem.objective()
    SLS(problem.params, first=3.0, reset="first").step(objective)
    assert dict(objective.counts) == {"value": 1 + 6, "grad": 1}


@pytest.mark.parametrize("condition", ["armijo", "goldstein"])
def test_interpolation_by_mini_batches(condition: str) -> None:
    problem = interpolating()
    method = SLS(problem.params, condition=condition, steps_per_epoch=5)
    losses = run(problem, method, batches(problem, 800, size=4))
    assert max(losses[-20:]) < 1e-10


def test_logistic_regression_with_more_parameters_than_examples() -> None:
    problem = separable()
    run(problem, SLS(problem.params, lr=1e6, steps_per_epoch=4), batches(problem, 200))
    assert float(problem.objective().value()) < 1e-5


def test_dropout_and_batch_normalisation_are_one_function_within_a_step() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3)
    ).double()
    problem = Problem(
        model, nn.CrossEntropyLoss(), torch.randn(40, 6).double(), torch.randint(3, (40,))
    )
    method = SLS(problem.params, steps_per_epoch=5, c=0.3)
    losses = []
    for count, batch in enumerate(batches(problem, 100), 1):
        objective = problem.objective().on(*batch)
        start = float(method.step(objective))
        change = float(objective.value()) - start
        squares = sum(float(p.grad.square().sum()) for p in problem.params)
        assert change <= -0.3 * method.telemetry()["step_size"] * squares * (1 - 1e-9)
        assert int(model[1].num_batches_tracked) == count
        losses.append(start)
    assert method.failures["line_search"] == 0
    assert sum(losses[-10:]) < 0.85 * sum(losses[:10])


class Liar(torch.autograd.Function):
    """x -> x with a gradient of the wrong sign."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return -gradient


def test_a_search_that_never_succeeds_takes_the_tiny_step_and_counts_it() -> None:
    problem = function((3.0, 4.0), lambda x: Liar.apply(x).square().sum())
    method = SLS(problem.params, reset="keep", max_trials=20)
    objective = problem.objective()
    method.step(objective)
    assert objective.counts["value"] == 1 + 20
    assert method.failures["line_search"] == 1
    assert "20 backtracks" in method.stuck
    torch.testing.assert_close(vector(problem), torch.tensor([3.0, 4.0]).double() * (1 + 2e-6))
    assert method.param_groups[0]["eta"] == 1.0


def test_at_a_minimum_the_search_ends_where_round_off_begins() -> None:
    """A loss of 1e8 hides a decrease below 1e-8: a hundred trials would tell nothing."""
    problem = bowl((1e-9, 1e-9), lowest=1e8)
    method = SLS(problem.params, reset="keep")
    objective = problem.objective()
    method.step(objective)
    assert objective.counts["value"] == 1
    assert method.failures["line_search"] == 1
    assert method.stuck


def test_a_trial_that_is_not_finite_is_shortened() -> None:
    problem = function((1.0,), lambda x: -torch.log(2 - x).sum() + 4 * x.sum() ** 2)
    method = SLS(problem.params, first=10.0, reset="first")
    losses = run(problem, method, full(problem, 20))
    assert losses[-1] < losses[0]
    assert method.failures["line_search"] == 0


def test_the_largest_step_is_the_groups_learning_rate() -> None:
    problem = classification()
    first, *rest = problem.params
    method = SLS([{"params": rest, "lr": 0.5}, {"params": [first], "lr": 1e-3}], reset="keep")
    before = [p.detach().clone() for p in problem.params]
    run(problem, method, full(problem, 1))
    assert method.telemetry()["capped"] == 1
    torch.testing.assert_close(first.detach(), before[0] - 1e-3 * first.grad, rtol=1e-12, atol=0)
    torch.testing.assert_close(rest[0].detach(), before[1] - 0.5 * rest[0].grad, rtol=1e-12, atol=0)


def test_a_trial_is_never_above_the_largest_step() -> None:
    """0.5 and four backtracks, where 3, 2.7, ... would all be cut to 0.5."""
    problem = bowl(scale=5.0)
    objective = problem.objective()
    method = SLS(problem.params, lr=0.5, first=3.0, reset="first")
    method.step(objective)
    assert objective.counts["value"] == 1 + 5
    assert method.telemetry()["step_size"] == pytest.approx(0.5 * 0.9**4)


def test_a_step_that_is_too_short_for_goldstein_grows_to_the_largest() -> None:
    """Along a line nothing is long enough: 1, 2, 4, 8, and 10, which ends it."""
    problem = function((3.0, 4.0), lambda x: 100 + x[0] - 2 * x[1])
    objective = problem.objective()
    method = SLS(problem.params, condition="goldstein", reset="keep")
    method.step(objective)
    assert objective.counts["value"] == 1 + 5
    assert method.param_groups[0]["eta"] == method.telemetry()["step_size"] == 10
    assert method.failures["line_search"] == 0
    torch.testing.assert_close(vector(problem), torch.tensor([3.0 - 10, 4.0 + 20]).double())


def test_minimise_ends_where_nothing_more_is_gained() -> None:
    def value(x: Tensor) -> Tensor:
        return 1 + (x[0] - 1) ** 2 + 5 * (x[1] + 2) ** 2

    result = minimize(
        value, torch.zeros(2).double(), method=lambda p: SLS(p, steps_per_epoch=1), tol=1e-20
    )
    assert result.status == "stalled"
    assert "line" in result.message or "lowers" in result.message
    torch.testing.assert_close(result.x, torch.tensor([1.0, -2.0]).double(), rtol=0, atol=1e-7)


def test_it_asks_for_the_length_of_an_epoch() -> None:
    problem = bowl()
    with pytest.raises(ValueError, match=r"steps_per_epoch=.*expect\(steps, steps_per_epoch\)"):
        run(problem, SLS(problem.params), full(problem, 1))
