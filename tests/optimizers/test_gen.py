"""GeN: exact line search on quadratics, gen-optim's formula, any inner optimizer, parabolas that
are none."""

from __future__ import annotations

import copy
from functools import partial
from math import inf, nan

import pytest
import torch
from torch import nn

from optimizers import UnsupportedError
from optimizers.matrix import Muon
from optimizers.natural_gradient import KFAC
from optimizers.newton import NewtonCG
from optimizers.packaged import PytorchOptimizer
from optimizers.step_size import GeN
from optimizers.step_size.gen import vertex
from tests.optimizers.cases import Problem
from tests.optimizers.step_size_cases import (
    batches,
    bowl,
    classification,
    evaluated,
    full,
    function,
    put,
    run,
    vector,
)

SCALES = torch.tensor([1.0, 4.0, 9.0]).double()
SGD = partial(torch.optim.SGD, lr=0.01)


def quadratic() -> Problem:
    return function((1.0, -2.0, 0.5), lambda x: (SCALES * x * x).sum() / 2 - x.sum())


def test_on_a_quadratic_it_is_the_exact_line_search() -> None:
    """Unsmoothed and unbounded, every step ends at (g.g / g.Hg) along the gradient.

    Cauchy's steepest descent.
    """
    problem = quadratic()
    method = GeN(problem.params, SGD, smoothing=0.0, factor=1e9)
    x = vector(problem)
    for _ in range(10):
        run(problem, method, full(problem, 1))
        gradient = SCALES * x - 1
        x = x - gradient @ gradient / (gradient @ (SCALES * gradient)) * gradient
        torch.testing.assert_close(vector(problem), x, rtol=1e-7, atol=1e-9)


