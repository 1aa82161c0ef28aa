"""K-FAC's factors: equal to the exact Gauss-Newton block where theory says so, and to curvlinops'
elsewhere."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from optimizers.natural_gradient.blocks import Block
from optimizers.natural_gradient.kfac import KFAC
from optimizers.natural_gradient.model_blocks import blocks_of
from tests.optimizers.cases import CASES, ExampleBCE, ExampleMSE, Problem, Reference, close, mlp


def observed(
    problem: Problem, fisher: str = "exact", steps: int = 1, l2: float = 0.0, **options: object
) -> KFAC:
    """K-FAC after steps of length zero: factors of the initial point."""
    optimizer = KFAC(
        problem.model.named_parameters(),
        lr=0.0,
        fallback_lr=0.0,
        fisher=fisher,
        statistics_period=1,
        inverse_period=1,
        **options,
    )
    objective = problem.objective(l2)
    for _ in range(steps):
        optimizer.step(objective.on(problem.inputs, problem.targets))
    return optimizer


def scale_of(problem: Problem) -> float:
    objective = problem.objective()
    objective.value()
    return objective.scale


def layers_of(problem: Problem) -> dict[str, nn.Linear | nn.Conv2d]:
    named = problem.model.named_modules()
    return {
        name: m
        for name, m in named
        if isinstance(m, nn.Linear | nn.Conv2d) and m.weight.requires_grad
    }


def block(problem: Problem, layer: nn.Linear | nn.Conv2d, dense: Tensor) -> Tensor:
    """A layer's block of a dense matrix, its rows in the order of the matrix (out, in + bias)."""
    parts, offset = {}, 0
    for parameter in problem.params:
        parts[id(parameter)] = torch.arange(offset, offset + parameter.numel()).view(
            len(parameter), -1
        )
        offset += parameter.numel()
    index = parts[id(layer.weight)]
    if layer.bias is not None and layer.bias.requires_grad:
        index = torch.cat([index, parts[id(layer.bias)]], dim=1)
    return dense[index.flatten()][:, index.flatten()]


def assert_exact_blocks(problem: Problem, optimizer: KFAC) -> None:
    ggn = Reference(problem).ggn()
    scale = scale_of(problem)
    layers = layers_of(problem)
    assert layers
    for layer in layers.values():
        state = optimizer.state[layer.weight]
        close(scale * torch.kron(state["g"], state["a"]), block(problem, layer, ggn))


def make(model: nn.Module, loss_fn: nn.Module, examples: int, inputs: int, outputs: int) -> Problem:
    torch.manual_seed(0)
    model = model.double()
    values = torch.randn(examples, inputs).double()
    classes = torch.randint(outputs, (examples,))
    numbers = torch.rand(examples, outputs).double()
    numbers = numbers.round() if isinstance(loss_fn, nn.BCEWithLogitsLoss) else numbers
    return Problem(
        model, loss_fn, values, classes if isinstance(loss_fn, nn.CrossEntropyLoss) else numbers
    )


LOSSES: dict[str, Callable[[], nn.Module]] = {
    "ce": nn.CrossEntropyLoss,
    "ce_sum": lambda: nn.CrossEntropyLoss(reduction="sum"),
    "bce": nn.BCEWithLogitsLoss,
    "bce_sum": lambda: nn.BCEWithLogitsLoss(reduction="sum"),
    "bce_example": ExampleBCE,
    "mse": nn.MSELoss,
    "mse_sum": lambda: nn.MSELoss(reduction="sum"),
    "mse_example": ExampleMSE,
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU, nn.Sigmoid, nn.Identity])
def test_exact_for_a_single_example(loss: str, activation: type[nn.Module]) -> None:
    problem = make(mlp((4, 5, 4, 3), activation), LOSSES[loss](), 1, 4, 3)
    assert_exact_blocks(problem, observed(problem))


@pytest.mark.parametrize("loss", [name for name in LOSSES if name.startswith("mse")])
@pytest.mark.parametrize("sizes", [(4, 3), (4, 5, 3), (4, 5, 2, 3)])
def test_exact_for_deep_linear_networks_with_squared_error(
    loss: str, sizes: tuple[int, ...]
) -> None:
    problem = make(mlp(sizes, nn.Identity), LOSSES[loss](), 7, sizes[0], sizes[-1])
    assert_exact_blocks(problem, observed(problem))


@pytest.mark.parametrize("frozen", [False, True])
def test_exact_without_a_trained_bias(frozen: bool) -> None:
    model = mlp((4, 5, 3), nn.Identity)
    for layer in (model[0], model[2]):
        if frozen:
            layer.bias.requires_grad_(False)
        else:
            layer.bias = None
    problem = make(model, nn.MSELoss(), 6, 4, 3)
    optimizer = observed(problem)
    assert optimizer.state[model[0].weight]["a"].shape == (4, 4)
    assert_exact_blocks(problem, optimizer)


def test_not_exact_where_theory_says_so() -> None:
    """A control: the comparison can fail."""
    problem = make(mlp(), nn.CrossEntropyLoss(), 12, 4, 3)
    with pytest.raises(AssertionError, match="relative error"):
        assert_exact_blocks(problem, observed(problem))


