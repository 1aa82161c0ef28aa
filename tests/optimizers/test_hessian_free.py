"""Hessian-free: dense solves, diagonals, backtracking, damping, structural damping, refusals."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from optimizers import UnsupportedError
from optimizers.krylov.hessian_free import HessianFree
from optimizers.krylov.preconditioners import empirical_diagonal, fisher_diagonal
from optimizers.krylov.rotating_part import rotating_part
from optimizers.linalg.cg import conjugate_gradients, geometric
from tasks.vision.autoencoder import Autoencoder
from tests.optimizers.cases import CASES, LOSSES, LSTMNet, Problem, Reference, close, mlp


def flat(problem: Problem) -> Tensor:
    return torch.cat([p.detach().flatten() for p in problem.params])


class PlainRNN(nn.Module):
    """(B, T, 2) to (B, 3): an RNN's last state through a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(2, 4, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.rnn(inputs)[0][:, -1])


def recurrent() -> Problem:
    torch.manual_seed(0)
    targets = torch.randn(5, 3, dtype=torch.float64)
    return Problem(
        PlainRNN().double(), nn.MSELoss(), torch.randn(5, 6, 2, dtype=torch.float64), targets
    )


# -- a step ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp_ce", "mlp_bce_sum", "mlp_mse", "lstm", "tied"])
@pytest.mark.parametrize("preconditioner", ["none", "fisher", "empirical"])
def test_with_cg_run_to_its_end_a_step_is_the_dense_solve(name: str, preconditioner: str) -> None:
    problem = CASES[name]()
    reference = Reference(problem, 0.1)
    options = {
        "progress": 0.0,
        "max_iterations": 800,
        "preconditioner": preconditioner,
        "exponent": 0.5,
    }
    optimizer = HessianFree(problem.model.parameters(), damping=0.4, adaptive=False, **options)
    objective = problem.objective(0.1)
    optimizer.step(objective)
    gradient = reference.gradient()
    damped = reference.ggn() + 0.4 * objective.scale * torch.eye(len(gradient)).double()
    close(optimizer.stored("direction"), -torch.linalg.solve(damped, gradient), 1e-6)


def test_the_kept_iterates_are_those_of_conjugate_gradients() -> None:
    torch.manual_seed(0)
    root = torch.randn(30, 30, dtype=torch.float64)
    matrix, b = root @ root.T + torch.eye(30), torch.randn(30, dtype=torch.float64)
    whole = conjugate_gradients(matrix.mv, b, max_iterations=12, keep=geometric(12))
    assert [number for number, _ in whole.path] == [1, 2, 3, 4, 5, 7, 9, 11, 12]
    for number, iterate in whole.path:
        alone = conjugate_gradients(matrix.mv, b, max_iterations=number)
        assert torch.equal(iterate, alone.x)
        close(
            iterate @ (matrix @ iterate) / 2 - b @ iterate,
            torch.tensor(whole.values[number], dtype=torch.float64),
            1e-10,
        )


def test_the_loss_chooses_the_iterate() -> None:
    """On a valley that the model does not see the last iterate is not the best one."""
    path = [
        (1, torch.tensor([1.0])),
        (2, torch.tensor([2.0])),
        (3, torch.tensor([3.0])),
        (5, torch.tensor([5.0])),
    ]

    class Valley:
        def value(self, step: Tensor) -> Tensor:
            return (step - 2).square().sum() if step < 4 else torch.tensor(float("nan"))

    assert HessianFree._backtracked(Valley(), path)[::2] == (2, 0.0)  # type: ignore[arg-type]
    assert HessianFree._backtracked(Valley(), path[:1])[::2] == (1, 1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["mlp_ce", "mlp_bce", "lstm", "tied", "rosenbrock", "conv_bn"])
def test_the_loss_never_rises_on_one_batch(name: str) -> None:
    problem = CASES[name]()
    optimizer = HessianFree(problem.model.parameters())
    losses = [float(optimizer.step(problem.objective())) for _ in range(12)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.6 * losses[0]


def test_same_trajectory_whatever_the_reduction() -> None:
    ends = []
    for name in ("mlp_mse", "mlp_mse_sum", "mlp_mse_example"):
        problem = LOSSES[name]()
        optimizer = HessianFree(problem.model.parameters(), curvature_share=0.5)
        objective = problem.objective(generator=torch.Generator().manual_seed(0))
        dampings = []
        for _ in range(5):
            optimizer.step(objective.on(problem.inputs, problem.targets))
            dampings.append(optimizer.param_groups[0]["damping"])
        ends.append(flat(problem))
        assert set(dampings) != {1.0}
    close(ends[1], ends[0], 1e-4)
    close(ends[2], ends[0], 1e-4)


def test_the_digits_autoencoder_as_the_literature_trains_it() -> None:
    """The damping falls because rho is measured from d = 0.

    From the warm start it would grow at every step.
    """
    task = Autoencoder()
    model = task.model(0)
    optimizer = HessianFree(model.named_parameters())
    problem = Problem(model, task.loss_fn, *next(task.batches("train", 0)))
    objective = problem.objective(generator=torch.Generator().manual_seed(0))
    before = task.evaluate(model, "train")["squared_error"]
    dampings = []
    while objective.counts["ggnvp"] < 250:
        optimizer.step(objective.on(problem.inputs, problem.targets))
        dampings.append(optimizer.param_groups[0]["damping"])
    after = task.evaluate(model, "train")["squared_error"]
    assert dampings[-1] < 0.1
    assert after < 2 < 5 < before


# -- diagonals and parts ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["mlp_ce", "mlp_ce_sum", "mlp_bce_sum", "mlp_mse", "mlp_mse_example"]
)
def test_the_fisher_diagonal_is_unbiased(name: str) -> None:
    problem = LOSSES[name]()
    objective = problem.objective(0.2, generator=torch.Generator().manual_seed(0))
    draws = torch.stack([fisher_diagonal(objective) for _ in range(800)])
    expected = Reference(problem, 0.2).ggn().diagonal()
    deviation = (draws.mean(0) - expected).abs() / (draws.std(0) / 800**0.5 + 1e-12)
    assert float(deviation.max()) < 5


