"""OGR against a port of its equations in numpy, exact Hessians of quadratics, and the author's
figures on Beale."""

from __future__ import annotations

import copy
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from optimizers import Objective, UnsupportedError
from optimizers.online import OGR
from tests.optimizers.cases import Identity, Problem, mlp

STEPS = 40
AUTHORS: dict[str, Any] = {
    "lr": 1.0,
    "beta": 0.6,
    "gamma": 0.7,
    "div": 1.4,
    "cut": 5.0,
    "rotation": 0.1,
    "outside": 1e-3,
    "weight": 0.4,
    "variance": 1.0,
    "center": "origin",
    "floor": 1e-16,
    "weight_decay": 0.0,
}
FORMS: dict[str, dict[str, Any]] = {
    "diagonal": {"form": "diagonal"},
    "diagonal_slow": {
        "form": "diagonal",
        "beta": 0.1,
        "gamma": 1.0,
        "div": 2.0,
        "cut": 1.0,
        "lr": 0.5,
    },
    "diagonal_first": {
        "form": "diagonal",
        "center": "first",
        "variance": 0.1,
        "weight_decay": 0.01,
    },
    "cd": {"form": "cd", "beta": 0.4, "gamma": 0.5, "div": 1 / 0.6, "cut": 1e-9, "variance": 0.1},
    "cd_cut": {"form": "cd", "cut": 3.0, "center": "first", "floor": 1e-3},
    "full": {"form": "full", "beta": 0.5, "gamma": 0.9, "div": 1.5, "cut": 10.0},
    "full_floor": {"form": "full", "beta": 0.3, "gamma": 0.5, "variance": 0.0, "floor": 0.01},
    "subspace": {"form": "subspace", "dimension": 1, "cut": 15.0, "outside": 0.02},
    "subspace_two": {
        "form": "subspace",
        "dimension": 2,
        "rotation": 0.2,
        "gamma": 0.6,
        "cut": 10.0,
    },
    "subspace_all": {"form": "subspace", "dimension": 9, "center": "first", "cut": 8.0},
    "mixed": {"form": "mixed", "dimension": 2, "weight": 0.4, "div": 1.5, "cut": 6.0},
    "mixed_one": {"form": "mixed", "dimension": 1, "weight": 0.3, "rotation": 0.05, "lr": 0.7},
}
every = pytest.mark.parametrize("name", FORMS)


class Noisy(nn.Module):
    """f(x) + noise.x for every row of inputs, so that the gradient is f's with the noise added."""

    def __init__(self, start: Any, function: Any) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.as_tensor(start, dtype=torch.float64).clone())
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(self.x) + inputs @ self.x


def bowl(x: Tensor) -> Tensor:
    """Sharp, flat and negative curvature, coupled."""
    return 4 * x[0] ** 2 + 0.1 * x[1] ** 2 - torch.cos(x[2]) + x[0] * x[1] + 0.25 * x[2] ** 4


def bowl_gradient(x: np.ndarray) -> np.ndarray:
    return np.array([8 * x[0] + x[1], 0.2 * x[1] + x[0], np.sin(x[2]) + x[2] ** 3])


def path(function: Any, start: Any, noises: np.ndarray, **options: Any) -> tuple[np.ndarray, OGR]:
    """The points after each step, under given gradient noise."""
    model = Noisy(start, function)
    problem = Problem(model, Identity(), torch.zeros(1, len(start)).double(), torch.zeros(1))
    optimizer = OGR(model.named_parameters(), **AUTHORS | options)
    objective = problem.objective()
    points = []
    for noise in torch.as_tensor(noises):
        optimizer.step(objective.on(noise[None], problem.targets))
        points.append(model.x.detach().numpy().copy())
    return np.array(points), optimizer


