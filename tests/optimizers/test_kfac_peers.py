"""K-FAC and EKFAC against curvlinops and backpack, and against Adam where each is at home."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from optimizers.linalg.flat import add_, flatten
from optimizers.natural_gradient import EKFAC, KFAC
from tests.optimizers.cases import Problem, close, mlp

EVERY: dict[str, object] = {
    "fisher": "exact",
    "statistics_period": 1,
    "inverse_period": 1,
    "momentum": 0.0,
    "kl_clip": None,
    "decay": 0.0,
}


def perceptron(loss_fn: nn.Module) -> Problem:
    torch.manual_seed(0)
    model = mlp((4, 6, 5, 3)).double()
    return Problem(model, loss_fn, torch.randn(20, 4).double(), targets(loss_fn, 20))


def convolutional(loss_fn: nn.Module) -> Problem:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, stride=2),
        nn.Tanh(),
        nn.Conv2d(4, 3, 2),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(3, 3),
    )
    return Problem(model.double(), loss_fn, torch.randn(12, 2, 4, 4).double(), targets(loss_fn, 12))


def targets(loss_fn: nn.Module, count: int) -> Tensor:
    if isinstance(loss_fn, nn.CrossEntropyLoss):
        return torch.randint(3, (count,))
    return (
        torch.rand(count, 3).double().round()
        if isinstance(loss_fn, nn.BCEWithLogitsLoss)
        else torch.randn(count, 3).double()
    )


MODELS: dict[str, Callable[[nn.Module], Problem]] = {"mlp": perceptron, "conv": convolutional}
LOSSES: dict[str, Callable[[], nn.Module]] = {
    "ce": nn.CrossEntropyLoss,
    "ce_sum": lambda: nn.CrossEntropyLoss(reduction="sum"),
    "mse": nn.MSELoss,
    "bce_sum": lambda: nn.BCEWithLogitsLoss(reduction="sum"),
}


def operator_of(kind: str, problem: Problem) -> object:
    curvlinops = pytest.importorskip("curvlinops")
    make = {"kfac": curvlinops.KFACLinearOperator, "ekfac": curvlinops.EKFACLinearOperator}[kind]
    return make(
        problem.model,
        problem.loss_fn,
        problem.params,
        [(problem.inputs, problem.targets)],
        fisher_type=curvlinops.FisherType.TYPE2,
        separate_weight_and_bias=False,
        check_deterministic=False,
    )


def descend(
    problem: Problem,
    optimizer: KFAC,
    direction: Callable[[Problem, Tensor, float], Tensor],
    lr: float,
) -> float:
    """Ten steps of ours beside theta -= lr direction on a copy; how far they moved."""
    twin = copy.deepcopy(problem)
    start = flatten(problem.params).detach()
    for _ in range(10):
        optimizer.step(problem.objective())
        objective = twin.objective()
        objective()
        add_(
            [p.data for p in twin.params],
            direction(twin, objective.gradient(), objective.scale),
            alpha=-lr,
        )
        close(flatten(problem.params).detach(), flatten(twin.params).detach(), 1e-8)
    return float((flatten(problem.params).detach() - start).norm())


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("inverse", ["cholesky", "eigen"])
def test_ten_steps_are_those_with_curvlinops_inverse(model: str, loss: str, inverse: str) -> None:
    """Its heuristic damping is the factored Tikhonov damping, its exact one what the
    eigen-decomposition does."""
    curvlinops = pytest.importorskip("curvlinops")
    problem = MODELS[model](LOSSES[loss]())
    way = {"cholesky": "use_heuristic_damping", "eigen": "use_exact_damping"}[inverse]

    def direction(twin: Problem, gradient: Tensor, scale: float) -> Tensor:
        operator = operator_of("kfac", twin)
        # theirs approximates the curvature of the loss as it is, for which the damping is scaled
        return (
            curvlinops.KFACInverseLinearOperator(
                operator, damping=0.1 * scale, min_damping=0.0, **{way: True}
            )
            @ gradient
        )

    optimizer = KFAC(
        problem.model.named_parameters(), lr=0.3, damping=0.1, inverse=inverse, **EVERY
    )
    assert descend(problem, optimizer, direction, 0.3) > 0.1


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("loss", LOSSES)
def test_ten_steps_are_those_with_curvlinops_corrected_eigenvalues(model: str, loss: str) -> None:
    problem = MODELS[model](LOSSES[loss]())

    def direction(twin: Problem, gradient: Tensor, scale: float) -> Tensor:
        identity = torch.eye(len(gradient)).double()
        return torch.linalg.solve(
            operator_of("ekfac", twin) @ identity + 0.1 * scale * identity, gradient
        )

    optimizer = EKFAC(problem.model.named_parameters(), lr=0.3, damping=0.1, **EVERY)
    assert descend(problem, optimizer, direction, 0.3) > 0.1


@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize("loss", ["ce", "ce_sum", "mse"])
def test_factors_are_those_of_backpack(loss: str) -> None:
    """Its KFLR, the exact factors, for the loss as it is.

    Bias and weight have factors of their own there.
    """
    backpack = pytest.importorskip("backpack")
    extensions = pytest.importorskip("backpack.extensions")
    problem = perceptron(LOSSES[loss]())
    optimizer = KFAC(problem.model.named_parameters(), lr=0.0, **EVERY)
    objective = problem.objective()
    optimizer.step(objective)
    extended, loss_fn = (
        backpack.extend(copy.deepcopy(problem.model)),
        backpack.extend(copy.deepcopy(problem.loss_fn)),
    )
    with backpack.backpack(extensions.KFLR()):
        loss_fn(extended(problem.inputs), problem.targets).backward()
    layers = [[m for m in model if isinstance(m, nn.Linear)] for model in (problem.model, extended)]
    for ours, theirs in zip(*layers, strict=True):
        state = optimizer.state[ours.weight]
        g, a = theirs.weight.kflr
        close(objective.scale * torch.kron(state["g"], state["a"][:-1, :-1]), torch.kron(g, a))
        close(objective.scale * state["g"], theirs.bias.kflr[0])


# -- a network that first-order methods find hard --------------------------------------------------


def autoencoder() -> Problem:
    """Six layers of sigmoids with a narrow middle, sparsely initialised, on smooth images of 8 x
    8."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    sizes = (64, 32, 16, 6, 16, 32, 64)
    model = mlp(sizes, nn.Sigmoid).double()
    for layer in (
        m for m in model if isinstance(m, nn.Linear)
    ):  # Martens (2010): few inputs of weight one a unit
        chosen = torch.rand(layer.weight.shape, generator=generator).argsort(1) < min(
            15, layer.in_features
        )
        layer.weight.data = normal(*layer.weight.shape) * chosen
        layer.bias.data.zero_()
    place = torch.linspace(-1, 1, 8, dtype=torch.float64)
    centre, width = 0.6 * normal(150, 2, 1), 0.3 + 0.3 * normal(150, 1, 1).sigmoid()
    rows, columns = torch.exp(-((place - centre) / width).square()).unbind(1)
    images = (rows[:, :, None] * columns[:, None, :]).flatten(1)
    return Problem(model, nn.BCEWithLogitsLoss(reduction="sum"), images, images)


