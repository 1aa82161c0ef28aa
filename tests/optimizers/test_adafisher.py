"""AdaFisher against its equations in numpy, and as released against hooks on the layers and against
momentum."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from optimizers.diagonal import AdaFisher
from optimizers.diagonal.factor_diagonals import Averages
from tests.optimizers.adafisher_cases import Pair, batches, classes, perceptron, tokens, trained
from tests.optimizers.cases import Problem, close, mlp


def kernels() -> Problem:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Conv2d(4, 5, 2, stride=2, bias=False),
        nn.BatchNorm2d(5),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(20, 3, bias=False),
    )
    return classes(model, 2, 4, 4)


def distance(one: Problem, other: Problem) -> float:
    moved = [(a - b).detach().flatten() for a, b in zip(one.params, other.params, strict=True)]
    return float(
        torch.cat(moved).norm() / torch.cat([p.detach().flatten() for p in other.params]).norm()
    )


# -- the paper's form ------------------------------------------------------------------------------


def normalised(values: np.ndarray) -> np.ndarray:
    return (values - values.min()) / (values.max() - values.min())


def by_hand(
    of: Problem, steps: int, period: int, lr: float, gamma: float, damping: float, after: bool
) -> list[np.ndarray]:
    """A perceptron with one hidden layer, forward and backward written out.

    Every weight with its bias.
    """
    w1, b1, w2, b2 = (p.detach().numpy().copy() for p in of.params)
    weights = [np.column_stack([w1, b1]), np.column_stack([w2, b2])]
    means = [np.zeros_like(w) for w in weights]
    factors = [(np.ones(w.shape[1]), np.ones(w.shape[0])) for w in weights]
    for t, (inputs, targets) in enumerate(batches(of, steps)):
        size = len(inputs)
        rows = [np.column_stack([inputs.numpy(), np.ones(size)])]
        hidden = np.tanh(rows[0] @ weights[0].T)
        rows.append(np.column_stack([hidden, np.ones(size)]))
        scores = rows[1] @ weights[1].T
        shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        above = (shares - np.eye(3)[targets.numpy()]) / size
        slopes = [(above @ weights[1][:, :-1]) * (1 - hidden**2), above]
        for i, (a, g) in enumerate(zip(rows, slopes, strict=True)):
            if t % period == 0:
                fresh = (a**2).mean(0), (g**2).mean(0)
                fresh = fresh if after else tuple(normalised(x) for x in fresh)
                factors[i] = tuple(
                    gamma * old + (1 - gamma) * new
                    for old, new in zip(factors[i], fresh, strict=True)
                )
            means[i] = 0.9 * means[i] + 0.1 * g.T @ a
        for i, (h, s) in enumerate(factors):
            h, s = (normalised(h), normalised(s)) if after else (h, s)
            diagonal = np.diag(np.kron(np.diag(s), np.diag(h))).reshape(len(s), len(h)) + damping
            weights[i] -= lr * means[i] / (1 - 0.9 ** (t + 1)) / diagonal
    return [part for w in weights for part in (w[:, :-1], w[:, -1])]


@pytest.mark.parametrize("period", [1, 3])
@pytest.mark.parametrize("normalize", ["observation", "average"])
def test_it_is_the_papers_recursion(period: int, normalize: str) -> None:
    """The averages begin with ones in the recursion by hand, which normalising them afterwards
    takes out."""
    ours, twin = perceptron(), perceptron()
    trained(
        ours, 30, lr=3e-3, gamma=0.7, damping=0.02, statistics_period=period, normalize=normalize
    )
    expected = by_hand(twin, 30, period, 3e-3, 0.7, 0.02, normalize == "average")
    for one, other in zip(ours.params, expected, strict=True):
        close(one.detach(), torch.from_numpy(other), 1e-10)
    assert distance(ours, perceptron()) > 0.02


def test_a_groups_rate_and_damping_are_its_own() -> None:
    """The first step's direction depends on neither of the other group's."""
    both, first, second = perceptron(), perceptron(), perceptron()
    named = list(both.model.named_parameters())
    groups = [{"params": named[:2]}, {"params": named[2:], "lr": 0.01, "damping": 0.5}]
    method = AdaFisher(groups, lr=3e-3, damping=0.02)
    method.step(both.objective())
    AdaFisher(first.model.named_parameters(), lr=3e-3, damping=0.02).step(first.objective())
    AdaFisher(second.model.named_parameters(), lr=0.01, damping=0.5).step(second.objective())
    for one, other in zip(both.params, first.params[:2] + second.params[2:], strict=True):
        close(one.detach(), other.detach(), 1e-14)
    assert distance(second, first) > 1e-4


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_factors_do_not_depend_on_the_scale_of_the_loss(reduction: str) -> None:
    problem = perceptron()
    problem.loss_fn = nn.CrossEntropyLoss(reduction=reduction)
    method = AdaFisher(problem.model.named_parameters(), lr=0.0)
    method.step(problem.objective())
    held = method.state[problem.params[0]]
    rows = problem.inputs.square().mean(0)
    expected = torch.cat([rows, torch.ones(1).double()])
    close(
        held["a"],
        0.8 + 0.2 * (expected - expected.min()) / (expected.max() - expected.min()),
        1e-12,
    )
    assert float(held["g"].min()) == pytest.approx(0.8)
    assert float(held["g"].max()) == pytest.approx(1)


def test_the_spread_is_that_of_the_dense_matrix() -> None:
    problem = kernels()
    method = trained(problem, 7, lr=1e-4, statistics_period=2)
    numbers = []
    for block in method._blocks or []:
        state = method.state[block.parameters[0]]
        numbers += torch.kron(state["g"].flatten(), state["a"].flatten()).tolist()
    largest, smallest = max(numbers) + 1e-3, min(numbers) + 1e-3
    assert method.telemetry()["spread"] == pytest.approx(largest / smallest, rel=1e-12)
    assert sum(p.numel() for p in problem.params) == len(numbers)


def test_a_factor_without_a_range() -> None:
    values = torch.full((3,), 2.0)
    assert Averages(0.8, 0.2).normalised(values).tolist() == [1, 1, 1]
    assert Averages.released(0.8).normalised(values).tolist() == [0, 0, 0]
    problem = classes(nn.Sequential(nn.Linear(6, 1), nn.Linear(1, 3)), 6)
    method = trained(problem, 3, lr=1e-3, statistics_period=1)
    assert method.state[problem.params[0]]["g"].tolist() == [1]


# -- as released -----------------------------------------------------------------------------------


def layer_numbers(layer: nn.Module, a: Tensor, g: Tensor) -> Pair:
    """What the released code takes for H and S of a layer, from its input and output gradient."""
    size = len(a)
    if isinstance(layer, nn.BatchNorm2d | nn.LayerNorm):
        rest = [axis for axis in range(a.ndim) if axis != 1]
        sums = a.sum(rest) / (a[0, 0].numel()) ** 2
        squared = torch.stack([sums.square().sum(), torch.tensor(float(len(sums)))]) / size**2
        axes = (0, 2, 3) if a.ndim == 4 else tuple(range(a.ndim - 1))
        return squared, g.sum(axes).square() / size
    if isinstance(layer, nn.Conv2d):
        unfolded = F.unfold(a, layer.kernel_size, padding=layer.padding, stride=layer.stride)
        a, g = unfolded.transpose(1, 2), g.flatten(2).transpose(1, 2)
    a, g = a.flatten(0, -2), g.flatten(0, -2)
    columns = a if layer.bias is None else torch.cat([a, torch.ones(len(a), 1).double()], 1)
    return columns.square().mean(0), g.square().mean(0)


def released(
    of: Problem, steps: int, period: int, lr: float, decay: float, decoupled: bool
) -> list[Tensor]:
    """The released update with hooks of our own; returns F of all parameters in the last step."""
    layers = [m for m in of.model.modules() if hasattr(m, "weight")]
    held: dict[nn.Module, dict[str, Tensor]] = {layer: {} for layer in layers}
    for layer in layers:
        layer.register_forward_hook(
            lambda layer, inputs, _: held[layer].update(a=inputs[0].detach())
        )
        layer.register_full_backward_hook(
            lambda layer, _, slopes: held[layer].update(g=slopes[0].detach())
        )
    factors: dict[nn.Module, Pair] = {}
    means = {p: torch.zeros_like(p) for p in of.params}
    last: list[Tensor] = []
    for t, (inputs, targets) in enumerate(batches(of, steps)):
        of.model.zero_grad()
        of.loss_fn(of.model(inputs.requires_grad_()), targets).backward()
        last = []
        for layer in layers:
            if t % period == 0:
                new = layer_numbers(layer, **held[layer])
                old = factors.get(layer, tuple(map(torch.ones_like, new)))
                fresh = [(x - x.min()) / (x.max() - x.min() + 1e-12) for x in new]
                factors[layer] = tuple(
                    0.08 * x + 0.008 * y for x, y in zip(old, fresh, strict=True)
                )  # type: ignore[assignment]
            h, s = factors[layer]
            matrix = torch.outer(s, h) + 1e-3
            parts = [matrix] if layer.bias is None else [matrix[:, :-1], matrix[:, -1:]]
            for p, part in zip(layer.parameters(recurse=False), parts, strict=True):
                assert p.grad is not None
                means[p] = 0.9 * means[p] + 0.1 * (
                    p.grad if decoupled else p.grad + decay * p.detach()
                )
                change = means[p] / (1 - 0.9 ** (t + 1)) / part.reshape(p.shape)
                p.data -= lr * (change + decay * p.data * decoupled)
                last.append(part.flatten())
    return last


@pytest.mark.parametrize("make", [perceptron, kernels, tokens])
@pytest.mark.parametrize("decoupled", [True, False])
def test_as_released_it_is_the_released_update(
    make: Callable[[], Problem], decoupled: bool
) -> None:
    ours, twin = make(), make()
    options = {"lr": 3e-4, "weight_decay": 0.02, "decoupled": decoupled}
    method = trained(ours, 25, as_released=True, statistics_period=10, **options)
    numbers = torch.cat(released(twin, 25, 10, 3e-4, 0.02, decoupled))
    assert distance(ours, twin) < 1e-11
    assert method.telemetry()["spread"] == pytest.approx(
        float(numbers.max() / numbers.min()), rel=1e-9
    )


def digits() -> Problem:
    data = load_digits()
    torch.manual_seed(0)
    images = torch.tensor(data.data) / 16
    return Problem(
        mlp((64, 32, 10), nn.ReLU).double(),
        nn.CrossEntropyLoss(),
        images,
        torch.tensor(data.target),
    )


def test_as_released_it_is_momentum_with_one_number_for_all_parameters() -> None:
    """F replaced by a scalar that knows nothing of the network.

    At the end they are 1/20 of the way apart.
    """
    ours, twin = digits(), digits()
    method, objective = AdaFisher(ours.model.named_parameters(), as_released=True), ours.objective()
    other = twin.objective()
    means = [torch.zeros_like(p) for p in twin.params]
    level, losses, spreads = 1.0, [], []
    for t, batch in enumerate(batches(ours, 300)):
        losses.append((float(method.step(objective.on(*batch))), float(other.on(*batch)())))
        spreads.append(method.telemetry()["spread"])
        if t % 100 == 0:
            level = 0.08 * level + 0.008 / 2
        with torch.no_grad():
            for p, mean in zip(twin.params, means, strict=True):
                assert p.grad is not None
                mean.lerp_(p.grad, 0.1)
                p -= 1e-3 / (level**2 + 1e-3) / (1 - 0.9 ** (t + 1)) * mean
    first, second = torch.tensor(losses).mean(0).tolist()
    assert first == pytest.approx(second, rel=0.03)
    assert first < 0.5 * losses[0][0]
    assert distance(ours, twin) < 0.05 * distance(ours, digits())
    assert spreads[0] == pytest.approx((0.088**2 + 1e-3) / (0.08**2 + 1e-3), rel=1e-3)
    assert spreads[0] > spreads[100] > spreads[200]
    assert spreads[200] < 1.1


def test_in_the_papers_form_the_spread_grows() -> None:
    """With averages that are averages the smallest entry goes to zero, and F to the damping
    there."""
    spreads = [
        trained(perceptron(), n, lr=1e-4, statistics_period=1).telemetry()["spread"]
        for n in (1, 5, 40)
    ]
    assert spreads[0] == pytest.approx((1 + 1e-3) / (0.8**2 + 1e-3), rel=1e-9)
    assert spreads[0] < spreads[1] < spreads[2]
    assert spreads[2] > 100


def test_normalised_afterwards_it_is_there_at_once() -> None:
    method = trained(perceptron(), 1, lr=1e-4, normalize="average")
    assert method.telemetry()["spread"] == pytest.approx(1 + 1e3, rel=1e-9)
    with pytest.raises(ValueError, match="take normalize=observation"):
        AdaFisher(perceptron().params, as_released=True, normalize="average")
