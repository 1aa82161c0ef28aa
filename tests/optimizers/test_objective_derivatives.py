"""Every oracle against a naive dense reference in float64, over models, losses, reductions and
regularisers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev
from torch.func import hessian as dense_hessian

from optimizers import Objective
from optimizers.linalg.flat import flatten, unflatten
from tests.optimizers.cases import CASES, COUPLED, LOSSES, RANDOM, Problem, Reference, close, mlp

every_case = pytest.mark.parametrize("name", CASES)
with_l2 = pytest.mark.parametrize("l2", [0.0, 0.3])
SQUARED = [name for name in CASES if isinstance(CASES[name]().loss_fn, nn.MSELoss)]


@every_case
@with_l2
def test_loss_and_gradient(name: str, l2: float) -> None:
    problem = CASES[name]()
    reference = Reference(problem, l2)
    objective = problem.objective(l2)
    loss = objective()
    close(loss, reference.loss(reference.theta))
    assert not loss.requires_grad
    close(objective.gradient(), reference.gradient())
    close(objective.value(), loss)


@every_case
@with_l2
def test_hessian(name: str, l2: float) -> None:
    problem = CASES[name]()
    reference = Reference(problem, l2)
    expected = reference.hessian()
    hessian = problem.objective(l2).hessian()
    close(hessian.loss, reference.loss(reference.theta))
    close(hessian.gradient, reference.gradient())
    close(hessian.dense(), expected)
    vectors = torch.randn(2, len(expected), dtype=torch.float64)
    for vector in vectors:
        close(hessian(vector), expected @ vector)
    assert not hessian(vectors[0]).requires_grad
    assert not hessian.loss.requires_grad
    assert not hessian.gradient.requires_grad


@every_case
@with_l2
def test_ggn(name: str, l2: float) -> None:
    problem = CASES[name]()
    reference = Reference(problem, l2)
    expected = reference.ggn()
    ggn = problem.objective(l2).ggn()
    close(ggn.loss, reference.loss(reference.theta))
    close(ggn.gradient, reference.gradient())
    dense = ggn.dense(chunk=7)
    close(dense, expected)
    assert torch.equal(dense, dense.T)
    eigenvalues = torch.linalg.eigvalsh(dense)
    assert float(eigenvalues[0]) >= l2 - 1e-12 * float(eigenvalues[-1])
    u, v = torch.randn(2, len(expected), dtype=torch.float64)
    close(ggn(v), expected @ v)
    close(u @ ggn(v), v @ ggn(u))
    assert not ggn(v).requires_grad


@pytest.mark.parametrize("name", SQUARED)
@with_l2
def test_jacobian_gives_loss_gradient_and_curvature(name: str, l2: float) -> None:
    problem = CASES[name]()
    reference = Reference(problem, l2)
    residuals, jacobian = problem.objective(l2).jacobian()
    close(residuals.square().sum() / 2, reference.loss(reference.theta))
    close(jacobian.T @ residuals, reference.gradient())
    close(jacobian.T @ jacobian, reference.ggn())
    assert not residuals.requires_grad
    assert not jacobian.requires_grad


@pytest.mark.parametrize("way", ["examples", "graph"])
@pytest.mark.parametrize(
    ("hidden", "examples", "tall"), [(5, 2, False), (5, 40, True), (60, 80, False), (40, 80, True)]
)
def test_jacobian_wide_and_tall(
    monkeypatch: pytest.MonkeyPatch, hidden: int, examples: int, tall: bool, way: str
) -> None:
    """By examples, by rows or by columns, with fewer and with more of them than one vectorised
    chunk holds."""
    if way == "graph":
        monkeypatch.setattr("optimizers.objective.problem.couples", lambda norm: True)
        monkeypatch.setattr("optimizers.objective.residuals.jacobian_by_examples", None)
        # the more expensive way
        monkeypatch.setattr(
            f"optimizers.objective.jacobian.{'_by_rows' if tall else '_by_columns'}", None
        )
    else:
        monkeypatch.setattr("optimizers.objective.residuals.jacobian_by_graph", None)
    torch.manual_seed(1)
    outputs = 4
    model = mlp((2, hidden, outputs)).double()
    if way == "graph":
        model.append(nn.BatchNorm1d(outputs, affine=False).double().eval())
    problem = Problem(
        model,
        nn.MSELoss(),
        torch.randn(examples, 2).double(),
        torch.randn(examples, outputs).double(),
    )
    size = sum(p.numel() for p in model.parameters())
    assert (examples * outputs > size) is tall
    assert (min(examples * outputs, size) > 256) is (examples == 80)
    residuals, jacobian = problem.objective().jacobian()
    factor = (2 / (examples * outputs)) ** 0.5
    close(residuals, factor * (model(problem.inputs) - problem.targets).detach().flatten())
    params = {name: p.detach() for name, p in model.named_parameters()}
    parts = jacrev(lambda p: functional_call(model, p, (problem.inputs,)))(params)
    expected = torch.cat([part.reshape(examples * outputs, -1) for part in parts.values()], dim=1)
    close(jacobian, factor * expected)


@pytest.mark.parametrize("name", ["dropout", "lstm", "conv_bn"])
def test_jacobian_where_examples_cannot_be_taken_apart(name: str) -> None:
    """Random masks, recurrent layers (their kernels have no batching rule), coupled examples."""
    problem = CASES[name]()
    outputs = Reference(problem).outputs(Reference(problem).theta)
    problem.loss_fn, problem.targets = nn.MSELoss(reduction="sum"), torch.zeros_like(outputs)
    reference = Reference(problem)
    _, jacobian = problem.objective().jacobian()
    close(jacobian, 2**0.5 * reference.jacobian(), 1e-8)


@pytest.mark.parametrize("name", [name for name in CASES if name not in COUPLED])
@with_l2
def test_per_example_grads(name: str, l2: float) -> None:
    problem = CASES[name]()
    reference = Reference(problem, l2)
    objective = problem.objective(l2)
    rows = objective.per_example_grads()
    close(rows, reference.per_example_grads())
    close(rows.mean(0), reference.gradient())
    objective()
    close(rows.mean(0), objective.gradient())
    assert not rows.requires_grad


@pytest.mark.parametrize("name", sorted(set(LOSSES) | {"tied", "conv"}))
def test_hessian_against_torch_func(name: str) -> None:
    problem = CASES[name]()
    names = [n for n, _ in problem.model.named_parameters()]
    theta = flatten(problem.params).detach()

    def loss(flat: torch.Tensor) -> torch.Tensor:
        params = dict(zip(names, unflatten(flat, problem.params), strict=True))
        return problem.loss_fn(
            functional_call(problem.model, params, (problem.inputs,)), problem.targets
        )

    close(problem.objective().hessian().dense(), dense_hessian(loss)(theta))


@pytest.mark.parametrize("name", [name for name in CASES if name not in RANDOM])
def test_value_at_a_trial_point(name: str) -> None:
    problem = CASES[name]()
    reference = Reference(problem, 0.1)
    objective = problem.objective(0.1)
    step = 0.1 * torch.randn_like(reference.theta)
    before = flatten(problem.params).detach().clone()
    close(objective.value(step), reference.loss(reference.theta + step))
    close(objective.value(), reference.loss(reference.theta))
    assert torch.equal(flatten(problem.params), before)


def test_linear_loss_has_a_zero_curvature() -> None:
    class Plane(nn.Module):
        def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return (outputs * targets).sum()

    model = nn.Linear(2, 1).double()
    inputs, targets = torch.randn(3, 2).double(), torch.randn(3, 1).double()
    objective = Objective(model, Plane(), inputs, targets)
    assert torch.equal(objective.hessian().dense(), torch.zeros(3, 3).double())
    assert torch.equal(objective.ggn().dense(), torch.zeros(3, 3).double())
    close(
        Objective(model, Plane(), inputs, targets, l2=2.0).ggn().dense(), 2 * torch.eye(3).double()
    )
    close(
        Objective(model, Plane(), inputs, targets, l2=2.0).hessian().dense(),
        2 * torch.eye(3).double(),
    )


def test_unused_and_frozen_parameters() -> None:
    class Partial(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.Linear(2, 2)
            self.unused = nn.Linear(2, 1)
            self.frozen = nn.Linear(2, 2).requires_grad_(False)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.used(torch.tanh(self.frozen(inputs)))

    torch.manual_seed(0)
    model = Partial().double()
    problem = Problem(model, nn.MSELoss(), torch.randn(4, 2).double(), torch.randn(4, 2).double())
    objective = problem.objective()
    assert [id(p) for p in objective.params] == [
        id(p) for p in [*model.used.parameters(), *model.unused.parameters()]
    ]
    reference = Reference(problem)
    close(objective.hessian().dense(), reference.hessian())
    close(objective.ggn().dense(), reference.ggn())
    residuals, jacobian = objective.jacobian()
    close(jacobian.T @ residuals, reference.gradient())
    close(objective.per_example_grads(), reference.per_example_grads())
    objective()
    close(objective.gradient(), reference.gradient())
    assert model.unused.weight.grad is None
    assert model.frozen.weight.grad is None


def test_a_mean_over_positions_of_one_dimensional_outputs() -> None:
    """Outputs of shape (N,), as a logistic regression may have them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)).double()
    problem = Problem(
        model, nn.BCEWithLogitsLoss(), torch.randn(5, 3).double(), torch.randint(2, (5,)).double()
    )
    reference = Reference(problem)
    objective = problem.objective()
    close(objective.ggn().dense(), reference.ggn())
    close(objective.per_example_grads(), reference.per_example_grads())
    assert len(objective.scores(fisher="exact")[1]) == 1
    assert objective.sampled().value().isfinite()


