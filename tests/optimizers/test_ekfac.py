"""EKFAC and the eigen-decomposed K-FAC.

Dense inverses, measured eigenvalues, how these are averaged.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from optimizers.natural_gradient import EKFAC, KFAC
from tests.optimizers.cases import CASES, Problem, Reference, close, mlp

PLAIN: dict[str, object] = {
    "kl_clip": None,
    "momentum": 0.0,
    "statistics_period": 1,
    "inverse_period": 1,
}
MEASURED: dict[str, object] = {**PLAIN, "decay": 0.0}  # the scales are those of the last mini-batch
LAYERS = (nn.Linear, nn.Conv2d)


class Sequence(nn.Module):
    """Tokens (N, T, 3) to one output row: two linear layers share their weights over the
    positions."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.out(torch.tanh(self.hidden(inputs)).mean(1))


def sequence() -> Problem:
    torch.manual_seed(0)
    return Problem(
        Sequence().double(),
        nn.CrossEntropyLoss(),
        torch.randn(5, 4, 3).double(),
        torch.tensor([0, 1, 1, 0, 1]),
    )


def deep(loss_fn: nn.Module, examples: int, activation: type[nn.Module]) -> Problem:
    torch.manual_seed(0)
    model = mlp((4, 5, 3), activation).double()
    classes = isinstance(loss_fn, nn.CrossEntropyLoss)
    targets = torch.randint(3, (examples,)) if classes else torch.randn(examples, 3).double()
    return Problem(model, loss_fn, torch.randn(examples, 4).double(), targets)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    **{
        name: CASES[name] for name in ("mlp_ce", "mlp_ce_sum", "mlp_bce", "mlp_mse_example", "conv")
    },
    "sequence": sequence,
}


def still(method: type[KFAC], problem: Problem, steps: int = 1, **options: object) -> KFAC:
    """The method after steps of length zero."""
    optimizer = method(
        problem.model.named_parameters(), lr=0.0, fallback_lr=0.0, **{**MEASURED, **options}
    )
    objective = problem.objective()
    for _ in range(steps):
        optimizer.step(objective.on(problem.inputs, problem.targets))
    return optimizer


def scale_of(problem: Problem) -> float:
    objective = problem.objective()
    objective.value()
    return objective.scale


def index_of(problem: Problem) -> dict[str, Tensor]:
    """The places of each layer's matrix (out, in + bias) in the flat parameters, by the layer's
    name."""
    places, offset = {}, 0
    for parameter in problem.params:
        places[id(parameter)] = torch.arange(offset, offset + parameter.numel()).view(
            len(parameter), -1
        )
        offset += parameter.numel()
    results = {}
    for name, layer in problem.model.named_modules():
        if isinstance(layer, LAYERS):
            parts = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
            results[name] = torch.cat([places[id(part)] for part in parts], dim=1)
    return results


def state_of(problem: Problem, optimizer: KFAC, name: str) -> dict[str, Tensor]:
    return optimizer.state[problem.model.get_submodule(name).weight]


def stored_curvature(state: dict[str, Tensor]) -> Tensor:
    """The curvature that is kept of a block, dense: Q diag(s) Q', Q = Q_G (x) Q_A."""
    basis = torch.kron(state["g_basis"], state["a_basis"])
    return (basis * state["scales"].flatten()) @ basis.T


# -- K-FAC by eigen-decomposition ------------------------------------------------------------------


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_eigen_is_the_dense_inverse_without_cross_terms(name: str, l2: float) -> None:
    """U = (A (x) G + damping I)^-1 W', where the factored damping inverts (A + pi r I) (x) (G + r /
    pi I)."""
    problem = PROBLEMS[name]()
    scale, gradient = scale_of(problem), Reference(problem, l2).gradient()
    before = {
        name: torch.cat([p.detach().flatten() for p in problem.params])[i]
        for name, i in index_of(problem).items()
    }
    optimizer = KFAC(
        problem.model.named_parameters(),
        lr=0.5,
        damping=0.2,
        fisher="exact",
        inverse="eigen",
        **PLAIN,
    )
    optimizer.step(problem.objective(l2))
    after = torch.cat([p.detach().flatten() for p in problem.params])
    for name, index in index_of(problem).items():
        state = state_of(problem, optimizer, name)
        dense = torch.kron(state["g"], state["a"])
        damped = dense + (0.2 + l2 / scale) * torch.eye(len(dense)).double()
        expected = -0.5 * torch.linalg.solve(damped, gradient[index].flatten() / scale)
        close((after[index] - before[name]).flatten(), expected)
        close(stored_curvature(state), dense)


