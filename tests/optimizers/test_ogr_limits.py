"""OGR's faults, its state and its costs."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from optimizers import Objective, UnsupportedError
from optimizers.online import OGR
from tests.optimizers.cases import Identity, Problem, mlp
from tests.optimizers.ogr_cases import FORMS, Noisy, bowl, every, path


def wandering(n: int, steps: int = 12) -> np.ndarray:
    """Gradient noise that makes the path span the space, in a gradient that is not shown to the
    regression."""
    return np.random.default_rng(0).standard_normal((steps, n))


# -- faults ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["diagonal", "full"])
def test_parameters_that_stop_moving_make_the_regression_degenerate(form: str) -> None:
    """No gradient at all on one coordinate.

    Its variance sinks to the floor, is counted, and nothing breaks.
    """
    options = {"form": form, "floor": 1e-8, "beta": 0.5, "center": "first", "cut": 4.0}
    points, optimizer = path(
        lambda x: x[0] ** 2, [1.0, 0.5], 0.1 * wandering(2, 60) * [1, 0], **options
    )
    assert np.isfinite(points).all()
    assert (points[:, 1] == 0.5).all()
    telemetry = optimizer.telemetry()
    assert telemetry["degenerate_share"] == 0.5
    assert telemetry["failures/degenerate"] == 60 - 26  # 0.5^27 is the first power below 1e-8


def test_cd_dies_of_noise_but_for_the_floor() -> None:
    """Its rate is proportional to the deviation of theta, which its steps make.

    Without a signal they shrink.
    """
    noises = 0.1 * np.random.default_rng(0).standard_normal((400, 1))
    moved = []
    for floor in (1e-30, 1e-6):
        options = {
            "form": "cd",
            "beta": 0.4,
            "gamma": 0.5,
            "div": 1 / 0.6,
            "cut": 1e-9,
            "variance": 0.1,
        }
        points, optimizer = path(lambda x: (x**2).sum(), [1.0], noises, floor=floor, **options)
        moved.append(float(np.abs(np.diff(points[-50:, 0])).max()))
    assert moved[0] < 1e-9
    assert 1e-5 < moved[1] < 1e-2
    assert optimizer.telemetry()["degenerate_share"] == 1


def test_what_stopped_moving_can_start_again() -> None:
    """Without a gradient for 200 steps, then with one: the step is m / cut, plain momentum."""
    noises = np.zeros((201, 1))
    noises[200] = 1.0
    points, _ = path(
        lambda x: 0 * x.sum(),
        [1.0],
        noises,
        gamma=1.0,
        cut=4.0,
        div=1.0,
        center="first",
        floor=1e-6,
    )
    assert points[199, 0] == 1.0
    assert points[200, 0] == pytest.approx(1 - 1 / 4)


def test_moments_that_overflow_are_begun_anew() -> None:
    model = Noisy([1.0, 1.0], lambda x: 0 * x.sum())
    problem = Problem(model, Identity(), torch.ones(1, 2).double(), torch.zeros(1))
    optimizer = OGR(model.named_parameters(), form="full")
    objective = problem.objective()
    optimizer.step(objective)
    optimizer.state[model.x]["cross"].fill_(float("inf"))
    optimizer.step(objective.on(problem.inputs, problem.targets))
    assert optimizer.failures["restarted"] == 1
    assert bool(model.x.isfinite().all())
    optimizer.step(objective.on(problem.inputs, problem.targets))
    assert optimizer.failures["restarted"] == 1


@every
def test_a_gradient_that_is_not_finite_changes_neither_parameters_nor_state(name: str) -> None:
    noises = 0.1 * np.random.default_rng(1).standard_normal((9, 3))
    start = [0.7, -1.0, 2.5]
    broken = np.insert(noises, 5, np.nan, axis=0)
    after, optimizer = path(bowl, start, broken, **FORMS[name])
    clean, _ = path(bowl, start, noises, **FORMS[name])
    assert (after[4] == after[5]).all()
    assert (after[6:] == clean[5:]).all()
    assert optimizer.failures["non_finite"] == 1


def test_full_refuses_a_network() -> None:
    with pytest.raises(UnsupportedError, match="form=diagonal"):
        OGR(mlp((40, 40, 10)).named_parameters(), form="full")


# -- what it keeps and costs -----------------------------------------------------------------------


@pytest.mark.parametrize("form", ["diagonal", "cd", "full", "subspace", "mixed"])
def test_it_keeps_what_it_says_and_asks_for_a_gradient(form: str) -> None:
    torch.manual_seed(0)
    problem = Problem(
        mlp((6, 5, 3)), nn.CrossEntropyLoss(), torch.randn(8, 6), torch.randint(3, (8,))
    )
    optimizer = OGR(problem.model.named_parameters(), form=form, dimension=3)
    objective = problem.objective()
    for _ in range(3):
        optimizer.step(objective.on(problem.inputs, problem.targets))
    n, d = sum(p.numel() for p in problem.params), 3
    formulas = {
        "full": 3 * n + 2 * n**2,
        "subspace": (3 + d) * n + 2 * d**2,
        "mixed": (5 + d) * n + 2 * d**2,
    }
    sizes = sum(v.numel() for state in optimizer.state.values() for v in state.values())
    assert sizes == formulas.get(form, 5 * n)
    assert dict(objective.counts) == {"value": 3, "grad": 3}


def test_the_learning_rate_multiplies_the_step() -> None:
    start, noises = [0.7, -1.0, 2.5], np.zeros((1, 3))
    for options in FORMS.values():
        whole, part = (
            path(bowl, start, noises, **options | {"lr": lr, "weight_decay": 0.0})[0]
            for lr in (1.0, 0.25)
        )
        np.testing.assert_allclose((part - start) * 4, whole - start, rtol=1e-9, atol=1e-12)


def test_the_subspace_begins_the_same_for_equal_seeds_and_not_for_others() -> None:
    noises = np.zeros((3, 3))
    build = partial(path, bowl, [0.7, -1.0, 2.5], noises, form="subspace", dimension=2)
    assert (build(seed=3)[0] == build(seed=3)[0]).all()
    assert not np.allclose(build(seed=3)[0], build(seed=4)[0])


def test_two_groups_have_rates_of_their_own() -> None:
    torch.manual_seed(0)
    problem = Problem(
        mlp((4, 5, 3)).double(),
        nn.CrossEntropyLoss(),
        torch.randn(8, 4).double(),
        torch.arange(8) % 3,
    )
    alone = copy.deepcopy(problem)
    params = list(problem.model.parameters())
    optimizer = OGR([{"params": params[:2]}, {"params": params[2:], "lr": 0.0, "cut": 1.0}])
    optimizer.step(problem.objective())
    OGR(alone.model.parameters()).step(alone.objective())
    for i, (one, other) in enumerate(zip(params, alone.model.parameters(), strict=True)):
        assert torch.equal(one, other) is (i < 2)


def test_what_is_frozen_does_not_decay() -> None:
    torch.manual_seed(0)
    model = mlp((3, 4, 2)).double()
    model[0].requires_grad_(False)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    method = OGR(model.named_parameters(), weight_decay=0.1)
    objective = Objective(
        model, nn.MSELoss(), torch.randn(6, 3).double(), torch.randn(6, 2).double()
    )
    method.step(objective)
    same = [torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert same == [True, True, False, False]
