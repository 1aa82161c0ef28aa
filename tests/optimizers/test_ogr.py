"""OGR against a port of its equations in numpy, exact Hessians of quadratics, and the author's
figures on Beale."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from optimizers.online import OGR
from tests.optimizers.cases import Identity, Problem
from tests.optimizers.ogr_cases import AUTHORS, FORMS, Noisy, bowl, every, path

STEPS = 40


def bowl_gradient(x: np.ndarray) -> np.ndarray:
    return np.array([8 * x[0] + x[1], 0.2 * x[1] + x[0], np.sin(x[2]) + x[2] ** 3])


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
    original = optimizer.estimate
    assert original is not None
    assert float(original.variances.min()) > 1e-14
    estimate = original.matrix
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
    saved = optimizer.state[optimizer.parameters()[0]]
    if form == "diagonal":
        assert torch.allclose(saved["covariance"] / saved["variance"], curvatures, rtol=1e-9)
        assert optimizer.telemetry()["negative_share"] == pytest.approx(1 / 3)
        assert optimizer.telemetry()["cut_share"] == pytest.approx(2 / 3)
    else:
        assert torch.allclose(
            (saved["gradient_variance"] / saved["variance"]).sqrt(), curvatures.abs(), rtol=1e-9
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
    value = float(beale(model.x.detach()).log().mean().exp())
    assert 0.7 * published < value < 1.3 * published
