"""Matrix factorisation.

The truncated SVD is the minimum, the saddle, the invariance, the oracles on index inputs.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from optimizers import Objective
from tasks import SPLITS
from tasks.regression.matrix_factorisation import MatrixFactorisation

torch.set_num_threads(1)
TINY = {"rows": 7, "columns": 5, "rank": 2, "true_rank": 3, "condition": 4.0, "observed": 1.0}


def at(task: MatrixFactorisation, left: Tensor, right: Tensor) -> nn.Module:
    model = task.model(0)
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), (left, right), strict=True):
            parameter.copy_(value)
    return model


def observed_matrix(task: MatrixFactorisation) -> Tensor:
    inputs, targets = task.splits["train"]
    matrix = torch.full_like(task.matrix, math.nan)
    matrix[inputs[:, 0], inputs[:, 1]] = targets
    return matrix


def svd_factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Balanced factors of the best approximation, and the singular values left out."""
    left, singular, right = torch.linalg.svd(matrix, full_matrices=False)
    root = singular[:rank].sqrt()
    return left[:, :rank] * root, right[:rank].T * root, singular[rank:]


def objective_of(task: MatrixFactorisation, model: nn.Module) -> Objective:
    return Objective(model, task.loss_fn, *next(task.batches("train", 0)))


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("rank", [1, 2, 3, 5])
def test_fully_observed_the_truncated_svd_is_the_minimum(rank: int, noise: float) -> None:
    task = MatrixFactorisation(**TINY | {"rank": rank}, noise=noise)
    left, right, rest = svd_factors(observed_matrix(task), rank)
    model = at(task, left, right)
    metrics = task.evaluate(model, "train")
    eckart_young = float(rest.square().sum()) / 35
    assert metrics["loss"] == pytest.approx(eckart_young, rel=1e-10, abs=1e-25)
    objective = objective_of(task, model)
    curvature = objective.hessian()
    assert float(curvature.gradient.norm()) < 1e-12
    assert float(torch.linalg.eigvalsh(curvature.dense())[0]) > -1e-12


def test_matrix_has_its_singular_values_and_entries_of_order_one() -> None:
    task = MatrixFactorisation(rows=40, columns=30, rank=4, true_rank=4, condition=50.0)
    singular = torch.linalg.svdvals(task.matrix) / math.sqrt(40 * 30)
    torch.testing.assert_close(singular[:4], torch.linspace(1, 1 / 50, 4, dtype=torch.float64))
    assert float(singular[4]) < 1e-14
    assert 0.1 < float(task.matrix.square().mean()) < 4


def test_k_squared_directions_are_flat_at_a_solution() -> None:
    task = MatrixFactorisation(**TINY | {"rank": 3})
    left, right, _ = svd_factors(task.matrix, 3)
    eigenvalues = torch.linalg.eigvalsh(objective_of(task, at(task, left, right)).hessian().dense())
    assert int((eigenvalues.abs() < 1e-10).sum()) == 9
    assert float(eigenvalues[9]) > 1e-3


def test_product_is_invariant() -> None:
    task = MatrixFactorisation(rank=3)
    left, right = (parameter.detach() for parameter in task.model(0).parameters())
    mixing = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moved = at(task, left @ mixing, right @ torch.linalg.inv(mixing).T)
    assert task.evaluate(moved, "val") == pytest.approx(
        task.evaluate(at(task, left, right), "val"), rel=1e-9
    )


def test_zero_is_a_saddle() -> None:
    """The Hessian there pairs the factors, -2/(m n) Y.

    Its eigenvalues are plus and minus the singular values.
    """
    task = MatrixFactorisation(**TINY)
    curvature = objective_of(task, at(task, torch.zeros(7, 2), torch.zeros(5, 2))).hessian()
    assert float(curvature.gradient.norm()) == 0
    singular = 2 / 35 * torch.linalg.svdvals(task.matrix)
    torch.testing.assert_close(
        torch.linalg.eigvalsh(curvature.dense())[:6], -singular[:3].repeat_interleave(2)
    )