class Port:
    """The equations as they stand, with the floor, in numpy."""

    def __init__(self, theta: np.ndarray, basis: np.ndarray, options: dict[str, Any]) -> None:
        self.o = AUTHORS | options
        self.theta, self.basis = theta.copy(), basis
        self.fresh = True

    def begin(self, gradient: np.ndarray) -> None:
        n, d, v = len(self.theta), len(self.basis), self.o["variance"]
        first = 1.0 if self.o["center"] == "first" else 0.0
        self.m, self.mg, self.mt = first * gradient, first * gradient, first * self.theta
        self.tt, self.gt, self.gg = np.full(n, v), np.zeros(n), np.full(n, v)
        size = n if self.o["form"] == "full" else d
        self.points, self.cross = v * np.eye(size), np.zeros((size, size))
        self.fresh = False

    def newton(self, dt: np.ndarray, dg: np.ndarray, m: np.ndarray) -> np.ndarray:
        beta = self.o["beta"]
        self.points = self.points + beta * (np.outer(dt, dt) - self.points)
        self.cross = self.cross + beta * (np.outer(dg, dt) - self.cross)
        e, v = np.linalg.eigh(self.points)
        e = np.maximum(e, self.o["floor"])
        self.h = v @ ((v.T @ (self.cross + self.cross.T) @ v) / (e[:, None] + e[None, :])) @ v.T
        values, vectors = np.linalg.eigh(self.h)
        return vectors @ ((vectors.T @ m) / np.maximum(self.o["div"] * abs(values), self.o["cut"]))

    def entrywise(self, dt: np.ndarray, dg: np.ndarray) -> np.ndarray:
        beta, floor = self.o["beta"], self.o["floor"]
        self.tt = np.maximum(self.tt + beta * (dt * dt - self.tt), floor)
        self.gt = self.gt + beta * (dg * dt - self.gt)
        self.gg = np.maximum(self.gg + beta * (dg * dg - self.gg), floor)
        h = np.sqrt(self.gg / self.tt) if self.o["form"] == "cd" else abs(self.gt / self.tt)
        return self.m / np.maximum(self.o["div"] * h, self.o["cut"])

    def turn(self, gradient: np.ndarray) -> None:
        rows: list[np.ndarray] = []
        for row in self.basis + self.o["rotation"] * gradient:
            for _ in range(2):
                for before in rows:
                    row = row - (row @ before) * before
            rows.append(row / np.linalg.norm(row))
        self.basis = np.array(rows)

    def step(self, gradient: np.ndarray) -> np.ndarray:
        o = self.o
        self.theta = self.theta * (1 - o["lr"] * o["weight_decay"])
        if self.fresh:
            self.begin(gradient)
        self.m = self.m + o["gamma"] * (gradient - self.m)
        self.mt = self.mt + o["beta"] * (self.theta - self.mt)
        self.mg = self.mg + o["beta"] * (gradient - self.mg)
        dt, dg = self.theta - self.mt, gradient - self.mg
        if o["form"] in ("diagonal", "cd"):
            step = self.entrywise(dt, dg)
        elif o["form"] == "full":
            step = self.newton(dt, dg, self.m)
        else:
            self.turn(gradient)
            v = self.basis
            inner = self.newton(v @ dt, v @ dg, v @ self.m) @ v
            if o["form"] == "subspace":
                step = o["outside"] * (self.m - (v @ self.m) @ v) + inner
            else:
                step = self.entrywise(dt, dg)
                step = step - o["weight"] * ((v @ step) @ v - inner)
        self.theta = self.theta - o["lr"] * step
        return self.theta


def first_basis(size: int, n: int) -> np.ndarray:
    return (
        1e-3
        * torch.rand(
            min(size, n), n, generator=torch.Generator().manual_seed(0), dtype=torch.float64
        ).numpy()
    )


@every
def test_it_walks_as_the_equations_in_numpy_do(name: str) -> None:
    start, noises = (
        np.array([0.7, -1.0, 2.5]),
        0.1 * np.random.default_rng(1).standard_normal((STEPS, 3)),
    )
    options = FORMS[name]
    ours, _ = path(bowl, start, noises, **options)
    port = Port(start, first_basis(options.get("dimension", 4), 3), options)
    theirs = np.array([port.step(bowl_gradient(port.theta) + noise) for noise in noises])
    assert np.isfinite(theirs).all()
    assert np.abs(ours - theirs).max() < 1e-10 * np.abs(theirs).max()
    assert np.abs(theirs[-1] - start).max() > 0.1


# -- quadratics ------------------------------------------------------------------------------------


def quadratic(hessian: Tensor) -> Any:
    return lambda x: x @ hessian @ x / 2


