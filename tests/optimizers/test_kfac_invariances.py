"""What must not matter to K-FAC.

The order and grouping of parameters, parts, precision, coordinates of the layers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from optimizers.linalg.flat import add_, flatten
from optimizers.natural_gradient import EKFAC, KFAC
from tests.optimizers.cases import CASES, Problem, close

Options = Mapping[str, object]

PLAIN: Options = {"statistics_period": 2, "inverse_period": 3}
QUADRATIC: Options = {
    **PLAIN,
    "step_rule": "exact",
    "damping_rule": "adaptive",
    "damping_period": 2,
}
WAYS: dict[str, tuple[type[KFAC], Options]] = {
    "kfac": (KFAC, PLAIN),
    "eigen": (KFAC, {**PLAIN, "inverse": "eigen", "shared_weights": "reduce"}),
    "quadratic": (KFAC, QUADRATIC),
    "staggered": (KFAC, {**PLAIN, "staggered": True}),
    "ekfac": (EKFAC, PLAIN),
    "ekfac quadratic": (EKFAC, QUADRATIC),
}


def run(problem: Problem, optimizer: KFAC, steps: int = 6, **options: object) -> Tensor:
    """Where some steps lead, with the same drawn targets for all."""
    objective = problem.objective(0.01, generator=torch.Generator().manual_seed(3), **options)
    for _ in range(steps):
        optimizer.step(objective.on(problem.inputs, problem.targets))
    return flatten(problem.params).detach()


# -- order, groups, parts --------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["mlp_ce", "conv_bn", "tied"])
def test_the_order_of_the_parameters_does_not_matter(way: str, name: str) -> None:
    method, options = WAYS[way]
    problem, other = CASES[name](), CASES[name]()
    expected = run(problem, method(problem.model.named_parameters(), **options))
    shuffled = list(other.model.named_parameters())[::-1]
    close(run(other, method(shuffled, **options)), expected)


@pytest.mark.parametrize("way", WAYS)
def test_two_groups_of_equal_settings_are_one(way: str) -> None:
    method, options = WAYS[way]
    problem, other = CASES["conv_bn"](), CASES["conv_bn"]()
    expected = run(problem, method(problem.model.parameters(), **options))
    layers = [layer for layer in other.model if list(layer.parameters())]
    groups = [
        {"params": list(layers[0].parameters())},
        {"params": [p for m in layers[1:] for p in m.parameters()]},
    ]
    close(run(other, method(groups, **options)), expected)


@pytest.mark.parametrize("fisher", ["exact", "empirical", "sampled"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["mlp_ce_sum", "mlp_bce", "conv", "lstm"])
def test_a_batch_in_parts_is_the_whole_batch(fisher: str, way: str, name: str) -> None:
    method, options = WAYS[way]
    ends = []
    for parts in (1, 3):
        problem = CASES[name]()
        optimizer = method(problem.model.named_parameters(), fisher=fisher, **options)
        ends.append(run(problem, optimizer, 5, parts=parts))
    close(ends[1], ends[0], 1e-8)


# -- coordinates -----------------------------------------------------------------------------------


class Transformed(nn.Module):
    """s = P V Q abar with trained V and fixed P, Q: a linear layer whose weight is W = P V Q."""

    def __init__(self, weight: Tensor, left: Tensor, right: Tensor) -> None:
        super().__init__()
        self.inner = nn.Linear(weight.shape[1], weight.shape[0], bias=False).double()
        self.inner.weight.data = torch.linalg.solve(left, weight) @ torch.linalg.inv(right)
        self.left, self.right = left, right

    def forward(self, inputs: Tensor) -> Tensor:
        homogeneous = torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1)
        return self.inner(homogeneous @ self.right.T) @ self.left.T


def regression(transform: bool) -> Problem:
    """A network of two layers on 40 examples, in coordinates of its own or in others."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    shapes = ((4, 4), (3, 5))
    weights = [normal(*shape) for shape in shapes]
    maps = [(normal(out, out), normal(fan_in, fan_in)) for out, fan_in in shapes]
    inputs, targets = normal(40, 3), normal(40, 3)
    if not transform:
        maps = [(torch.eye(out).double(), torch.eye(fan_in).double()) for out, fan_in in shapes]
    first, second = (Transformed(weight, *pair) for weight, pair in zip(weights, maps, strict=True))
    return Problem(nn.Sequential(first, nn.Tanh(), second), nn.MSELoss(), inputs, targets)


def outputs_along(
    optimizer_of: Callable[[nn.Module], KFAC], transform: bool, steps: int = 10
) -> Tensor:
    """The network's outputs after each of some steps."""
    problem = regression(transform)
    optimizer, seen = optimizer_of(problem.model), []
    for _ in range(steps):
        optimizer.step(problem.objective())
        seen.append(problem.model(problem.inputs).detach())
    return torch.stack(seen)


COORDINATES: dict[str, tuple[type[KFAC], Options]] = {
    "cholesky": (KFAC, {"lr": 0.3, "momentum": 0.5}),
    "eigen": (KFAC, {"lr": 0.3, "momentum": 0.5, "inverse": "eigen"}),
    "clipped": (KFAC, {"lr": 0.3, "momentum": 0.5, "kl_clip": 1e-3}),
    "quadratic": (KFAC, {"step_rule": "exact"}),
    "ekfac": (EKFAC, {"lr": 0.3, "momentum": 0.5}),
}