def test_the_direction_is_the_inner_optimizers() -> None:
    """With momentum eta* = g.d / d.Hd."""
    problem = quadratic()
    method = GeN(problem.params, partial(SGD, momentum=0.9), smoothing=0.0, factor=1e9)
    x, buffer = vector(problem), torch.zeros(3).double()
    for _ in range(8):
        run(problem, method, full(problem, 1))
        gradient = SCALES * x - 1
        buffer = 0.9 * buffer + gradient
        slope_along = gradient @ buffer
        if slope_along > 0:
            x = x - slope_along / (buffer @ (SCALES * buffer)) * buffer
        torch.testing.assert_close(vector(problem), x, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("period", [1, 3])
def test_the_learning_rate_is_that_of_the_equations(period: int) -> None:
    """A plain loop around torch's AdamW with a learning rate of one, evaluated on both sides."""
    problem = classification()
    twin = copy.deepcopy(problem)
    options = {"weight_decay": 0.02, "betas": (0.8, 0.9)}
    method = GeN(
        problem.params, partial(torch.optim.AdamW, lr=0.05, **options), period=period, smoothing=0.6
    )
    adam = torch.optim.AdamW(twin.params, lr=1.0, **options)  # type: ignore[arg-type]
    eta, changes = 0.05, 0
    for count, batch in enumerate(batches(problem, 20)):
        method.step(problem.objective().on(*batch))

        here, theta = float(evaluated(twin, batch)), vector(twin)
        adam.step()
        d = theta - vector(twin)
        if count % period == 0:
            losses = []
            for sign in (-1, 1):
                put(twin, theta + sign * eta * d)
                losses.append(float(evaluated(twin, batch)))
            fall, bend = losses[1] - losses[0], losses[1] - 2 * here + losses[0]
            if fall > 0 and bend > 0:
                best = eta / 2 * fall / bend
                eta = 0.6 * eta + 0.4 * min(max(best, eta / 2), 2 * eta)
                changes += 1
        put(twin, theta - eta * d)
        torch.testing.assert_close(vector(problem), vector(twin), rtol=1e-8, atol=1e-10)
        assert method.telemetry()["step_size"] == pytest.approx(eta, rel=1e-9)
    assert changes > 3


def test_gen_optim_finds_the_same_learning_rates() -> None:
    """It fits other mini-batches and steps twice, which is the same here: SGD, one mini-batch."""
    peers = pytest.importorskip("GeN")
    problem = classification(40)
    twin = copy.deepcopy(problem)
    batch = (problem.inputs, problem.targets)
    method = GeN(problem.params, partial(SGD, lr=0.5))
    theirs = torch.optim.SGD(twin.params, lr=0.5)
    for _ in range(20):
        method.step(problem.objective())
        evaluated(twin, batch)
        peers.lr_parabola(
            twin.model,
            theirs,
            tr_iter=iter([batch]),
            device="cpu",
            task="image_cls",
            lr_factor=[-1, 0, 1],
        )
        theirs.step()
        assert method.telemetry()["step_size"] == pytest.approx(
            theirs.param_groups[0]["lr"], rel=1e-5
        )
    torch.testing.assert_close(vector(problem), vector(twin), rtol=1e-5, atol=1e-6)


def test_two_evaluations_every_period() -> None:
    for period, expected in ((1, 3 * 12), (4, 12 + 2 * 3)):
        problem = classification()
        objective = problem.objective()
        method = GeN(problem.params, SGD, period=period)
        for batch in batches(problem, 12):
            method.step(objective.on(*batch))
        assert dict(objective.counts) == {"value": expected, "grad": 12}


def noisy() -> Problem:
    """Least squares with noise in 20 dimensions: eight examples do not determine a direction."""
    torch.manual_seed(0)
    inputs = torch.randn(400, 20).double()
    targets = inputs @ torch.randn(20, 1).double() + 2 * torch.randn(400, 1).double()
    return Problem(nn.Linear(20, 1).double(), nn.MSELoss(), inputs, targets)


def test_the_own_mini_batch_rewards_steps_that_are_too_long() -> None:
    """Why the losses are those of another mini-batch.

    The step size a full batch gives is the measure.
    """
    sizes, losses = {}, {}
    for kind in ("own", "fresh", "full"):
        problem = noisy()
        draws = iter(batches(problem, 700)[300:])
        inner = partial(torch.optim.AdamW, lr=0.01, weight_decay=0.0)
        method = GeN(problem.params, inner, batch="own" if kind == "full" else kind)
        objective = problem.objective(sampler=lambda draws=draws: next(draws))
        steps = full(problem, 300) if kind == "full" else batches(problem, 300)
        saved = []
        for batch in steps:
            method.step(objective.on(*batch))
            saved.append(method.telemetry()["step_size"])
        sizes[kind] = sum(saved[-100:]) / 100
        losses[kind] = float(problem.objective().value())
    assert sizes["own"] > 2 * sizes["fresh"]
    assert losses["full"] < losses["fresh"] < 0.8 * losses["own"]


def test_whose_losses_they_are() -> None:
    problem = classification()
    drawn: list[int] = []

    def sampler() -> tuple[torch.Tensor, torch.Tensor]:
        drawn.append(1)
        return problem.inputs, problem.targets

    for kind, horizon, values in (
        ("fresh", None, 4),
        ("own", None, 3),
        ("auto", None, 4),
        ("auto", 1.0, 3),
    ):
        drawn.clear()
        objective = problem.objective(sampler=sampler)
        method = GeN(problem.params, SGD, batch=kind)
        if horizon:
            method.expect(10, horizon)
        method.step(objective)
        assert (objective.counts["value"], len(drawn)) == (values, values - 3)
    with pytest.raises(UnsupportedError, match="sampler"):
        GeN(problem.params, SGD, batch="fresh").step(problem.objective())


@pytest.mark.parametrize(
    ("losses", "minimum"),
    [
        ((1.0, 0.5, 2.5), 0.5 * 2.0 / 1.0),
        ((1.0, 0.5, 1.4), None),  # bends down
        ((1.0, 0.5, 1.5), None),  # a line
        ((1.0, 2.0, 0.9), None),  # the minimum lies behind
        ((1.0, 1.0, 1.0), None),
        ((1.0, 1 - 1e-16, 1 + 1e-15), None),  # round-off
        ((1.0, 0.5, inf), None),
        ((1.0, 0.5, nan), None),
    ],
)
def test_the_parabolas_minimum(losses: tuple[float, float, float], minimum: float | None) -> None:
    assert vertex(*losses, 2.2e-16) == (None if minimum is None else pytest.approx(minimum))


def test_where_the_loss_bends_down_the_learning_rate_stays() -> None:
    problem = function((0.5, 0.5), lambda x: -x @ x / 2)
    method = GeN(problem.params, SGD)
    run(problem, method, full(problem, 5))
    assert method.telemetry()["step_size"] == 0.01
    assert method.telemetry()["kept"] == 1
    assert method.failures["parabola"] == 5
    torch.testing.assert_close(vector(problem), torch.full((2,), 0.5 * 1.01**5).double())


def test_a_step_to_where_the_loss_is_no_number_is_shortened() -> None:
    """-log x + 4 x leads from 1 to the left, and there is no logarithm below zero."""
    problem = function((1.0,), lambda x: (4 * x - torch.log(x)).sum())
    method = GeN(problem.params, partial(torch.optim.SGD, lr=0.6))
    run(problem, method, full(problem, 1))
    assert method.telemetry()["step_size"] == pytest.approx(0.3)
    assert method.failures["parabola"] == 1
    torch.testing.assert_close(vector(problem), torch.tensor([1 - 0.3 * 3]).double())


def test_the_step_size_is_found_from_far_off() -> None:
    """From a hundredth of what is good to the neighbourhood of the best fixed one, in 60 steps."""
    problem, fixed = classification(), classification()
    method = GeN(problem.params, partial(SGD, lr=0.01))
    losses = run(problem, method, full(problem, 80))
    sgd = torch.optim.SGD(fixed.params, lr=0.01)
    for batch in full(fixed, 80):
        sgd.step(fixed.objective().on(*batch))  # type: ignore[arg-type]
    assert method.telemetry()["step_size"] > 0.3
    assert losses[-1] < 0.9 * float(fixed.objective().value())


INNER = {
    "sgd": SGD,
    "adagrad": partial(torch.optim.Adagrad, lr=0.05),
    "muon": partial(Muon, fallback_lr=0.01),
    "kfac": partial(KFAC, lr=0.1),
    "newton_cg": NewtonCG,
    "lbfgs": partial(torch.optim.LBFGS, max_iter=3),
}


@pytest.mark.parametrize("name", INNER)
def test_any_optimizer_may_be_inside(name: str) -> None:
    problem = classification()
    method = GeN(problem.model.named_parameters(), INNER[name], smoothing=0.5)
    losses = run(problem, method, full(problem, 25))
    assert losses[-1] < 0.97 * losses[0]
    assert method.needs == getattr(method.inner, "needs", frozenset())


def test_a_fault_inside_is_ours() -> None:
    problem = classification()
    method = GeN(problem.model.named_parameters(), NewtonCG)
    broken = torch.full_like(problem.inputs, nan)
    before = vector(problem)
    run(problem, method, [(broken, problem.targets)])
    assert method.failures["non_finite"] == 1
    assert torch.equal(vector(problem), before)
    run(problem, method, full(problem, 1))
    assert not torch.equal(vector(problem), before)


def test_what_is_no_optimizer_is_refused() -> None:
    params = list(nn.Linear(2, 2).parameters())
    with pytest.raises(ValueError, match=r"inner must make an optimizer.*got 3"):
        GeN(params, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="it made a list"):
        GeN(params, list)  # type: ignore[arg-type]


def test_groups_keep_the_ratio_of_their_rates() -> None:
    problem = classification()
    first, *rest = problem.params
    groups = [{"params": [first], "lr": 1.0}, {"params": rest, "lr": 0.1}]
    method = GeN(groups, SGD, smoothing=0.0)
    before = [p.detach().clone() for p in problem.params]
    evaluated(problem, (problem.inputs, problem.targets))
    gradients = [p.grad.clone() for p in problem.params if p.grad is not None]
    run(problem, method, full(problem, 1))
    size = method.telemetry()["step_size"]
    assert size == pytest.approx(0.02)
    for p, b, g, share in zip(problem.params, before, gradients, (1.0, 0.1, 0.1, 0.1), strict=True):
        torch.testing.assert_close(p.detach(), b - share * size * g, rtol=1e-10, atol=1e-12)


def test_the_best_step_of_a_bowl() -> None:
    problem = bowl((3.0, 4.0))
    run(problem, GeN(problem.params, SGD, smoothing=0.0, factor=1e6), full(problem, 1))
    assert float(vector(problem).abs().max()) < 1e-9


def test_an_inner_optimizer_that_makes_groups_of_its_own_is_refused() -> None:
    pytest.importorskip("pytorch_optimizer")
    problem = classification()
    with pytest.raises(ValueError, match="inner must keep the parameter groups"):
        GeN(problem.model.named_parameters(), partial(PytorchOptimizer, name="Muon"))
