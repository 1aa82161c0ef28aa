"""SPS: closed forms, interpolation, and what it says of losses it cannot serve."""

from __future__ import annotations

import copy

import pytest
import torch

from optimizers import UnsupportedError, minimize
from optimizers.step_size import SPS
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


@pytest.mark.parametrize("rule", ["max", "smooth_iter"])
def test_half_a_square_is_solved_in_one_step(rule: str) -> None:
    problem = bowl()
    run(problem, SPS(problem.params, rule=rule, c=0.5, steps_per_epoch=1), full(problem, 1))
    assert float(vector(problem).abs().max()) < 1e-15


def test_with_a_lower_bound_of_its_own() -> None:
    problem = bowl(lowest=-7.0)
    run(problem, SPS(problem.params, rule="max", f_star=-7.0), full(problem, 1))
    assert float(vector(problem).abs().max()) < 1e-15


@pytest.mark.parametrize("rule", ["max", "smooth_iter"])
@pytest.mark.parametrize(("l2", "eps"), [(0.0, 0.0), (0.01, 0.0), (0.01, 0.02)])
def test_the_steps_are_those_of_the_equations(rule: str, l2: float, eps: float) -> None:
    """A plain loop in float64; the loss contains the regulariser."""
    problem = classification()
    twin = copy.deepcopy(problem)
    data, cap, c, f_star = batches(problem, 40), 2.0, 0.7, 0.05
    options = {"gamma": 3.0, "first": 0.4, "steps_per_epoch": 5, "eps": eps}
    method = SPS(problem.params, lr=cap, rule=rule, c=c, f_star=f_star, **options)  # type: ignore[arg-type]
    eta, capped = 0.4, 0
    for batch in data:
        method.step(problem.objective(l2).on(*batch))

        loss = evaluated(twin, batch, l2)
        gradient = slope(twin)
        polyak = float((loss - f_star) / (c * gradient @ gradient + eps))
        eta = polyak if rule == "max" else min(3 ** (1 / 5) * eta, polyak)
        capped += eta > cap
        put(twin, vector(twin) - min(eta, cap) * gradient)
        torch.testing.assert_close(vector(problem), vector(twin), rtol=1e-12, atol=1e-13)
    assert method.telemetry()["capped"] == capped / 40
    assert method.telemetry()["step_size"] == pytest.approx(min(eta, cap), rel=1e-10)


def test_uncapped_steps_do_not_depend_on_the_unit_of_the_loss() -> None:
    ends = []
    for scale in (1.0, 1000.0):
        problem = function((1.0, 2.0), lambda x, s=scale: s * (x[0] ** 2 + 3 * x[1] ** 4))  # type: ignore[misc]
        run(problem, SPS(problem.params, lr=1e6, rule="max"), full(problem, 10))
        ends.append(vector(problem))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-12, atol=0)


def test_interpolation_is_reached_at_a_linear_rate_with_mini_batches() -> None:
    problem = interpolating()
    losses = run(problem, SPS(problem.params, rule="max", lr=1e6), batches(problem, 600, size=4))
    assert losses[0] > 0.5
    assert max(losses[-20:]) < 1e-12


def test_logistic_regression_with_more_parameters_than_examples() -> None:
    """Polyak's steps grow as the loss decays, a fixed step's decay is slow: 1/t."""
    problem, fixed = separable(), separable()
    losses = run(problem, SPS(problem.params, lr=1e12, rule="max"), batches(problem, 150))
    sgd = torch.optim.SGD(fixed.params, lr=1.0)
    for batch in batches(fixed, 150):
        sgd.step(fixed.objective().on(*batch))  # type: ignore[arg-type]
    assert float(problem.objective().value()) < 1e-3 * float(fixed.objective().value())
    assert losses[-1] < 1e-8


def test_a_negative_loss_is_refused_with_what_to_pass() -> None:
    problem = bowl(lowest=-50.0)
    with pytest.raises(UnsupportedError, match=r"f_star=.*optimizer=momo with estimate=true"):
        run(problem, SPS(problem.params, rule="max"), full(problem, 1))


def test_below_a_given_bound_it_stays_and_says_so() -> None:
    problem = bowl((1.0, 1.0))
    method = SPS(problem.params, rule="max", f_star=2.0)
    run(problem, method, full(problem, 2))
    assert vector(problem).tolist() == [1.0, 1.0]
    assert method.failures["below_f_star"] == 2
    assert "below f_star = 2" in method.stuck
    assert "smaller f_star" in method.stuck


def test_a_step_of_zero_is_not_remembered() -> None:
    """From a size of zero no growth by a factor comes back."""
    problem = bowl()
    method = SPS(problem.params, f_star=1.0, steps_per_epoch=1)
    with torch.no_grad():
        problem.params[0].copy_(torch.tensor([0.1, 0.1]))
    run(problem, method, full(problem, 1))
    with torch.no_grad():
        problem.params[0].copy_(torch.tensor([3.0, 4.0]))
    run(problem, method, full(problem, 1))
    assert method.telemetry()["step_size"] > 0.1


def test_it_asks_for_the_length_of_an_epoch() -> None:
    problem = bowl()
    method = SPS(problem.params)
    with pytest.raises(ValueError, match=r"steps_per_epoch=.*expect\(steps, steps_per_epoch\)"):
        run(problem, method, full(problem, 1))
    method.expect(100, 1)
    assert run(problem, method, full(problem, 1)) == [12.5]


def test_a_group_with_a_smaller_cap_moves_less() -> None:
    problem = classification()
    first, *rest = problem.params
    method = SPS([{"params": rest}, {"params": [first], "lr": 1e-3}], rule="max")
    before = [p.detach().clone() for p in problem.params]
    run(problem, method, full(problem, 1))
    assert method.telemetry()["step_size"] > 1e-2
    torch.testing.assert_close(first.detach(), before[0] - 1e-3 * first.grad, rtol=1e-12, atol=0)


def test_minimise_says_that_the_bound_is_reached() -> None:
    result = minimize(
        lambda x: 1 + x @ x,
        torch.tensor([1.0, 1.0]).double(),
        method=lambda p: SPS(p, rule="max"),
        tol=0,
    )
    assert result.status in ("stalled", "max_steps")
    exact = minimize(
        lambda x: 1 + x @ x, torch.ones(2).double(), method=lambda p: SPS(p, rule="max", f_star=1.0)
    )
    assert exact.success
    assert exact.steps <= 2