@pytest.mark.parametrize("name", ["mlp_ce", "mlp_ce_sum", "mlp_bce", "mlp_mse_sum", "conv"])
def test_the_empirical_diagonal_is_the_mean_of_squared_gradients(name: str) -> None:
    problem = CASES[name]()
    objective = problem.objective()
    objective()
    rows = Reference(problem).per_example_grads()
    close(empirical_diagonal(objective), rows.square().mean(0) / objective.scale)


def test_every_example_has_its_turn() -> None:
    problem = LOSSES["mlp_ce"]()
    objective = problem.objective()
    seen = [rotating_part(objective, 0.3, turn).inputs for turn in range(3)]
    assert [len(part) for part in seen] == [2, 2, 2]
    assert torch.equal(torch.cat(seen), problem.inputs)
    assert rotating_part(objective, 1.0, 7) is objective


# -- structural damping ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rnn", "lstm"])
def test_structural_damping_adds_the_gauss_newton_matrix_of_the_hidden_states(kind: str) -> None:
    problem = recurrent() if kind == "rnn" else CASES["lstm"]()
    layer = next(m for m in problem.model.modules() if isinstance(m, nn.RNNBase))
    twin = Problem(copy.deepcopy(problem.model), problem.loss_fn, problem.inputs, problem.targets)
    reference = Reference(problem)

    states: list[Tensor] = []
    twin_layer = next(m for m in twin.model.modules() if isinstance(m, nn.RNNBase))
    twin_layer.register_forward_hook(lambda _, __, output: states.append(output[0]))
    twin.model(twin.inputs)
    hidden = states[0].flatten()
    rows = [
        torch.cat(
            [
                g.flatten()
                for g in torch.autograd.grad(
                    h, twin.params, retain_graph=True, materialize_grads=True
                )
            ]
        )
        for h in hidden
    ]
    jacobian = torch.stack(rows)
    objective = problem.objective()
    dense = objective.ggn(structural=0.7).dense()
    share = 0.7 * objective.scale / len(problem.inputs)
    close(dense, reference.ggn() + share * jacobian.T @ jacobian, 1e-9)
    close(problem.objective().ggn().dense(), reference.ggn(), 1e-9)
    assert not layer._forward_hooks


def test_structural_damping_keeps_the_states_where_they_are() -> None:
    """The larger its weight, the less the first step changes the hidden states, at the same loss
    model otherwise."""
    moved = []
    for structural in (0.0, 1.0, 100.0):
        problem = recurrent()
        layer = next(m for m in problem.model.modules() if isinstance(m, nn.RNNBase))
        before = layer(problem.inputs)[0].detach()
        options = {
            "structural": structural,
            "damping": 0.1,
            "adaptive": False,
            "preconditioner": "none",
        }
        HessianFree(problem.model.parameters(), **options).step(problem.objective())
        moved.append(float((layer(problem.inputs)[0].detach() - before).norm()))
    assert moved[0] > moved[1] > moved[2] > 0


def test_structural_damping_needs_a_recurrent_layer() -> None:
    problem = LOSSES["mlp_ce"]()
    with pytest.raises(UnsupportedError, match="recurrent layer"):
        HessianFree(problem.model.parameters(), structural=0.1).step(problem.objective())


# -- bad input -------------------------------------------------------------------------------------


def test_a_stationary_point_is_named() -> None:
    problem = Problem(
        nn.Linear(2, 1).double(),
        nn.MSELoss(),
        torch.zeros(3, 2).double(),
        torch.zeros(3, 1).double(),
    )
    with torch.no_grad():
        problem.model.bias.zero_()
    before = flat(problem)
    optimizer = HessianFree(problem.model.parameters())
    optimizer.step(problem.objective())
    assert "gradient is zero" in optimizer.stuck
    assert torch.equal(flat(problem), before)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("preconditioner", "jacobi"),
        ("exponent", 2.0),
        ("curvature_share", 0.0),
        ("structural", -1.0),
        ("lr", 0.0),
    ],
)
def test_ranges(option: str, value: object) -> None:
    with pytest.raises(ValueError, match=option):
        HessianFree(mlp().parameters(), **{option: value})


def test_an_unknown_loss_is_refused_by_the_default_preconditioner_only() -> None:
    class Odd(nn.Module):
        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return (outputs - targets).abs().pow(1.5).mean()

    torch.manual_seed(0)
    problem = Problem(
        LSTMNet().double(), Odd(), torch.randn(2, 3, 2).double(), torch.randn(2, 3, 3).double()
    )
    with pytest.raises(UnsupportedError, match="sampled"):
        HessianFree(problem.model.parameters()).step(problem.objective())
    loss = HessianFree(problem.model.parameters(), preconditioner="none").step(problem.objective())
    assert float(problem.objective().value()) < float(loss)