def random_symmetric(n: int) -> Tensor:
    rows = torch.randn(n, n, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return (rows + rows.T) / 2


def wandering(n: int, steps: int = 12) -> np.ndarray:
    """Gradient noise that makes the path span the space, in a gradient that is not shown to the
    regression."""
    return np.random.default_rng(0).standard_normal((steps, n))


@pytest.mark.parametrize("form", ["full", "subspace"])
def test_without_noise_the_hessian_of_a_quadratic_is_found_once_the_path_spans_the_space(
    form: str,
) -> None:
    """Five dimensions, indefinite.

    The subspace is all of the space, so that its basis is any orthonormal one.
    """
    hessian = random_symmetric(5)
    options = {
        "form": form,
        "dimension": 5,
        "center": "first",
        "variance": 0.0,
        "beta": 0.2,
        "rotation": 0.0,
    }
    start = [1.0, -2.0, 0.5, 1.5, -1.0]
    _, optimizer = path(quadratic(hessian), start, np.zeros((9, 5)), cut=2.0, gamma=0.4, **options)
    found = optimizer.estimate
    assert found is not None
    assert float(found.variances.min()) > 1e-14
    estimate = found.matrix
    if form == "subspace":
        basis = optimizer.state[optimizer.parameters()[0]]["basis"]
        estimate = basis.T @ estimate @ basis
    assert float((estimate - hessian).abs().max()) < 1e-6
    assert optimizer.telemetry()["negative_share"] == float(
        (torch.linalg.eigvalsh(hessian) < 0).double().mean()
    )


def test_the_start_at_the_origin_is_forgotten() -> None:
    """The author's means begin at zero, the covariance at the identity: a made-up point that
    fades."""
    hessian = random_symmetric(3)
    errors = []
    for steps in (3, 30):
        noises = 0.5 * np.random.default_rng(0).standard_normal((steps, 3))
        hidden = Noisy([2.0, 1.0, -1.0], quadratic(hessian))
        problem = Problem(hidden, Identity(), torch.zeros(1, 3).double(), torch.zeros(1))
        optimizer = OGR(hidden.named_parameters(), form="full", beta=0.5, cut=1e9)
        objective = problem.objective()
        for noise in torch.as_tensor(noises):  # the path is random, the gradients are exact
            optimizer.step(objective.on(problem.inputs, problem.targets))
            with torch.no_grad():
                hidden.x += noise
        assert optimizer.estimate is not None
        errors.append(float((optimizer.estimate.matrix - hessian).abs().max()))
    assert errors[0] > 0.05
    assert errors[1] < 1e-6


@pytest.mark.parametrize("form", ["diagonal", "cd"])
def test_the_curvatures_of_a_diagonal_quadratic(form: str) -> None:
    """`cd` has their absolute values: the correlation is 1 indeed."""
    curvatures = torch.tensor([4.0, -0.5, 30.0], dtype=torch.float64)
    start = [1.0, 2.0, -1.0]
    options = {"form": form, "center": "first", "variance": 0.0, "cut": 10.0}
    _, optimizer = path(quadratic(curvatures.diag()), start, np.zeros((4, 3)), **options)
    kept = optimizer.state[optimizer.parameters()[0]]
    if form == "diagonal":
        assert torch.allclose(kept["covariance"] / kept["variance"], curvatures, rtol=1e-9)
        assert optimizer.telemetry()["negative_share"] == pytest.approx(1 / 3)
        assert optimizer.telemetry()["cut_share"] == pytest.approx(2 / 3)
    else:
        assert torch.allclose(
            (kept["gradient_variance"] / kept["variance"]).sqrt(), curvatures.abs(), rtol=1e-9
        )


def test_a_saddle_repels() -> None:
    """Newton's method would end on it; every form leaves it along the negative curvature."""
    saddle = torch.tensor([[1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
    for form in ("diagonal", "full", "subspace"):
        points, _ = path(
            quadratic(saddle), [1.0, 1e-3], np.zeros((40, 2)), form=form, cut=2.0, dimension=2
        )
        assert abs(points[-1, 0]) < 0.01
        assert abs(points[-1, 1]) > 1


# -- the author's protocol -------------------------------------------------------------------------


def beale(x: Tensor) -> Tensor:
    """Three-dimensional: b(x, y) + b(z, y) for rows (..., 3)."""

    def b(first: Tensor, second: Tensor) -> Tensor:
        return sum((c - first * (1 - second**i)) ** 2 for i, c in ((1, 1.5), (2, 2.25), (3, 2.625)))  # type: ignore[return-value]

    return b(x[..., 0], x[..., 1]) + b(x[..., 2], x[..., 1])


AUTHOR = {
    "diagonal": ({"beta": 0.6, "gamma": 0.7, "div": 1.4, "cut": 5.0}, 0.0070),
    "cd": ({"beta": 0.4, "gamma": 0.5, "div": 1 / 0.6, "cut": 1e-9, "variance": 0.1}, 0.0164),
}


@pytest.mark.parametrize("form", AUTHOR)
def test_on_noisy_beale_it_ends_where_the_authors_does(form: str) -> None:
    """343 starts, 50 steps, gradient noise of deviation 0.1.

    The geometric mean, over all starts at once.
    """
    options, published = AUTHOR[form]
    starts = torch.tensor(list(product(range(-3, 4), repeat=3)), dtype=torch.float64)
    model = Noisy(starts, lambda x: beale(x).sum())
    model.forward = lambda inputs: (model.function(model.x) + (inputs * model.x).sum())[None]  # type: ignore[method-assign]
    problem = Problem(model, Identity(), torch.zeros(343, 3), torch.zeros(1))
    optimizer = OGR(model.named_parameters(), form=form, **options)
    objective = problem.objective()
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        noise = 0.1 * torch.randn(343, 3, generator=generator, dtype=torch.float64)
        optimizer.step(objective.on(noise, problem.targets))
    found = float(beale(model.x.detach()).log().mean().exp())
    assert 0.7 * published < found < 1.3 * published


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
    told = optimizer.telemetry()
    assert told["degenerate_share"] == 0.5
    assert told["failures/degenerate"] == 60 - 26  # 0.5^27 is the first power below 1e-8


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
    kept = sum(v.numel() for state in optimizer.state.values() for v in state.values())
    assert kept == formulas.get(form, 5 * n)
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