def test_exact_for_a_convolution_with_one_location() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, (2, 3)), nn.Tanh(), nn.Flatten(), nn.Linear(3, 4))
    problem = make(model, nn.CrossEntropyLoss(), 1, 4, 4)
    problem.inputs = torch.randn(1, 2, 2, 3).double()
    assert_exact_blocks(problem, observed(problem))


# -- curvlinops ------------------------------------------------------------------------------------


def convolutional(loss_fn: nn.Module) -> Problem:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, stride=2),
        nn.Tanh(),
        nn.Conv2d(3, 2, 2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(2, 3),
    )
    problem = make(model, loss_fn, 5, 4, 3)
    problem.inputs = torch.randn(5, 2, 4, 4).double()
    return problem


AGAINST = {
    **{
        f"mlp-{name}": lambda n=name: make(mlp(), LOSSES[n](), 6, 4, 3)
        for name in LOSSES
        if "example" not in name
    },
    **{
        f"conv-{name}": lambda n=name: convolutional(LOSSES[n]())
        for name in LOSSES
        if "example" not in name
    },
    "sequences": CASES["sdpa"],
}


@pytest.mark.parametrize("name", AGAINST)
def test_against_curvlinops(name: str) -> None:
    curvlinops = pytest.importorskip("curvlinops")
    problem = AGAINST[name]()
    optimizer = observed(problem)
    operator = curvlinops.KFACLinearOperator(
        problem.model,
        problem.loss_fn,
        problem.params,
        [(problem.inputs, problem.targets)],
        fisher_type=curvlinops.FisherType.TYPE2,
        separate_weight_and_bias=False,
        check_deterministic=False,
    )
    dense = operator @ torch.eye(sum(p.numel() for p in problem.params)).double()
    for layer in layers_of(problem).values():
        state = optimizer.state[layer.weight]
        close(scale_of(problem) * torch.kron(state["g"], state["a"]), block(problem, layer, dense))


# -- other Fishers, averages -----------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["ce", "bce", "mse_sum"])
def test_sampled_factors_average_to_the_exact_ones(loss: str) -> None:
    problem = make(mlp(), LOSSES[loss](), 40, 4, 3)
    exact, sampled = observed(problem), observed(problem, "sampled", steps=500, decay=1.0)
    for layer in layers_of(problem).values():
        expected, actual = exact.state[layer.weight], sampled.state[layer.weight]
        close(actual["a"], expected["a"])
        assert float((actual["g"] - expected["g"]).norm() / expected["g"].norm()) < 0.03
        assert actual["updates"] == 500


@pytest.mark.parametrize("loss", LOSSES)
def test_empirical_factors_are_those_of_the_true_targets(loss: str) -> None:
    problem = make(mlp((4, 3)), LOSSES[loss](), 6, 4, 3)
    optimizer = observed(problem, "empirical")
    (layer,) = layers_of(problem).values()
    rows = []
    for i in range(6):
        outputs = problem.model(problem.inputs[i : i + 1])
        total = {"ce": nn.CrossEntropyLoss, "bce": nn.BCEWithLogitsLoss, "mse": nn.MSELoss}[
            loss.split("_")[0]
        ]
        value = total(reduction="sum")(outputs, problem.targets[i : i + 1])
        rows.append(torch.autograd.grad(value, outputs)[0][0])
    close(optimizer.state[layer.weight]["g"], sum(torch.outer(g, g) for g in rows) / 6)


def block_of_two() -> Block:
    model = mlp((2, 2))
    return blocks_of(model, {id(p): 0 for p in model.parameters()})[0]


def test_exponential_average_starts_plain() -> None:
    optimizer = KFAC(mlp((2, 2)).parameters(), decay=0.75)
    state: dict[str, object] = {}
    values = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    average = 0.0
    for k, value in enumerate(values, start=1):
        matrix = value * torch.eye(2)
        sums = {"a": matrix.clone(), "g": 2 * 3 * matrix, "rows": torch.tensor(3.0)}
        optimizer._update_statistics(block_of_two(), state, sums, 1.0)
        keep = min(1 - 1 / k, 0.75)
        average = keep * average + (1 - keep) * value
        close(state["a"], average * torch.eye(2), 1e-6)
        close(state["g"], 2 * average * torch.eye(2), 1e-6)
    assert average != pytest.approx(sum(values) / 6)


def test_a_layer_used_twice_sums_inputs_and_averages_gradients() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3, bias=False)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.layer(torch.tanh(self.layer(inputs)))

    problem = make(Twice(), nn.MSELoss(reduction="sum"), 4, 3, 3)
    optimizer = observed(problem, "empirical")
    layer = problem.model.layer
    hidden = layer(problem.inputs)
    middle = torch.tanh(hidden)
    outputs = layer(middle)
    loss = problem.loss_fn(outputs, problem.targets)
    first, second = torch.autograd.grad(loss, [hidden, outputs])
    state = optimizer.state[layer.weight]
    close(state["a"], (problem.inputs.T @ problem.inputs + middle.T @ middle).detach() / 4)
    close(state["g"], (first.T @ first + second.T @ second) / 8)
    assert optimizer.layer_coverage() == {"layer.weight": "kfac"}