@pytest.mark.parametrize("way", COORDINATES)
def test_affine_coordinates_of_every_layer_do_not_matter(way: str) -> None:
    """Martens and Grosse (2015), section 10.

    Without damping the functions along the way are the same.

    The eigenvalue correction depends on the basis, and gives this up.
    """
    method, chosen = COORDINATES[way]
    options = {
        "kl_clip": None,
        "damping": 1e-17,
        "fisher": "exact",
        "statistics_period": 1,
        "inverse_period": 2,
        **chosen,
    }

    def make(model: nn.Module) -> KFAC:
        return method(model.named_parameters(), **options)

    plain, moved = outputs_along(make, False), outputs_along(make, True)
    start = regression(False)
    close(regression(True).model(start.inputs).detach(), start.model(start.inputs).detach())
    assert float((plain[-1] - plain[0]).norm()) > 0.1 * float(plain[0].norm())
    if method is KFAC:
        close(moved, plain, 1e-6)
    else:
        assert float((moved - plain).norm()) > 1e-3 * float(plain.norm())


def test_damping_breaks_it() -> None:
    """A control: the comparison can fail."""

    def make(model: nn.Module) -> KFAC:
        return KFAC(model.named_parameters(), lr=0.3, fisher="exact", damping=1.0)

    assert float((outputs_along(make, True) - outputs_along(make, False)).abs().max()) > 1e-2


# -- precision -------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["kfac", "ekfac"])
def test_autocast_keeps_the_factors_in_single_precision(way: str) -> None:
    method, options = WAYS[way]
    results = []
    for autocast in (False, True):
        problem = CASES["conv_bn"]()
        problem.model.float()
        problem.inputs = problem.inputs.float()
        optimizer = method(problem.model.named_parameters(), fisher="exact", **options)
        optimizer.step(problem.objective(autocast=autocast))
        results.append(
            {(i, k): v for i, p in enumerate(problem.params) for k, v in optimizer.state[p].items()}
        )
        run(problem, optimizer, 5, autocast=autocast)
        for state in optimizer.state.values():
            tensors = [value for value in state.values() if isinstance(value, Tensor)]
            assert all(
                tensor.dtype == torch.float32 and bool(tensor.isfinite().all())
                for tensor in tensors
            )
        assert not optimizer.failures
    single, mixed = results
    assert mixed.keys() == single.keys()
    for (number, key), value in single.items():
        if key in ("a", "g", "b"):
            assert float((mixed[number, key] - value).norm()) <= 0.03 * float(value.norm())


@pytest.mark.parametrize("way", ["kfac", "ekfac", "quadratic"])
def test_single_precision_follows_double_precision(way: str) -> None:
    method, options = WAYS[way]
    ends = []
    for dtype in (torch.float64, torch.float32):
        problem = CASES["mlp_bce"]()
        problem.model.to(dtype)
        problem.inputs, problem.targets = problem.inputs.to(dtype), problem.targets.to(dtype)
        optimizer = method(problem.model.named_parameters(), fisher="exact", **options)
        ends.append(run(problem, optimizer, 5).double())
    close(ends[1], ends[0], 1e-4)


# -- modules ---------------------------------------------------------------------------------------


class Chain(nn.Module):
    """A square layer applied twice: one module, or two that share the weight."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.second = self.first
        if shared:
            self.second = nn.Linear(4, 4, bias=False)
            self.second.weight = self.first.weight
        self.out = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.out(torch.tanh(self.second(torch.tanh(self.first(inputs)))))


@pytest.mark.parametrize("way", WAYS)
def test_a_module_used_twice_is_two_that_share_the_weight(way: str) -> None:
    method, options = WAYS[way]
    ends = []
    for shared in (False, True):
        problem = CASES["mlp_ce"]()
        torch.manual_seed(1)
        problem.model = Chain(shared).double()
        torch.manual_seed(2)
        for parameter in problem.params:
            nn.init.normal_(parameter)
        optimizer = method(problem.model.named_parameters(), **options)
        ends.append(run(problem, optimizer))
        assert set(optimizer.layer_coverage().values()) == {method.rule}
    close(ends[1], ends[0])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("frozen", [0, 2])
def test_frozen_layers_stay_and_change_nothing_for_the_others(way: str, frozen: int) -> None:
    method, options = WAYS[way]
    problem, whole = CASES["mlp_ce"](), CASES["mlp_ce"]()
    problem.model[frozen].requires_grad_(False)
    before = copy.deepcopy(problem.model[frozen].state_dict())
    optimizer = method(
        [p for p in problem.model.parameters() if p.requires_grad], fisher="exact", **options
    )
    other = method(whole.model.parameters(), fisher="exact", **options)
    optimizer.step(problem.objective())
    other.step(whole.objective())
    trained = 2 - frozen
    ours, theirs = (
        o.state[p.model[trained].weight] for o, p in ((optimizer, problem), (other, whole))
    )
    for key in ("a", "g"):
        close(ours[key], theirs[key])
    run(problem, optimizer)
    for key, value in problem.model[frozen].state_dict().items():
        assert torch.equal(value, before[key])
    assert all(p.grad is None for p in problem.model[frozen].parameters())


def test_trials_leave_a_module_with_two_names_its_parameters() -> None:
    problem = CASES["mlp_ce"]()
    problem.model = Chain(shared=False).double()
    weight, objective = problem.model.first.weight, problem.objective()
    step = torch.linspace(-1, 1, len(flatten(problem.params))).double()
    loss, gradient = objective.value_and_gradient(step)
    close(objective.per_example_grads().mean(0), objective.value_and_gradient()[1])
    assert problem.model.first.weight is problem.model.second.weight is weight
    add_([p.data for p in problem.params], step)
    close(loss, objective.value())
    close(gradient, objective.value_and_gradient()[1])
