"""Barzilai-Borwein: scipy's spectral method, plain loops, the rate in the plane, the search, the
epochs."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from scipy.optimize import root
from torch import Tensor, nn

from optimizers import minimize
from optimizers.step_size import BB
from tasks.functions.problems import PROBLEMS
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
    slope,
    vector,
)


def quadratic(scales: list[float], start: list[float] | None = None) -> Problem:
    curvature = torch.tensor(scales).double()
    return function(start or [1.0] * len(scales), lambda x: (curvature * x * x).sum() / 2)


def path(problem: Problem, method: BB, steps: int) -> list[Tensor]:
    points = [vector(problem)]
    for _ in range(steps):
        run(problem, method, full(problem, 1))
        points.append(vector(problem))
    return points


def test_the_trajectory_is_that_of_scipys_spectral_method() -> None:
    """DF-SANE solves g(x) = 0 by x -= (s.s / s.y) g, with a nonmonotone search of its own that
    accepts these steps."""
    scales = [1.0, 1.5, 2.0, 3.0]
    curvature = torch.tensor(scales).double().numpy()
    theirs: list[Tensor] = []
    root(
        lambda x: curvature * x,
        [1.0] * 4,
        method="df-sane",
        callback=lambda x, _: theirs.append(torch.tensor(x)),
        options={"sigma_0": 0.5, "fatol": 1e-12, "ftol": 0},
    )
    problem = quadratic(scales)
    ours = path(problem, BB(problem.params, first=0.5), 12)
    assert len(theirs) >= 12
    for mine, other in zip(ours, theirs, strict=False):  # both begin with the start
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("lr", [1.0, 0.7])
@pytest.mark.parametrize("rule", ["bb1", "bb2", "alternating"])
def test_the_steps_are_those_of_the_formulas(rule: str, lr: float) -> None:
    scales = torch.tensor([1.0, 7.0, 30.0]).double()
    problem = quadratic(scales.tolist())
    method = BB(problem.params, lr=lr, rule=rule, first=0.01, memory=100)
    points = path(problem, method, 14)
    x, alpha = torch.ones(3).double(), 0.01
    for k, reached in enumerate(points[1:]):
        s = -lr * alpha * scales * x
        x, y = x + s, scales * s
        torch.testing.assert_close(reached, x, rtol=1e-9, atol=1e-12)
        assert method.failures["line_search"] == 0
        short = rule == "bb2" or (rule == "alternating" and k % 2 == 1)
        alpha = float(s @ y / (y @ y)) if short else float(s @ s / (s @ y))


@pytest.mark.parametrize("rule", ["bb1", "bb2"])
def test_along_negative_curvature_a_step_has_the_length_of_its_absolute_value(rule: str) -> None:
    problem = function([0.5], lambda x: -2 * x @ x)
    first, second = path(problem, BB(problem.params, rule=rule, first=0.01), 2)[1:]
    torch.testing.assert_close(first, 1.04 * torch.tensor([0.5]).double())
    torch.testing.assert_close(second, 2 * first)  # 1 / |-4| times the gradient


@pytest.mark.parametrize("memory", [1, 3])
def test_a_loss_is_below_the_largest_of_as_many_as_are_remembered(memory: int) -> None:
    """And above all of fewer, now and then."""
    problem = quadratic([1.0, 9.0, 80.0, 700.0])
    losses = run(problem, BB(problem.params, memory=memory), full(problem, 60))

    def below(count: int) -> bool:
        return all(losses[i] < max(losses[max(0, i - count) : i]) for i in range(1, len(losses)))

    assert below(memory)
    assert memory == 1 or not below(memory - 1)


def test_in_the_plane_the_rate_is_superlinear() -> None:
    """Barzilai and Borwein's theorem.

    For two variables the gradient's norms fall faster than any geometric series.

    Steepest descent with exact steps needs 190 steps for each factor of ten thousand at this
    condition.
    """
    scales = torch.tensor([1.0, 20.0]).double()
    problem = quadratic(scales.tolist(), [20.0, 1.0])
    norms = [float((scales * x).norm()) for x in path(problem, BB(problem.params, memory=50), 40)]
    decades = [
        next(i for i, n in enumerate(norms) if n < norms[0] * 10.0**-d) for d in (4, 8, 12, 16, 20)
    ]
    spans = [after - before for before, after in pairwise(decades)]
    assert decades[0] < 25
    assert spans[-1] <= 3
    assert spans[-1] < spans[0] or spans[0] <= 3


def test_a_full_batch_costs_one_gradient_a_step() -> None:
    problem = quadratic([1.0, 5.0, 20.0])
    objective = problem.objective()
    method = BB(problem.params)
    trials = 0.0
    for _ in range(15):
        method.step(objective.on(problem.inputs, problem.targets))
        trials += method.telemetry()["trials"]
    assert objective.counts["grad"] == 1 + trials
    assert trials < 20
    assert not [t for state in method.state.values() for t in state.values()]


@pytest.mark.parametrize("rule", ["bb1", "bb2", "alternating"])
def test_an_ill_conditioned_quadratic_far_faster_than_gradient_descent(rule: str) -> None:
    scales = torch.logspace(0, 4, 20).tolist()
    result = minimize(
        lambda x: (torch.tensor(scales).double() * x * x).sum() / 2,
        torch.ones(20).double(),
        method=lambda p: BB(p, rule=rule),
        max_steps=1500,
        tol=1e-4,
    )
    assert result.success
    descent = torch.ones(20).double()
    for _ in range(1500):
        descent -= torch.tensor(scales).double() * descent / 1e4
    assert float((torch.tensor(scales).double() * descent).norm()) > 1e-2


@pytest.mark.parametrize("name", ["rosenbrock", "beale", "wood"])
def test_nonlinear_functions(name: str) -> None:
    problem = PROBLEMS[name]
    result = minimize(problem, problem.start(problem.dimension), BB, max_steps=2000, tol=1e-6)
    assert result.success, result.message
    assert result.fun == pytest.approx(0, abs=1e-8)


def test_the_search_is_monotone_with_a_memory_of_one_only() -> None:
    scales = torch.logspace(0, 3, 10).tolist()
    rises = {}
    for memory in (1, 10):
        problem = quadratic(scales)
        losses = run(problem, BB(problem.params, memory=memory), full(problem, 150))
        rises[memory] = sum(b > a for a, b in pairwise(losses))
        best = [max(losses[max(0, i - memory + 1) : i + 1]) for i in range(len(losses) - 1)]
        assert all(after <= limit for after, limit in zip(losses[1:], best, strict=True))
    assert rises[1] == 0 < rises[10]


def test_negative_curvature_gives_a_step_of_its_size() -> None:
    """On -|x|^2 / 2 s.y is negative; the next step is |s.s / s.y| = 1 and leads down."""
    problem = bowl((0.1, 0.2), scale=-1.0)
    method = BB(problem.params, first=0.5)
    run(problem, method, full(problem, 2))
    torch.testing.assert_close(vector(problem), torch.tensor([0.1, 0.2]).double() * 1.5 * 2)


def test_a_search_that_fails_is_counted_and_told() -> None:
    # its gradient is that of -f
    problem = function((1.0, 2.0), lambda x: (x.detach() * 2 - x).square().sum())
    method = BB(problem.params, max_trials=7)
    before = vector(problem)
    run(problem, method, full(problem, 1))
    assert torch.equal(vector(problem), before)
    assert method.failures["line_search"] == 1
    assert "7 trials" in method.stuck


def test_where_round_off_hides_every_change_it_stops_soon() -> None:
    """A loss of zero everywhere that has a gradient: shorter steps would tell nothing."""
    problem = function((1.0, 2.0), lambda x: (x - x.detach()).sum())
    objective = problem.objective()
    method = BB(problem.params)
    method.step(objective)
    assert objective.counts["value"] <= 1 + 3
    assert method.failures["line_search"] == 1


def test_zero_gradient() -> None:
    problem = bowl((0.0, 0.0))
    method = BB(problem.params)
    run(problem, method, full(problem, 1))
    assert method.stuck == "the gradient is zero"


# -- one step size an epoch ------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [False, True])
def test_the_epochs_are_those_of_sgd_bb(smoothing: bool) -> None:
    problem = classification()
    twin = copy.deepcopy(problem)
    m, beta, l2 = 5, 0.4, 0.02
    method = BB(problem.params, steps_per_epoch=m, averaging=beta, first=0.2, smoothing=smoothing)
    average = torch.zeros_like(vector(twin))
    eta, products, ends = 0.2, [], [vector(twin)]
    averages = [average]
    for t, batch in enumerate(batches(problem, 6 * m)):
        method.step(problem.objective(l2).on(*batch))

        epoch = t // m
        if t % m == 0 and epoch > 1:
            s, y = ends[epoch] - ends[epoch - 1], averages[epoch] - averages[epoch - 1]
            eta = float(s @ s / (s @ y).abs()) / m
            if smoothing:
                products.append(eta * epoch)
                eta = float(torch.tensor(products, dtype=torch.float64).log().mean().exp()) / epoch
        evaluated(twin, batch, l2)
        average = beta * slope(twin) + (1 - beta) * average
        put(twin, vector(twin) - eta * slope(twin))
        if t % m == m - 1:
            ends.append(vector(twin))
            averages.append(average)
        torch.testing.assert_close(vector(problem), vector(twin), rtol=1e-8, atol=1e-10)
        assert method.telemetry()["step_size"] == pytest.approx(eta, rel=1e-8)


def test_auto_takes_epochs_where_they_have_several_mini_batches() -> None:
    for steps, count in ((1.0, 0), (4.0, 3)):
        problem = classification()
        method = BB(problem.params)
        method.expect(100, steps)
        run(problem, method, batches(problem, 3))
        assert sum(len(state) for state in method.state.values()) == count * len(problem.params)


def test_per_epoch_asks_for_the_length_of_an_epoch() -> None:
    problem = bowl()
    with pytest.raises(ValueError, match=r"steps_per_epoch=.*form=deterministic"):
        run(problem, BB(problem.params, form="per_epoch"), full(problem, 1))


def logistic() -> Problem:
    torch.manual_seed(0)
    inputs = torch.randn(400, 10).double() * torch.linspace(0.3, 1.5, 10).double()
    noise = 0.5 * torch.randn(400).double()
    targets = (inputs @ torch.randn(10).double() + noise > 0).long()
    return Problem(nn.Linear(10, 2).double(), nn.CrossEntropyLoss(), inputs, targets)


@pytest.mark.parametrize("smoothing", [False, True])
def test_sgd_bb_forgets_its_first_step_size(smoothing: bool) -> None:
    """Strongly convex logistic regression, first steps over four decades.

    A fixed step needs the right one.
    """
    least = logistic()
    objective, solver = least.objective(1e-2), BB(least.params)
    for _ in range(300):
        solver.step(objective)
    best = float(objective.value())
    gaps, fixed = [], []
    data = batches(least, 500)
    for first in (1e-3, 0.1, 10.0):
        problem, plain = logistic(), logistic()
        run(
            problem,
            BB(problem.params, steps_per_epoch=50, first=first, smoothing=smoothing),
            data,
            l2=0.01,
        )
        gaps.append(float(problem.objective(1e-2).value()) - best)
        sgd, loss = torch.optim.SGD(plain.params, lr=first), plain.objective(1e-2)
        for batch in data:
            sgd.step(loss.on(*batch))  # type: ignore[arg-type]
        fixed.append(float(loss.value()) - best)
    assert 0 < max(gaps) < 0.1 < 0.25 < max(fixed)
    assert min(fixed) < 0.02