def test_a_damping_that_moves_is_used_at_once_by_the_eigen_decomposition() -> None:
    ends = []
    for period in (1, 100):
        problem = CASES["mlp_ce"]()
        optimizer = KFAC(
            problem.model.named_parameters(),
            fisher="exact",
            inverse="eigen",
            statistics_period=100,
            inverse_period=period,
            damping_rule="decay",
            damping_decay=0.5,
            kl_clip=None,
        )
        for _ in range(4):
            optimizer.step(problem.objective())
        ends.append(torch.cat([p.detach().flatten() for p in problem.params]))
    close(ends[1], ends[0])


def test_a_factor_without_a_decomposition_keeps_the_last_one() -> None:
    problem = CASES["mlp_ce"]()
    optimizer = KFAC(
        problem.model.named_parameters(), inverse="eigen", statistics_period=100, inverse_period=1
    )
    optimizer.step(problem.objective())
    state, other = (optimizer.state[problem.model[i].weight] for i in (0, 2))
    before = {name: state[name].clone() for name in ("a_basis", "g_basis", "scales")}
    state["g"][0, 0] = float("nan")
    other["a"] *= 2
    doubled = 2 * other["scales"]
    optimizer.step(problem.objective())
    assert optimizer.failures == {"eigen": 1}
    for name, tensor in before.items():
        assert torch.equal(state[name], tensor)
    close(other["scales"], doubled)  # the block beside it is renewed


# -- the measured eigenvalues ----------------------------------------------------------------------


@pytest.mark.parametrize("name", PROBLEMS)
def test_scales_are_the_second_moments_of_the_examples_gradients(name: str) -> None:
    """s = E[(Q_G' W'_n Q_A)^2] with each example's gradient by torch.func, positions of a shared
    weight summed."""
    problem = PROBLEMS[name]()
    rows = Reference(problem).per_example_grads() / scale_of(problem)
    optimizer = still(EKFAC, problem, fisher="empirical")
    for name, index in index_of(problem).items():
        state = state_of(problem, optimizer, name)
        rotated = state["g_basis"].T @ rows[:, index] @ state["a_basis"]
        close(state["scales"], rotated.square().mean(0))


@pytest.mark.parametrize("name", ["mlp_ce", "mlp_ce_sum", "mlp_bce", "mlp_mse_example"])
def test_scales_are_the_diagonal_of_the_exact_block_in_the_basis(name: str) -> None:
    problem = PROBLEMS[name]()
    ggn = Reference(problem).ggn() / scale_of(problem)
    optimizer = still(EKFAC, problem, fisher="exact")
    for name, index in index_of(problem).items():
        state = state_of(problem, optimizer, name)
        basis = torch.kron(state["g_basis"], state["a_basis"])
        block = ggn[index.flatten()][:, index.flatten()]
        close(state["scales"].flatten(), (basis.T @ block @ basis).diagonal())


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize(
    "loss_fn", [nn.CrossEntropyLoss(), nn.MSELoss(reduction="sum")], ids=["ce", "mse_sum"]
)
def test_exact_for_a_single_example(loss_fn: nn.Module, activation: type[nn.Module]) -> None:
    problem = deep(loss_fn, 1, activation)
    ggn = Reference(problem).ggn()
    optimizer = still(EKFAC, problem, fisher="exact")
    for name, index in index_of(problem).items():
        block = ggn[index.flatten()][:, index.flatten()]
        close(scale_of(problem) * stored_curvature(state_of(problem, optimizer, name)), block)


@pytest.mark.parametrize("examples", [2, 5, 12, 40])
@pytest.mark.parametrize("loss_fn", [nn.CrossEntropyLoss(), nn.MSELoss()], ids=["ce", "mse"])
def test_never_further_from_the_exact_block_than_kfac(examples: int, loss_fn: nn.Module) -> None:
    """Theorem 2 of George et al. (2018)."""
    problem = deep(loss_fn, examples, nn.Tanh)
    ggn = Reference(problem).ggn() / scale_of(problem)
    optimizer = still(EKFAC, problem, fisher="exact")
    gained = 0.0
    for name, index in index_of(problem).items():
        state, block = state_of(problem, optimizer, name), ggn[index.flatten()][:, index.flatten()]
        corrected = float((stored_curvature(state) - block).norm())
        plain = float((torch.kron(state["g"], state["a"]) - block).norm())
        assert corrected <= plain + 1e-12 * float(block.norm())
        gained = max(gained, float(plain - corrected))
    assert gained > 1e-4


