"""Gauss-Newton by conjugate gradients: least squares, dense solves, damping, refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from optimizers.least_squares.ggn_cg import GGNCG
from optimizers.linalg.cg import CGResult
from tests.optimizers.cases import CASES, MODELS, Problem, Reference, Residuals, close

EXACT = {"tolerance": 1e-14, "max_iterations": 500, "warm_start": 0.0}


@pytest.fixture
def no_early_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch Martens' stopping rule off, so that CG runs to its tolerance."""
    monkeypatch.setattr("optimizers.least_squares.ggn_cg.relative_progress", lambda: None)


def least_squares(residuals: int = 12, size: int = 5) -> tuple[Problem, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(residuals, size, dtype=torch.float64, generator=generator)
    b = torch.randn(residuals, dtype=torch.float64, generator=generator)
    model = Residuals([0.0] * size, lambda x: matrix @ x)
    return Problem(model, nn.MSELoss(reduction="sum"), torch.zeros(1, 1), b[None]), matrix, b


def flat(problem: Problem) -> Tensor:
    return torch.cat([p.detach().flatten() for p in problem.params])


def test_linear_least_squares_in_one_step() -> None:
    problem, matrix, b = least_squares()
    GGNCG(problem.model.parameters(), damping=0.0, tolerance=1e-14).step(problem.objective())
    close(flat(problem), torch.linalg.lstsq(matrix, b).solution)


@pytest.mark.parametrize("name", ["mlp_ce", "mlp_bce_sum", "mlp_mse", *MODELS])
def test_a_step_is_the_dense_solve_with_scaled_damping(name: str, no_early_stop: None) -> None:
    problem = CASES[name]()
    reference = Reference(problem, 0.1)
    optimizer = GGNCG(problem.model.parameters(), damping=0.4, adaptive=False, **EXACT)
    objective = problem.objective(0.1)
    optimizer.step(objective)
    gradient = reference.gradient()
    damped = reference.ggn() + 0.4 * objective.scale * torch.eye(len(gradient)).double()
    direction = -torch.linalg.solve(damped, gradient)
    moved = flat(problem) - reference.theta
    alpha = float(moved @ direction / direction.square().sum())
    close(moved, alpha * direction, 1e-8)
    assert min(abs(alpha - 0.5**k) for k in range(10)) < 1e-8
    remembered = torch.cat([optimizer.state[p]["direction"].flatten() for p in problem.params])
    close(remembered, direction, 1e-8)


def test_same_trajectory_whatever_the_reduction() -> None:
    ends = []
    for name in ("mlp_mse", "mlp_mse_sum", "mlp_mse_example"):
        problem = CASES[name]()
        optimizer = GGNCG(problem.model.parameters())
        for _ in range(6):
            optimizer.step(problem.objective())
        ends.append(flat(problem))
        assert optimizer.param_groups[0]["damping"] != 1.0
    close(ends[1], ends[0], 1e-6)
    close(ends[2], ends[0], 1e-6)


@pytest.mark.parametrize("name", ["mlp_ce", "mlp_bce", "lstm", "tied", "rosenbrock", "conv_bn"])
def test_the_loss_never_rises_on_one_batch(name: str) -> None:
    problem = CASES[name]()
    optimizer = GGNCG(problem.model.parameters())
    losses = [float(optimizer.step(problem.objective())) for _ in range(15)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.5 * losses[0]


def test_damping_falls_on_a_good_model_and_rises_on_a_bad_one() -> None:
    problem, _, _ = least_squares()
    optimizer = GGNCG(problem.model.parameters(), damping=1.0)
    optimizer.step(problem.objective())
    assert optimizer.param_groups[0]["damping"] == pytest.approx(2 / 3)

    bad = Problem(
        Residuals([3.0], lambda x: torch.atan(x)),
        nn.MSELoss(),
        torch.zeros(1, 1),
        torch.zeros(1, 1).double(),
    )
    optimizer = GGNCG(bad.model.parameters(), damping=1e-6)
    optimizer.step(bad.objective())  # a full Gauss-Newton step overshoots and must be cut
    assert optimizer.param_groups[0]["damping"] == pytest.approx(1.5e-6)
    assert abs(float(flat(bad))) < 3


def test_the_ratio_is_that_of_the_first_trial() -> None:
    """On a quadratic the model is exact at every length, so the damping falls whatever the learning
    rate."""
    for lr in (1.0, 0.5, 0.1):
        problem, _, _ = least_squares()
        optimizer = GGNCG(problem.model.parameters(), lr=lr, damping=1e-6, tolerance=1e-14)
        optimizer.step(problem.objective())
        assert optimizer.param_groups[0]["damping"] == pytest.approx(1e-6 * 2 / 3)


def test_the_learning_rate_is_the_first_length() -> None:
    problem, matrix, b = least_squares()
    GGNCG(problem.model.parameters(), lr=0.25, damping=0.0, tolerance=1e-14).step(
        problem.objective()
    )
    close(flat(problem), 0.25 * torch.linalg.lstsq(matrix, b).solution)


def test_refused_step_leaves_the_parameters_bit_equal() -> None:
    class Cliff(nn.MSELoss):
        def forward(self, input: Tensor, target: Tensor) -> Tensor:
            loss = super().forward(input, target)
            return torch.where(input.detach().sum() == 0, loss, loss + float("inf"))

    problem, _, _ = least_squares()
    problem.loss_fn = Cliff(reduction="sum")
    before = flat(problem).clone()
    optimizer = GGNCG(problem.model.parameters(), damping=1.0, max_trials=3)
    objective = problem.objective()
    loss = optimizer.step(objective)
    assert bool(loss.isfinite())
    assert torch.equal(flat(problem), before)
    assert optimizer.param_groups[0]["damping"] == pytest.approx(1.5)
    assert objective.counts["value"] == 1 + 3


def solution(monkeypatch: pytest.MonkeyPatch, x: float) -> None:
    """Let conjugate gradients answer x."""

    def answer(_product: object, b: Tensor, **_options: object) -> CGResult:
        return CGResult(torch.full_like(b, x), b, 1, [0.0, -1.0], "iterations")

    monkeypatch.setattr("optimizers.least_squares.ggn_cg.conjugate_gradients", answer)


def test_a_direction_that_does_not_descend_cannot_raise_the_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """f = (2 + sin x)^2 rises from 0 and is back at pi.

    A sufficient decrease of a positive slope would be a rise.
    """
    model = Residuals([0.0], lambda x: 2 + torch.sin(x))
    problem = Problem(model, nn.MSELoss(), torch.zeros(1, 1), torch.zeros(1, 1).double())
    solution(monkeypatch, torch.pi - 1e-5)
    GGNCG(model.parameters()).step(problem.objective())
    assert float(flat(problem)) == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_solution_that_is_not_finite_is_forgotten(
    monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    problem, matrix, b = least_squares()
    optimizer = GGNCG(problem.model.parameters(), damping=0.0, tolerance=1e-14)
    with monkeypatch.context() as patched:
        solution(patched, bad)
        optimizer.step(problem.objective())
    assert not flat(problem).any()
    optimizer.step(problem.objective())
    close(flat(problem), torch.linalg.lstsq(matrix, b).solution)


def test_warm_start_is_the_share_of_the_last_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    import optimizers.least_squares.ggn_cg as module

    starts: list[Tensor | None] = []
    original = module.conjugate_gradients

    def spy(product: object, b: Tensor, **options: object) -> CGResult:
        starts.append(options["x0"])  # type: ignore[arg-type]
        return original(product, b, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "conjugate_gradients", spy)
    problem = CASES["mlp_ce"]()
    optimizer = GGNCG(problem.model.parameters(), warm_start=0.9)
    optimizer.step(problem.objective())
    first = torch.cat([optimizer.state[p]["direction"].flatten() for p in problem.params])
    optimizer.step(problem.objective())
    assert starts[0] is None
    assert starts[1] is not None
    close(starts[1], 0.9 * first)
    cold = GGNCG(problem.model.parameters(), warm_start=0.0)
    cold.step(problem.objective())
    cold.step(problem.objective())
    assert starts[2] is starts[3] is None


def test_counts_of_a_step() -> None:
    problem = CASES["mlp_ce"]()
    objective = problem.objective()
    optimizer = GGNCG(problem.model.parameters(), max_iterations=4, tolerance=0.0)
    optimizer.step(objective)
    assert objective.counts == {"value": 2, "grad": 1, "ggnvp": 4}
    optimizer.step(objective.on(problem.inputs, problem.targets))
    assert objective.counts["ggnvp"] == 4 + 5  # the warm start costs one more
    assert GGNCG.needs == {"ggn"}


def test_all_parameters_in_one_group() -> None:
    problem = CASES["mlp_ce"]()
    groups = [{"params": problem.params[:2]}, {"params": problem.params[2:]}]
    with pytest.raises(ValueError, match="GGNCG needs all trainable parameters"):
        GGNCG(groups).step(problem.objective())