def error_after(optimizer_of: Callable[[nn.Module], torch.optim.Optimizer], steps: int) -> float:
    """The squared error of an image's reconstruction; not a number where the run failed."""
    problem = autoencoder()
    optimizer = optimizer_of(problem.model)
    objective = problem.objective(generator=torch.Generator().manual_seed(0))
    for _ in range(steps):
        loss = optimizer.step(objective.on(problem.inputs, problem.targets))
        if not math.isfinite(float(loss)):
            return math.nan
    outputs = problem.model(problem.inputs).sigmoid().detach()
    return float((outputs - problem.targets).square().sum(1).mean())


@pytest.mark.parametrize("method", [KFAC, EKFAC])
def test_an_autoencoder_within_sixty_steps(method: type[KFAC]) -> None:
    """With nothing tuned K-FAC gets to a fraction of the error that Adam has with the best of four
    rates."""
    rates = (3e-3, 1e-2, 3e-2, 1e-1)
    adam = min(
        error_after(lambda model, lr=lr: torch.optim.Adam(model.parameters(), lr=lr), 60)
        for lr in rates
    )
    ours = error_after(
        lambda model: method(
            model.named_parameters(), step_rule="exact", damping_rule="adaptive", damping=1.0
        ),
        60,
    )
    assert ours < 0.25 * adam