def test_oracles_take_index_pairs() -> None:
    """The Jacobian of entry (i, j) is v_j in row i of U and u_i in row j of V."""
    task = MatrixFactorisation(**TINY | {"observed": 0.6})
    model = task.model(1)
    left, right = (parameter.detach() for parameter in model.parameters())
    inputs, targets = task.splits["train"]
    expected = torch.zeros(len(inputs), (7 + 5) * 2, dtype=torch.float64)
    for row, (i, j) in enumerate(inputs.tolist()):
        expected[row, 2 * i : 2 * i + 2] = right[j]
        expected[row, 14 + 2 * j : 14 + 2 * j + 2] = left[i]
    objective = objective_of(task, model)
    residuals, jacobian = objective.jacobian()
    factor = math.sqrt(2 / len(inputs))
    torch.testing.assert_close(jacobian, factor * expected)
    torch.testing.assert_close(
        residuals, factor * ((left @ right.T)[inputs[:, 0], inputs[:, 1]] - targets)
    )
    torch.testing.assert_close(objective.ggn().dense(), jacobian.T @ jacobian)
    per_example = objective.per_example_grads()
    torch.testing.assert_close(per_example, 2 * residuals[:, None] / factor * expected)
    objective()
    torch.testing.assert_close(objective.gradient(), per_example.mean(0))
    torch.testing.assert_close(objective.sampled().ggn().dense(), jacobian.T @ jacobian)


def test_hessian_is_that_of_torch_func() -> None:
    task = MatrixFactorisation(**TINY | {"observed": 0.6})
    model = task.model(1)
    inputs, targets = task.splits["train"]

    def loss(flat: Tensor) -> Tensor:
        left, right = flat[:14].view(7, 2), flat[14:].view(5, 2)
        return ((left @ right.T)[inputs[:, 0], inputs[:, 1]] - targets).square().mean()

    flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    torch.testing.assert_close(
        objective_of(task, model).hessian().dense(), torch.func.hessian(loss)(flat)
    )


def test_held_out_entries_are_exact_and_the_error_is_relative() -> None:
    task = MatrixFactorisation(noise=0.5, observed=0.5)
    sizes = {split: task.size(split) for split in SPLITS}
    assert sizes == {"train": 1200, "val": 600, "test": 600}
    model = task.model(2)
    left, right = (parameter.detach() for parameter in model.parameters())
    rows, columns = task.splits["val"][0].T
    exact = task.matrix[rows, columns]
    assert torch.equal(exact, task.splits["val"][1])
    expected = ((left @ right.T)[rows, columns] - exact).norm() / exact.norm()
    assert task.evaluate(model, "val")["error"] == pytest.approx(float(expected))
    rows, columns = task.splits["train"][0].T
    noise = task.splits["train"][1] - task.matrix[rows, columns]
    assert float(noise.std()) == pytest.approx(0.5, rel=0.1)


def test_gauss_newton_recovers_the_held_out_entries() -> None:
    """A plain Levenberg-Marquardt loop.

    Half the entries of an ill-conditioned matrix determine the other half.
    """
    task = MatrixFactorisation(
        rows=20, columns=15, rank=2, true_rank=2, condition=100.0, observed=0.6
    )
    model = task.model(0)
    objective, damping = objective_of(task, model), 1e-2
    for _ in range(60):
        residuals, jacobian = objective.jacobian()
        system = jacobian.T @ jacobian + damping * torch.eye(jacobian.shape[1], dtype=torch.float64)
        step = torch.linalg.solve(system, -jacobian.T @ residuals)
        better = objective.value(step) < residuals @ residuals / 2
        damping = max(damping / 5, 1e-14) if better else damping * 4
        if better:
            with torch.no_grad():
                for parameter, change in zip(model.parameters(), step.split([40, 30]), strict=True):
                    parameter += change.view_as(parameter)
    assert task.evaluate(model, "test")["error"] < 1e-10


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="rank must be at most 40, got 41"):
        MatrixFactorisation(rank=41)
    with pytest.raises(ValueError, match=r"observed must be at most 1, got 1\.5"):
        MatrixFactorisation(observed=1.5)
    with pytest.raises(ValueError, match=r"condition must be at least 1, got 0\.5"):
        MatrixFactorisation(condition=0.5)
    with pytest.raises(
        ValueError, match=r"observed must leave entries to train on .*, got 0\.0001 of 2400"
    ):
        MatrixFactorisation(observed=0.0001)
