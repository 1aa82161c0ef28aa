"""The parabola along the momentum: a port in numpy, OGR in one dimension, vertices, saddles,
noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from optimizers.online import OGR, MomentumParabola
from tests.optimizers.cases import Identity, Problem

STEPS = 40
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "previous": {"direction": "previous", "rate": 0.05, "growth": 20.0},
    "fast": {"beta": 0.6, "gamma": 0.8, "rate": 0.02, "growth": 50.0, "lr": 0.5},
    "floor": {"floor": 0.01, "beta": 0.3, "weight_decay": 0.02},
}


class Noisy(nn.Module):
    """f(x) + noise.x for every row of inputs, so that the gradient is f's with the noise added."""

    def __init__(self, start: Any, function: Any) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.as_tensor(start, dtype=torch.float64).clone())
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(self.x) + inputs @ self.x


def path(
    kind: Any, function: Any, start: Any, noises: np.ndarray, **options: Any
) -> tuple[np.ndarray, Any]:
    model = Noisy(start, function)
    problem = Problem(model, Identity(), torch.zeros(1, len(start)).double(), torch.zeros(1))
    optimizer = kind(model.named_parameters(), **options)
    objective = problem.objective()
    points = []
    for noise in torch.as_tensor(noises):
        optimizer.step(objective.on(noise[None], problem.targets))
        points.append(model.x.detach().numpy().copy())
    return np.array(points), optimizer


def bowl(x: Tensor) -> Tensor:
    return 4 * x[0] ** 2 + 0.1 * x[1] ** 2 - torch.cos(x[2]) + x[0] * x[1] + 0.25 * x[2] ** 4


def bowl_gradient(x: np.ndarray) -> np.ndarray:
    return np.array([8 * x[0] + x[1], 0.2 * x[1] + x[0], np.sin(x[2]) + x[2] ** 3])


def ported(start: np.ndarray, noises: np.ndarray, **options: Any) -> np.ndarray:
    """The equations as they stand, with E[gt] - E[g] E[t] written by the deviations from the new
    means."""
    o = {
        "lr": 1.0,
        "rate": 0.1,
        "beta": 0.1,
        "gamma": 0.1,
        "growth": 10.0,
        "direction": "current",
        "floor": 1e-16,
        "weight_decay": 0.0,
    } | options
    theta, points, b = start.copy(), [], o["beta"]
    m = mt = mg = None
    tt = gt = 0.0
    for noise in noises:
        g = bowl_gradient(theta) + noise
        theta = theta * (1 - o["lr"] * o["weight_decay"])
        if m is None:
            m, mt, mg = g.copy(), theta.copy(), g.copy()
        before = m
        m = m + o["gamma"] * (g - m)
        mt, mg = mt + b * (theta - mt), mg + b * (g - mg)
        base = before if o["direction"] == "previous" else m
        v = base / np.linalg.norm(base)
        t, d = (theta - mt) @ v, (g - mg) @ v
        tt, gt = (1 - b) * tt + b * t * t, (1 - b) * gt + b * d * t
        curvature = gt / max(tt, o["floor"])
        slope, bound = mg @ v + curvature * t, o["growth"] * o["rate"] * np.linalg.norm(base)
        length = (
            np.sign(slope) * bound
            if abs(slope) >= bound * abs(curvature)
            else slope / abs(curvature)
        )
        theta = theta - o["lr"] * (o["rate"] * (g - (g @ v) * v) + length * v)
        points.append(theta)
    return np.array(points)


@pytest.mark.parametrize("name", OPTIONS)
def test_it_walks_as_the_equations_in_numpy_do(name: str) -> None:
    start, noises = (
        np.array([0.7, -1.0, 2.5]),
        0.1 * np.random.default_rng(1).standard_normal((STEPS, 3)),
    )
    ours, _ = path(MomentumParabola, bowl, start, noises, **OPTIONS[name])
    theirs = ported(start, noises, **OPTIONS[name])
    assert np.isfinite(theirs).all()
    assert np.abs(ours - theirs).max() < 1e-10 * np.abs(theirs).max()


@pytest.mark.parametrize("cut", [2.0, 4.0, 12.0])
def test_ogr_with_one_direction_is_the_parabola_where_the_direction_does_not_turn(
    cut: float,
) -> None:
    """1.5 |x|^2 keeps gradient, momentum and path on one line.

    Its curvature is 3, below, at, or above the cut.
    """
    start, steps = [2.0, -1.0, 0.5], np.zeros((12, 3))
    shared = {"beta": 0.3, "gamma": 1.0, "floor": 1e-30}
    parabola, _ = path(
        MomentumParabola, lambda x: 1.5 * x @ x, start, steps, rate=0.05, growth=20 / cut, **shared
    )
    options = {
        "form": "subspace",
        "dimension": 1,
        "rotation": 1e9,
        "center": "first",
        "variance": 0.0,
        "div": 1.0,
    }
    ogr, optimizer = path(OGR, lambda x: 1.5 * x @ x, start, steps, cut=cut, **options, **shared)
    np.testing.assert_allclose(parabola, ogr, rtol=0, atol=1e-9)
    expected = np.array(start) * (1 - 3 / cut) * (0 if cut < 3 else (1 - 3 / cut) ** 10)
    np.testing.assert_allclose(parabola[10], expected, atol=1e-9)
    assert optimizer.telemetry()["cut_share"] == (cut > 3)


