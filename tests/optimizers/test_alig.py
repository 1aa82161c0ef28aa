"""ALI-G: against pytorch_optimizer's, a plain loop, and what its loss contains."""

from __future__ import annotations

import copy

import pytest
import torch

from optimizers import UnsupportedError
from optimizers.step_size import ALIG
from tests.optimizers.step_size_cases import (
    batches,
    bowl,
    classification,
    evaluated,
    full,
    interpolating,
    put,
    run,
    slope,
    vector,
)


@pytest.mark.parametrize(("momentum", "adjusted"), [(0.0, False), (0.9, False), (0.9, True)])
@pytest.mark.parametrize(("cap", "exact"), [(1e-3, True), (5.0, False)])
def test_the_trajectory_is_pytorch_optimizers(
    momentum: float, adjusted: bool, cap: float, exact: bool
) -> None:
    """Where the cap holds, to the last digits.

    Else to the float32 in which that one sums the squares of gradients.
    """
    peers = pytest.importorskip("pytorch_optimizer")
    problem = classification()
    twin = copy.deepcopy(problem)
    ours = ALIG(problem.params, lr=cap, momentum=momentum, adjusted=adjusted, eps=1e-6)
    theirs = peers.AliG(twin.params, max_lr=cap, momentum=momentum, adjusted_momentum=adjusted)
    for batch in batches(problem, 60 if exact else 15):
        ours.step(problem.objective().on(*batch))
        theirs.step(lambda batch=batch: float(evaluated(twin, batch)))
    assert (ours.telemetry()["capped"] == 1) is exact
    tolerance = {"rtol": 1e-13, "atol": 1e-14} if exact else {"rtol": 1e-4, "atol": 1e-6}
    torch.testing.assert_close(vector(problem), vector(twin), **tolerance)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("adjusted", [False, True])
def test_the_steps_are_those_of_the_algorithm(momentum: float, adjusted: bool) -> None:
    problem = classification()
    twin = copy.deepcopy(problem)
    method = ALIG(problem.params, lr=0.5, momentum=momentum, adjusted=adjusted, f_star=0.02)
    velocity, l2 = torch.zeros_like(vector(twin)), 0.03
    for batch in batches(problem, 40):
        method.step(problem.objective(l2).on(*batch))

        loss = evaluated(twin, batch, l2)
        gradient = slope(twin)
        eta = min(float((loss - 0.02) / (gradient @ gradient + 1e-5)), 0.5)
        velocity = momentum * velocity - (gradient if adjusted else eta * gradient)
        lead = momentum * (eta * velocity if adjusted else velocity)
        put(twin, vector(twin) - eta * gradient + lead)
        torch.testing.assert_close(vector(problem), vector(twin), rtol=1e-12, atol=1e-13)


def test_the_loss_contains_the_regulariser() -> None:
    """|x|^2 / 4 with l2 = 1/2 is |x|^2 / 2: half of the way at f / |g|^2 = 1/2."""
    problem = bowl(scale=0.5)
    start = vector(problem)
    run(problem, ALIG(problem.params, lr=10.0, momentum=0.0, eps=0.0), full(problem, 1), l2=0.5)
    torch.testing.assert_close(vector(problem), start / 2)


def test_interpolation() -> None:
    """Without a cap that matters; with one, also with momentum, of which the theory knows
    nothing."""
    for options in ({"lr": 10.0, "momentum": 0.0, "eps": 0.0}, {"lr": 0.01, "momentum": 0.9}):
        problem = interpolating()
        losses = run(problem, ALIG(problem.params, **options), batches(problem, 1500, size=4))
        assert max(losses[-20:]) < 1e-8, options


def test_the_ball_holds_all_parameters_together() -> None:
    problem = classification()
    run(problem, ALIG(problem.params, lr=1.0, max_norm=0.7), full(problem, 3))
    assert float(vector(problem).norm()) == pytest.approx(0.7)
    loose = classification()
    run(loose, ALIG(loose.params, lr=1.0, max_norm=1e6), full(loose, 3))
    free = classification()
    run(free, ALIG(free.params, lr=1.0), full(free, 3))
    assert torch.equal(vector(loose), vector(free))


def test_a_negative_loss_is_refused() -> None:
    problem = bowl(lowest=-50.0)
    with pytest.raises(UnsupportedError, match="f_star="):
        run(problem, ALIG(problem.params), full(problem, 1))


def test_state_is_a_vector_with_momentum_only() -> None:
    problem = classification()
    method, plain = ALIG(problem.params), ALIG(problem.params, momentum=0.0)
    for each in (method, plain):
        run(problem, each, full(problem, 2))
    sizes = [t.numel() for state in method.state.values() for t in state.values()]
    assert sum(sizes) == len(vector(problem))
    assert not plain.state