def test_batch_normalisation_by_finite_differences() -> None:
    """torch.func's second derivatives of this layer are wrong in torch 2.13, so the reference needs
    a witness."""
    problem = CASES["conv_bn"]()
    objective = problem.objective()
    theta = flatten(objective.params).detach()
    hessian = objective.hessian()
    vector = torch.randn_like(theta)
    product = hessian(vector)
    gradients = []
    for sign in (1, -1):
        moved = CASES["conv_bn"]()
        with torch.no_grad():
            for parameter, part in zip(
                moved.params, unflatten(theta + sign * 1e-5 * vector, moved.params), strict=True
            ):
                parameter.copy_(part)
        other = moved.objective()
        other()
        gradients.append(other.gradient())
    close(product, (gradients[0] - gradients[1]) / 2e-5, 1e-7)


@pytest.mark.parametrize("name", ["multihead", "dropout", "conv_bn", "lstm"])
def test_evaluation_mode(name: str) -> None:
    problem = CASES[name]()
    problem.model.eval()
    reference = Reference(problem)
    objective = problem.objective()
    close(objective.value(), reference.loss(reference.theta))
    close(objective.hessian().dense(), reference.hessian())
    close(objective.ggn().dense(), reference.ggn())
    close(objective.per_example_grads(), reference.per_example_grads())
