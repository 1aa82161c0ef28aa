"""K-FAC's step: dense preconditioning, clip, momentum, fallback, failures."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from optimizers.natural_gradient.kfac import KFAC
from tests.optimizers.cases import CASES, Problem, close
from tests.optimizers.kfac_step_cases import PLAIN, flat, matrix, moved


def layers_of(problem: Problem) -> list[nn.Linear | nn.Conv2d]:
    return [m for m in problem.model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]


def weight_gradient(layer: nn.Linear | nn.Conv2d) -> Tensor:
    """The gradient of weight and bias as one matrix."""
    gradient = layer.weight.grad.flatten(1)
    return (
        gradient.clone()
        if layer.bias is None
        else torch.cat([gradient, layer.bias.grad[:, None]], dim=1)
    )


@pytest.mark.parametrize(
    "name", ["mlp_ce", "mlp_ce_sum", "mlp_mse", "mlp_mse_sum", "mlp_bce_example", "conv", "conv_bn"]
)
@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_a_step_is_the_dense_damped_solve(name: str, l2: float) -> None:
    problem = CASES[name]()
    objective = problem.objective(l2)
    objective()
    gradients = [weight_gradient(layer).clone() for layer in layers_of(problem)]
    before = [matrix(layer) for layer in layers_of(problem)]
    optimizer = KFAC(problem.model.named_parameters(), lr=0.5, damping=0.2, fisher="exact", **PLAIN)
    optimizer.step(objective)
    damping = 0.2 + l2 / objective.scale
    for layer, gradient, start in zip(layers_of(problem), gradients, before, strict=True):
        a, g = (optimizer.state[layer.weight][key] for key in ("a", "g"))
        pi = ((a.trace() / len(a)) / (g.trace() / len(g))) ** 0.5
        dense = torch.kron(
            g + damping**0.5 / pi * torch.eye(len(g)).double(),
            a + pi * damping**0.5 * torch.eye(len(a)).double(),
        )
        expected = -0.5 * torch.linalg.solve(dense, (gradient / objective.scale).flatten())
        close(moved(layer, start).flatten(), expected)


@pytest.mark.parametrize("family", ["mse", "bce"])
@pytest.mark.parametrize("fisher", ["sampled", "exact", "empirical"])
def test_same_trajectory_whatever_the_reduction(family: str, fisher: str) -> None:
    ends = []
    for reduction in ("", "_sum", "_example"):
        problem = CASES[f"mlp_{family}{reduction}"]()
        optimizer = KFAC(
            problem.model.named_parameters(),
            lr=0.3,
            fisher=fisher,
            statistics_period=2,
            inverse_period=4,
        )
        objective = problem.objective(generator=torch.Generator().manual_seed(0))
        for _ in range(10):
            optimizer.step(objective.on(problem.inputs, problem.targets))
        ends.append(flat(problem))
    close(ends[1], ends[0], 1e-9)
    close(ends[2], ends[0], 1e-9)


def test_huge_damping_is_sgd_with_momentum() -> None:
    """(G + l I)^-1 g (A + l I)^-1 -> g / damping, so the method contains heavy-ball SGD."""
    damping = 1e14
    problem = CASES["mlp_ce"]()
    twin = copy.deepcopy(problem)
    ours = KFAC(
        problem.model.named_parameters(),
        lr=0.2 * damping,
        damping=damping,
        kl_clip=None,
        momentum=0.8,
    )
    theirs = torch.optim.SGD(twin.model.parameters(), lr=0.2, momentum=0.8)
    objective, other = problem.objective(), twin.objective()
    for _ in range(10):
        ours.step(objective.on(problem.inputs, problem.targets))
        theirs.step(other.on(problem.inputs, problem.targets))
    close(flat(problem), flat(twin), 1e-5)


def test_clip_bounds_the_predicted_change() -> None:
    problem = CASES["mlp_ce"]()
    free, clipped = copy.deepcopy(problem), copy.deepcopy(problem)
    options = {**PLAIN, "fisher": "exact", "damping": 1e-3, "lr": 0.5}
    KFAC(free.model.named_parameters(), **options).step(free.objective())
    KFAC(clipped.model.named_parameters(), **{**options, "kl_clip": 1e-3}).step(clipped.objective())
    problem.objective()()
    gradient = problem.objective()
    gradient()
    step = flat(free) - flat(problem)
    predicted = float(-0.5 * step @ gradient.gradient())  # lr^2 sum U.W'
    assert predicted > 1e-3
    close(flat(clipped) - flat(problem), (1e-3 / predicted) ** 0.5 * step)
    loose = copy.deepcopy(problem)
    KFAC(loose.model.named_parameters(), **{**options, "kl_clip": 2 * predicted}).step(
        loose.objective()
    )
    close(flat(loose), flat(free))


def test_momentum_is_heavy_ball_on_the_preconditioned_gradient() -> None:
    problem = CASES["mlp_mse"]()
    optimizer = KFAC(
        problem.model.named_parameters(),
        lr=0.1,
        momentum=0.9,
        kl_clip=None,
        fisher="exact",
        inverse_period=100,
        weight_decay=0.01,
    )
    layer = problem.model[0]
    buffer = torch.zeros(5, 5).double()
    for _ in range(4):
        start = matrix(layer)
        optimizer.step(problem.objective())
        state = optimizer.state[layer.weight]
        scale = 1 / 3  # of the mean over three outputs
        buffer = (
            0.9 * buffer
            + state["g_inverse"] @ (weight_gradient(layer) / scale) @ state["a_inverse"]
        )
        close(matrix(layer), (1 - 0.1 * 0.01) * start - 0.1 * buffer)


def test_momentum_of_the_gradient_is_its_average() -> None:
    problem = CASES["mlp_mse"]()
    optimizer = KFAC(
        problem.model.named_parameters(),
        lr=0.1,
        momentum=0.9,
        momentum_of="gradient",
        kl_clip=1e-4,
        fisher="exact",
        statistics_period=1,
        inverse_period=1,
    )
    layers = [module for module in problem.model if hasattr(module, "weight")]
    averages = [torch.zeros_like(matrix(layer)) for layer in layers]
    for _ in range(4):
        starts = [matrix(layer) for layer in layers]
        optimizer.step(problem.objective())
        steps, predicted = [], 0.0
        for layer, average in zip(layers, averages, strict=True):
            state = optimizer.state[layer.weight]
            average.mul_(0.9).add_(0.1 * weight_gradient(layer))
            whole = average * 3  # of the mean over three outputs
            # those of this step's inverses
            steps.append(state["g_inverse"] @ whole @ state["a_inverse"])
            predicted += float(0.1**2 * (steps[-1] * whole).sum())
        assert predicted > 1e-4
        for layer, start, step in zip(layers, starts, steps, strict=True):
            close(matrix(layer), start - 0.1 * (1e-4 / predicted) ** 0.5 * step)


def test_an_exact_step_has_no_other_momentum() -> None:
    with pytest.raises(ValueError, match="momentum_of=direction"):
        KFAC(CASES["mlp_mse"]().model.named_parameters(), step_rule="exact", momentum_of="gradient")


def test_periods() -> None:
    problem = CASES["mlp_ce"]()
    optimizer = KFAC(problem.model.named_parameters(), statistics_period=2, inverse_period=3)
    objective = problem.objective()
    weight = problem.model[0].weight
    passes, updates, inverses = [], [], []
    for _ in range(7):
        before = objective.counts["grad"]
        optimizer.step(objective.on(problem.inputs, problem.targets))
        passes.append(objective.counts["grad"] - before)
        updates.append(optimizer.state[weight]["updates"])
        inverses.append(optimizer.state[weight]["a_inverse"])
    assert passes == [2, 1, 2, 1, 2, 1, 2]
    assert objective.counts["value"] == 7  # the targets of the statistics share the forward pass
    assert updates == [1, 1, 2, 2, 3, 3, 4]
    assert [inverses[i] is inverses[i + 1] for i in range(6)] == [
        True,
        True,
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(("fisher", "gradients"), [("sampled", 2), ("exact", 4), ("empirical", 1)])
def test_cost_of_a_step_with_statistics(fisher: str, gradients: int) -> None:
    problem = CASES["mlp_ce"]()
    objective = problem.objective()
    KFAC(problem.model.named_parameters(), fisher=fisher).step(objective)
    assert objective.counts == {"grad": gradients, "value": 1}
    assert KFAC.needs == {"layers", "sampled"}
