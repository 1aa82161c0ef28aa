"""GGT against the dense root of the matrix it stands for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from optimizers.low_rank import GGT
from tests.optimizers.test_mfac import SIZE, follow, gradients, linear


def entries(rows: np.ndarray, momentum: float) -> np.ndarray:
    """What enters the window: the exponential averages of the gradients."""
    mean, results = np.zeros(rows.shape[1]), []
    for row in rows:
        mean = momentum * mean + (1 - momentum) * row
        results.append(mean)
    return np.stack(results)


def second_moment(means: np.ndarray, window: int, beta2: float, average: bool) -> np.ndarray:
    """The sum over the last vectors of beta2^(2 age) v v', (n, n), over that of the weights if
    asked for."""
    seen = means[-window:]
    weights = beta2 ** (2.0 * np.arange(len(seen))[::-1])
    return (seen.T * weights) @ seen / (weights.sum() if average else 1.0)


@pytest.mark.parametrize(("window", "steps"), [(8, 25), (40, 25), (64, 70)])
@pytest.mark.parametrize("beta2", [0.9, 1.0])
@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_it_is_the_dense_root(
    window: int, steps: int, beta2: float, average: bool, momentum: float
) -> None:
    """beta2=1, the sum and a long window: full-matrix AdaGrad (Duchi, Hazan and Singer, 2011)."""
    model, rows, eps = linear(), gradients(steps), 1e-3
    options = {"window": window, "beta2": beta2, "average": average, "momentum": momentum}
    ours = follow(model, GGT(model.parameters(), lr=0.1, eps=eps, **options), rows).numpy()

    means, theta = entries(rows.numpy(), momentum), np.ones(SIZE)
    for t in range(steps):
        values, vectors = np.linalg.eigh(second_moment(means[: t + 1], window, beta2, average))
        roots = np.sqrt(values.clip(min=0))
        theta = theta - 0.1 * vectors @ ((vectors.T @ means[t]) / (roots + eps))
        assert np.abs(ours[t] - theta).max() < 1e-10 * np.abs(theta - 1).max()


def test_the_root_is_scipys() -> None:
    """One step at full rank, with the matrix's root from Schur's decomposition."""
    model, rows = linear(), gradients(60)
    points = follow(model, GGT(model.parameters(), lr=1.0, eps=1e-2, window=60, momentum=0.0), rows)
    root = np.real(sqrtm(second_moment(rows.numpy(), 60, 1.0, True)))
    step = np.linalg.solve(root + 1e-2 * np.eye(SIZE), rows[-1].numpy())
    np.testing.assert_allclose(
        (points[-2] - points[-1]).numpy(), step, rtol=0, atol=1e-8 * np.abs(step).max()
    )


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_outside_the_window_there_is_nothing_to_move_along(momentum: float) -> None:
    """The paper's factor 1/eps acts on m - U U'm, and m is one of the window's vectors."""
    means = entries(gradients(12).numpy(), momentum)
    basis = np.linalg.svd(means[-5:], full_matrices=False)[2]
    outside = means[-1] - basis.T @ (basis @ means[-1])
    assert np.linalg.norm(outside) < 1e-14 * np.linalg.norm(means[-1]) * 10


def test_a_window_of_one_is_the_normalised_gradient() -> None:
    model, rows = linear(), gradients(6)
    points = follow(model, GGT(model.parameters(), lr=0.1, eps=1e-3, window=1, momentum=0.0), rows)
    lengths = rows.norm(dim=1, keepdim=True)
    expected = 1 - 0.1 * (rows / (lengths + 1e-3)).cumsum(0)
    torch.testing.assert_close(points, expected, rtol=1e-12, atol=1e-14)


def test_parallel_gradients_are_of_rank_one() -> None:
    """And the step has the length lr |g| / (|g| + eps), however many there are."""
    model, row = linear(), gradients(1)
    optimizer = GGT(model.parameters(), lr=0.1, eps=1e-3, window=5, momentum=0.0)
    points = follow(model, optimizer, row.expand(8, -1))
    assert optimizer.telemetry()["rank"] == 1
    step = float((points[-1] - points[-2]).norm())
    assert step == pytest.approx(0.1 * float(row.norm()) / (float(row.norm()) + 1e-3), rel=1e-8)


def test_a_loss_times_c_changes_nothing_where_eps_is_small() -> None:
    points = []
    for factor in (1.0, 1e3):
        model = linear()
        points.append(
            follow(
                model, GGT(model.parameters(), lr=0.1, eps=1e-12, window=6), factor * gradients(20)
            )
        )
    torch.testing.assert_close(*points, rtol=1e-7, atol=1e-8)


def test_condition_is_that_of_the_root() -> None:
    model, rows = linear(), gradients(9)
    optimizer = GGT(model.parameters(), eps=1e-2, window=4, momentum=0.0)
    follow(model, optimizer, rows)
    roots = np.linalg.svd(rows[-4:].numpy() / 2.0, compute_uv=False) + 1e-2
    assert optimizer.telemetry()["condition"] == pytest.approx(roots.max() / roots.min(), rel=1e-8)
    assert optimizer.telemetry()["rank"] == 4