def test_it_steps_to_the_vertex_of_a_parabola() -> None:
    """One dimension, no noise.

    The second step knows the curvature, and ends at the minimum, 3, in one go.
    """
    points, optimizer = path(
        MomentumParabola, lambda x: (x - 3) @ (x - 3), [10.0], np.zeros((2, 1)), gamma=1.0
    )
    assert optimizer.telemetry()["curvature"] == pytest.approx(2, rel=1e-12)
    assert points[0, 0] == pytest.approx(10 - 0.1 * 10 * 14)  # the bound
    assert points[1, 0] == pytest.approx(3, abs=1e-12)


def test_it_leaves_the_vertex_of_a_parabola_that_opens_downwards() -> None:
    """Newton's method would step to the maximum, 3."""
    options = {"gamma": 1.0, "growth": 2.0}
    points, optimizer = path(
        MomentumParabola, lambda x: -(x - 3) @ (x - 3), [3.1], np.zeros((4, 1)), **options
    )
    assert (np.diff(points[:, 0]) > 0).all()
    assert optimizer.telemetry()["curvature"] == pytest.approx(-2, rel=1e-12)
    # all but the first, which knows nothing yet
    assert optimizer.telemetry()["repelled_share"] == 0.75


def test_across_the_momentum_it_descends() -> None:
    """The first momentum is the gradient, so that the first step is along it.

    A turned gradient has a part across.
    """
    noises = np.array([[0.0, 0.0], [0.0, 1.0]])
    model = path(
        MomentumParabola, lambda x: x[0], [0.0, 0.0], noises, gamma=1e-12, rate=0.5, growth=1.0
    )[0]
    np.testing.assert_allclose(model[0], [-0.5, 0.0], atol=1e-9)
    np.testing.assert_allclose(model[1], [-1.0, -0.5], atol=1e-9)


def test_under_noise_the_sign_of_the_curvature_is_that_of_the_directions_choice() -> None:
    """A convex bowl in fifty dimensions, curvature 1 everywhere, gradients mostly noise."""
    noises = np.random.default_rng(0).standard_normal((300, 50))
    shares = {}
    for direction in ("current", "previous"):
        options = {"direction": direction, "rate": 0.02, "growth": 5.0}
        _, optimizer = path(MomentumParabola, lambda x: x @ x / 2, np.zeros(50), noises, **options)
        shares[direction] = optimizer.telemetry()["repelled_share"]
    assert shares["current"] > 0.9
    assert shares["previous"] < 0.1


def test_the_length_is_bounded() -> None:
    """By rate |g| across and growth rate |m| along the momentum."""
    start, noises = np.array([0.7, -1.0, 2.5]), np.random.default_rng(2).standard_normal((60, 3))
    points, optimizer = path(
        MomentumParabola, bowl, start, noises, rate=0.01, growth=3.0, gamma=0.2
    )
    momentum, before = None, start
    for point, noise in zip(points, noises, strict=True):
        gradient = bowl_gradient(before) + noise
        momentum = gradient if momentum is None else momentum + 0.2 * (gradient - momentum)
        along = momentum / np.linalg.norm(momentum)
        step, bound = before - point, 0.01 * 3.0 * np.linalg.norm(momentum)
        assert abs(step @ along) < bound * (1 + 1e-9)
        across = gradient - (gradient @ along) * along
        np.testing.assert_allclose(step - (step @ along) * along, 0.01 * across, atol=1e-14)
        before = point
    assert 0 < optimizer.telemetry()["clipped_share"] < 1


def test_standing_still_is_degenerate_and_harmless() -> None:
    points, optimizer = path(MomentumParabola, lambda x: 0 * x.sum(), [1.0, 2.0], np.zeros((30, 2)))
    assert (points == [1.0, 2.0]).all()
    assert optimizer.failures["degenerate"] == 30
    assert optimizer.telemetry()["failures/degenerate"] == 30


@pytest.mark.parametrize("name", OPTIONS)
def test_a_gradient_that_is_not_finite_changes_neither_parameters_nor_state(name: str) -> None:
    noises = 0.1 * np.random.default_rng(1).standard_normal((9, 3))
    start = [0.7, -1.0, 2.5]
    broken, optimizer = path(
        MomentumParabola, bowl, start, np.insert(noises, 5, np.nan, axis=0), **OPTIONS[name]
    )
    clean, _ = path(MomentumParabola, bowl, start, noises, **OPTIONS[name])
    assert (broken[4] == broken[5]).all()
    assert (broken[6:] == clean[5:]).all()
    assert optimizer.failures["non_finite"] == 1


def test_it_keeps_three_vectors_and_two_numbers() -> None:
    _, optimizer = path(MomentumParabola, bowl, [0.7, -1.0, 2.5], np.zeros((2, 3)))
    assert sum(v.numel() for state in optimizer.state.values() for v in state.values()) == 3 * 3 + 2
