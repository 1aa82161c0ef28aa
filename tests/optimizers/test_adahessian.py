"""AdaHessian against pytorch_optimizer's, its diagonal against the true one, and what a refresh
leaves behind."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimizers import Objective
from optimizers.diagonal import AdaHessian, SophiaG, SophiaH
from optimizers.diagonal.adahessian import blockwise_mean
from optimizers.diagonal.probes import probe
from optimizers.linalg.flat import flatten, unflatten
from optimizers.method import Method
from tests.optimizers.cases import Identity, Problem, Reference, Scalar, close, mlp

BENDS = [3.0, 0.5, -2.0, 40.0]


def quadratic(bends: list[float] = BENDS) -> Problem:
    """sum_i a_i x_i^2 / 2 from (1, 1, ...)."""
    weights = torch.tensor(bends, dtype=torch.float64)
    model = Scalar([1.0] * len(bends), lambda x: (weights * x.square()).sum() / 2)
    return Problem(model, Identity(), torch.zeros(1, 1), torch.zeros(1))


def classifier(reduction: str = "mean") -> Problem:
    torch.manual_seed(0)
    inputs, targets = torch.randn(40, 4, dtype=torch.float64), torch.randint(3, (40,))
    return Problem(
        mlp((4, 6, 5, 3)).double(), nn.CrossEntropyLoss(reduction=reduction), inputs, targets
    )


def kernels() -> Problem:
    """Kernels of one, two and three dimensions, matrices and vectors."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv3d(1, 2, 2),
        nn.Tanh(),
        nn.Flatten(2),
        nn.Conv1d(2, 3, 3),
        nn.Tanh(),
        nn.Unflatten(2, (2, 3)),
        nn.Conv2d(3, 2, 2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(4, 5),
        nn.Tanh(),
        nn.Linear(5, 3),
    )
    inputs = torch.randn(6, 1, 3, 3, 3, dtype=torch.float64)
    return Problem(model.double(), nn.CrossEntropyLoss(), inputs, torch.randint(3, (6,)))


def train(problem: Problem, optimizer: Method, steps: int, **options: Any) -> Objective:
    objective = problem.objective(**options)
    for step in range(steps):
        index = (torch.arange(8) + 5 * step) % len(problem.inputs)
        objective = objective.on(problem.inputs[index], problem.targets[index])
        optimizer.step(objective)
    return objective


def distance(one: Problem, other: Problem) -> float:
    mine, theirs = (flatten(each.params).detach() for each in (one, other))
    return float((mine - theirs).norm() / theirs.norm())