def test_sampled_scales_average_to_the_exact_ones() -> None:
    problem = deep(nn.CrossEntropyLoss(), 30, nn.Tanh)
    exact = still(EKFAC, problem, fisher="exact")
    sampled = still(
        EKFAC, problem, steps=1, fisher="exact", statistics_period=1, inverse_period=10**6
    )
    for parameter, state in exact.state.items():  # the same basis
        sampled.state[parameter].update(
            {k: v.clone() for k, v in state.items() if k.endswith("_basis")}
        )
    sampled.fisher, sampled.decay = "sampled", 1.0
    objective = problem.objective()
    for state in sampled.state.values():
        if "scale_updates" in state:
            state["scales"].zero_()
            state["scale_updates"] = 0.0
    for _ in range(400):
        sampled.step(objective.on(problem.inputs, problem.targets))
    for layer in (problem.model[0], problem.model[2]):
        expected, scales = (
            exact.state[layer.weight]["scales"],
            sampled.state[layer.weight]["scales"],
        )
        assert sampled.state[layer.weight]["scale_updates"] == 400
        assert float((scales - expected).norm() / expected.norm()) < 0.05


def test_a_step_is_the_dense_solve_with_the_measured_eigenvalues() -> None:
    problem = CASES["mlp_mse"]()
    scale, gradient = scale_of(problem), Reference(problem).gradient()
    before = torch.cat([p.detach().flatten() for p in problem.params])
    optimizer = EKFAC(
        problem.model.named_parameters(), lr=0.5, damping=0.1, fisher="exact", **MEASURED
    )
    optimizer.step(problem.objective())
    after = torch.cat([p.detach().flatten() for p in problem.params])
    for name, index in index_of(problem).items():
        dense = stored_curvature(state_of(problem, optimizer, name))
        damped = dense + 0.1 * torch.eye(len(dense)).double()
        close(
            (after - before)[index].flatten(),
            -0.5 * torch.linalg.solve(damped, gradient[index].flatten() / scale),
        )


# -- how they are averaged -------------------------------------------------------------------------


def test_average_of_the_scales_after_a_renewal() -> None:
    """It begins with the products of the eigenvalues as one update, which the later ones
    outweigh."""
    problem = CASES["mlp_ce"]()
    optimizer = still(EKFAC, problem, steps=0, fisher="exact", decay=0.6, inverse_period=5)
    state = optimizer.state[problem.model[0].weight]
    measured = still(EKFAC, copy.deepcopy(problem), fisher="exact")
    exact = measured.state[measured.param_groups[0]["params"][0]]
    products = exact["g"].new_tensor(0)
    objective = problem.objective()
    for step in range(12):
        optimizer.step(objective.on(problem.inputs, problem.targets))
        if step % 5 == 0:
            values = [torch.linalg.eigvalsh(state[name]).clamp(min=0) for name in ("g", "a")]
            products = torch.outer(*values)
            average, updates = products, 1.0
            assert optimizer.telemetry()["age"] == 0
        updates += 1
        keep = min(1 - 1 / updates, 0.6)
        average = keep * average + (1 - keep) * exact["scales"]
        assert state["scale_updates"] == updates
        close(state["scales"], average, 1e-9)
    assert float((state["scales"] - products).norm()) > 1e-3 * float(products.norm())


def test_equal_periods_do_not_make_it_kfac() -> None:
    """The eigenvalues are measured in the step that renews the basis, too."""
    ends = []
    for method in (EKFAC, KFAC):
        problem = deep(nn.CrossEntropyLoss(), 12, nn.Tanh)
        options = {"inverse": "eigen"} if method is KFAC else {}
        optimizer = method(
            problem.model.named_parameters(), damping=1e-3, fisher="exact", **PLAIN, **options
        )
        optimizer.step(problem.objective())
        ends.append(problem.model[0].weight.detach())
    assert float((ends[0] - ends[1]).norm()) > 1e-3 * float(ends[0].norm())


def test_moments_that_are_not_finite_are_dropped() -> None:
    problem = CASES["mlp_ce"]()
    optimizer = still(EKFAC, problem, fisher="exact", inverse_period=100)
    state = optimizer.state[problem.model[2].weight]
    before = {name: state[name].clone() for name in ("a", "g", "scales")}
    state["g_basis"] *= 1e160  # squares overflow, the factors do not
    optimizer.step(problem.objective())
    assert optimizer.failures["statistics"] == 1
    for name, tensor in before.items():
        assert torch.equal(state[name], tensor)


def test_huge_damping_is_sgd_with_momentum() -> None:
    damping = 1e14
    problem = CASES["mlp_ce"]()
    twin = copy.deepcopy(problem)
    ours = EKFAC(
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
    for ours_now, theirs_now in zip(problem.params, twin.params, strict=True):
        close(ours_now.detach(), theirs_now.detach(), 1e-9)


def test_its_inverse_can_only_be_an_eigen_decomposition() -> None:
    with pytest.raises(ValueError, match="inverse must be one of eigen, got 'cholesky'"):
        EKFAC(mlp().named_parameters(), inverse="cholesky")
    with pytest.raises(ValueError, match="distribution must be one of communication, got 'memory'"):
        EKFAC(mlp().named_parameters(), distribution="memory")