# -- the trajectory --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({}, {}),
        (
            {"weight_decay": 0.1, "hessian_power": 0.7, "beta2": 0.9},
            {"weight_decay": 0.1, "hessian_power": 0.7},
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Using backward")
def test_it_is_pytorch_optimizers_with_the_same_probes(
    options: dict[str, float], theirs: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = pytest.importorskip("pytorch_optimizer")
    problem, twin = classifier(), classifier()
    train(problem, AdaHessian(problem.params, averaging="none", seed=7, **options), 30)
    betas = (0.9, options.get("beta2", 0.999))
    peer = peers.AdaHessian(twin.params, lr=0.15, betas=betas, eps=1e-4, **theirs)
    seeds = itertools.count(7)
    drawn: list[Tensor] = []

    def same(like: Tensor, *_: object, **__: object) -> Tensor:
        if not drawn:
            drawn.extend(
                unflatten(
                    probe(flatten(twin.params).detach(), "rademacher", next(seeds)), twin.params
                )
            )
        signs = drawn.pop(0)
        assert signs.shape == like.shape
        return (signs + 1) / 2

    monkeypatch.setattr(torch, "randint_like", same)
    for step in range(30):
        index = (torch.arange(8) + 5 * step) % len(twin.inputs)
        peer.zero_grad()
        twin.loss_fn(twin.model(twin.inputs[index]), twin.targets[index]).backward(
            create_graph=True
        )
        peer.step()
    assert distance(problem, twin) < 4e-15


def naive_mean(products: Tensor, averaging: str, block: int) -> Tensor:
    """The released code's averages, entry by entry."""
    if (
        averaging == "none"
        or products.dim() < 2
        or (products.dim() == 2 and averaging == "kernels")
    ):
        return products.abs()
    mean = torch.empty_like(products)
    if products.dim() > 2 or averaging == "rows":
        depth = min(2, products.dim() - 1)
        for place in itertools.product(*map(range, products.shape[:depth])):
            mean[place] = (
                sum(abs(float(x)) for x in products[place].flatten()) / products[place].numel()
            )
        return mean
    entries = products.flatten().abs().tolist()
    for first in range(0, len(entries), block):
        part = entries[first : first + block]
        mean.view(-1)[first : first + block] = sum(part) / len(part)
    return mean


@pytest.mark.parametrize("averaging", ["none", "kernels", "rows", "blocks"])
def test_averages_in_space_are_those_of_a_naive_loop(averaging: str) -> None:
    problem = kernels()
    hessian = Reference(problem).hessian()
    optimizer = AdaHessian(problem.params, beta2=0.0, averaging=averaging, block_size=6, seed=3)
    signs = probe(flatten(problem.params).detach(), "rademacher", 3)
    parts = unflatten(signs * (hessian @ signs), problem.params)
    optimizer.step(problem.objective())
    diagonal = optimizer.diagonal()
    assert diagonal is not None
    close(diagonal, flatten(naive_mean(part, averaging, 6) for part in parts))


def test_blocks_that_do_not_divide_a_matrix_end_in_a_shorter_one() -> None:
    matrix = torch.arange(10.0).view(2, 5)
    expected = torch.tensor([1.5, 1.5, 1.5, 1.5, 5.5, 5.5, 5.5, 5.5, 8.5, 8.5]).view(2, 5)
    assert torch.equal(blockwise_mean(matrix, 4), expected)
    assert torch.equal(blockwise_mean(matrix, 32), torch.full((2, 5), 4.5))


def test_signed_averages_are_the_papers() -> None:
    problem = kernels()
    optimizer = AdaHessian(problem.params, beta2=0.0, averaging="rows", signed=True, seed=3)
    signs = probe(flatten(problem.params).detach(), "rademacher", 3)
    parts = unflatten(signs * (Reference(problem).hessian() @ signs), problem.params)
    optimizer.step(problem.objective())
    weight = [p.dim() for p in problem.params].index(2)
    expected = parts[weight].mean(1, keepdim=True).abs().expand_as(parts[weight])
    close(optimizer.state[problem.params[weight]]["diagonal"], expected)


def test_a_step_on_a_diagonal_quadratic_is_newtons_with_the_curvatures_absolute_value() -> None:
    problem = quadratic()
    AdaHessian(problem.params, lr=1.0, beta1=0.0, eps=1e-300).step(problem.objective())
    expected = torch.tensor([0.0, 0.0, 2.0, 0.0], dtype=torch.float64)  # x - a x / |a|
    torch.testing.assert_close(problem.params[0].detach(), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("kind", [AdaHessian, partial(SophiaH, lr=1e-2)])
def test_a_sum_over_the_batch_makes_the_steps_of_the_mean(kind: Any) -> None:
    problem, twin = classifier("mean"), classifier("sum")
    for each in (problem, twin):
        train(each, kind(each.params), 12)
    assert distance(problem, twin) < 1e-11


def test_the_order_of_the_parameters_and_their_groups_change_nothing() -> None:
    problem, twin = classifier(), classifier()
    train(problem, AdaHessian(problem.params, period=2), 9)
    back = twin.params[::-1]
    train(twin, AdaHessian([{"params": back[:2]}, {"params": back[2:]}], period=2), 9)
    assert distance(problem, twin) == 0


# -- the lazy Hessian ------------------------------------------------------------------------------


def test_a_period_asks_for_that_many_products_fewer() -> None:
    problem = classifier()
    counts = train(problem, AdaHessian(problem.params, period=4, probes=3), 10).counts
    assert (counts["grad"], counts["value"], counts["hvp"]) == (10, 10, 9)


@pytest.mark.filterwarnings("ignore:Using backward")
def test_the_square_is_corrected_by_the_number_of_refreshes() -> None:
    """The curvature is constant, so any correct average of it is.

    The peer's steps are sqrt(10) too long by then.
    """
    problem = quadratic([3.0, 0.5, 7.0])
    optimizer = AdaHessian(problem.params, lr=1e-3, period=10)
    for _ in range(10):
        optimizer.step(problem.objective())
        diagonal = optimizer.diagonal()
        assert diagonal is not None
        torch.testing.assert_close(
            diagonal, torch.tensor([3.0, 0.5, 7.0], dtype=torch.float64), rtol=1e-12, atol=0
        )
    assert optimizer.telemetry()["age"] == 10
    peers = pytest.importorskip("pytorch_optimizer")
    twin = quadratic([3.0, 0.5, 7.0])
    peer = peers.AdaHessian(twin.params, lr=1e-3, eps=1e-12, update_period=10)
    for _ in range(10):
        peer.zero_grad()
        twin.loss_fn(twin.model(twin.inputs), twin.targets).backward(create_graph=True)
        before = twin.params[0].detach().clone()
        peer.step()
    moved = (before - twin.params[0].detach()) / 1e-3
    assert bool((moved > 0.97 * math.sqrt(10)).all())  # m / |a| is near x, which is near 1


def test_the_steps_between_refreshes_are_corrected_by_their_number_too() -> None:
    """Adam's with |a| for the root, in numbers.

    A constant curvature is known from the first refresh on.
    """
    bends = torch.tensor(BENDS, dtype=torch.float64)
    problem, x, mean = (
        quadratic(),
        torch.ones(4, dtype=torch.float64),
        torch.zeros(4, dtype=torch.float64),
    )
    optimizer = AdaHessian(problem.params, lr=1e-2, period=4, eps=1e-3)
    for step in range(1, 12):
        mean = 0.9 * mean + 0.1 * bends * x
        x = x - 1e-2 * mean / (1 - 0.9**step) / (bends.abs() + 1e-3)
        optimizer.step(problem.objective())
        torch.testing.assert_close(problem.params[0].detach(), x, rtol=1e-12, atol=1e-13)


def test_no_two_products_of_a_run_have_the_same_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    def recorded(like: Tensor, distribution: str, seed: int) -> Tensor:
        seeds.append(seed)
        return probe(like, distribution, seed)

    monkeypatch.setattr("optimizers.diagonal.probes.probe", recorded)
    problem = classifier()
    train(problem, AdaHessian(problem.params, period=2, probes=3, seed=5), 6)
    assert seeds == list(range(5, 14))


def test_a_curvature_that_is_not_finite_refuses_the_first_step_and_later_only_the_refresh() -> None:
    """The gradient of |x|^1.5 is zero at zero, its curvature infinite."""
    model = Scalar([0.0, 1.0], lambda x: x[0].abs() ** 1.5 + x[1] ** 2)
    problem = Problem(model, Identity(), torch.zeros(1, 1), torch.zeros(1))
    optimizer = AdaHessian(problem.params, lr=0.1)
    optimizer.step(problem.objective())
    assert optimizer.failures["curvature"] == 1
    assert model.x.tolist() == [0.0, 1.0]
    assert not optimizer.state
    with torch.no_grad():
        model.x[0] = 1.0
    optimizer.step(problem.objective())
    roots = optimizer.state[model.x]["diagonal"].clone()
    with torch.no_grad():
        model.x[0] = 0.0
    before = model.x.detach().clone()
    optimizer.step(problem.objective())
    assert optimizer.failures["curvature"] == 2
    assert torch.equal(optimizer.state[model.x]["diagonal"], roots)
    assert bool((model.x.detach() < before).all())


@pytest.mark.parametrize("kind", [AdaHessian, SophiaH, SophiaG])
def test_a_limit_on_the_gradients_norm_holds_on_a_refresh_as_between_them(
    kind: type[Method],
) -> None:
    for period in (1, 2):
        problem = classifier()
        optimizer = kind(problem.params, lr=0.0, beta1=0.0, period=period)
        train(problem, optimizer, 2, clip=1e-3)
        momentum = flatten(optimizer.state[p]["momentum"] for p in problem.params)
        assert float(momentum.norm()) == pytest.approx(1e-3, rel=1e-2)
