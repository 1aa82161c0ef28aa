"""M-FAC against the dense inverse of the Fisher matrix it stands for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from optimizers import Objective, UnsupportedError
from optimizers.low_rank import GGT, MFAC
from tests.optimizers.cases import Identity, mlp

SIZE = 50


def gradients(steps: int, seed: int = 0) -> Tensor:
    """Gradients (steps, n) of different lengths, some of them nearly parallel."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(steps, SIZE, generator=generator, dtype=torch.float64)
    rows[2::3] = rows[1::3][: len(rows[2::3])] + 0.05 * rows[2::3]
    return rows * torch.rand(steps, 1, generator=generator, dtype=torch.float64) / SIZE**0.5


def linear(dtype: torch.dtype = torch.float64) -> nn.Linear:
    """A model whose gradient is its input."""
    model = nn.Linear(SIZE, 1, bias=False).to(dtype)
    nn.init.ones_(model.weight)
    return model


def follow(model: nn.Linear, optimizer: Any, rows: Tensor) -> Tensor:
    """The parameters after each step, (steps, n), where step t has the gradient rows[t]."""
    points = []
    for row in rows:
        optimizer.step(
            Objective(model, Identity(), row[None].to(model.weight.dtype), torch.zeros(1))
        )
        points.append(model.weight.detach().flatten().clone())
    return torch.stack(points)


def by_hand(
    rows: np.ndarray, window: int, damping: float, lr: float, momentum: float, average: str
) -> np.ndarray:
    theta, velocity, points = np.ones(SIZE), np.zeros(SIZE), []
    for t, gradient in enumerate(rows):
        seen = rows[max(0, t + 1 - window) : t + 1]
        count = len(seen) if average == "seen" else window
        fisher = damping * np.eye(SIZE) + seen.T @ seen / count
        velocity = momentum * velocity + (1 - momentum) * np.linalg.solve(fisher, gradient)
        theta = theta - lr * velocity
        points.append(theta)
    return np.stack(points)


@pytest.mark.parametrize(("damping", "tolerance"), [(1e-2, 1e-10), (1e-5, 1e-10)])
@pytest.mark.parametrize(("window", "steps"), [(8, 30), (40, 30), (64, 80)])
@pytest.mark.parametrize("average", ["seen", "window"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_it_is_the_dense_inverse(
    damping: float, tolerance: float, window: int, steps: int, average: str, momentum: float
) -> None:
    """With a window that is longer than the run, as long as the space is wide, and one that turns
    over four times."""
    model, rows = linear(), gradients(steps)
    optimizer = MFAC(
        model.parameters(),
        lr=damping,
        window=window,
        damping=damping,
        momentum=momentum,
        average=average,
    )
    ours = follow(model, optimizer, rows).numpy()
    theirs = by_hand(rows.numpy(), window, damping, damping, momentum, average)
    assert np.abs(ours - theirs).max() < tolerance * np.abs(theirs - 1).max()


@pytest.mark.parametrize("kind", [MFAC, GGT])
def test_weight_decay_is_decoupled(kind: Any) -> None:
    """The gradients do not depend on the parameters here.

    The steps are those without, on parameters that shrink.
    """
    plain, decayed, rows = linear(), linear(), gradients(6)
    free = follow(plain, kind(plain.parameters(), lr=0.01, window=4), rows)
    ours = follow(decayed, kind(decayed.parameters(), lr=0.01, window=4, weight_decay=2.0), rows)
    theta = torch.ones_like(free[0])
    for step, direction in zip(free.diff(dim=0, prepend=theta[None]), ours, strict=True):
        theta = 0.98 * theta + step
        torch.testing.assert_close(direction, theta, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", [MFAC, GGT])
def test_the_gram_matrix_is_that_of_the_window(kind: Any) -> None:
    model = linear()
    optimizer = kind(model.parameters(), window=7)
    follow(model, optimizer, gradients(31))
    state = optimizer.state[model.weight]
    rows = state["window"].flatten(1)
    torch.testing.assert_close(state["gram"], rows @ rows.T, rtol=1e-12, atol=1e-15)


def test_rounded_gradients_make_the_rounded_matrix() -> None:
    model, rows = linear(torch.float32), gradients(25).to(torch.bfloat16).double()
    optimizer = MFAC(model.parameters(), lr=0.01, window=10, damping=1e-2, precision="bfloat16")
    ours = follow(model, optimizer, rows).double().numpy()
    theirs = by_hand(rows.numpy(), 10, 1e-2, 0.01, 0.9, "seen")
    assert optimizer.state[model.weight]["window"].dtype == torch.bfloat16
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs - 1).max()


def test_a_loss_times_c_is_a_damping_over_c_squared_and_a_rate_over_c() -> None:
    c, points = 30.0, []
    for factor in (1.0, c):
        model = linear()
        optimizer = MFAC(model.parameters(), lr=0.01 * factor, damping=1e-3 * factor**2, window=8)
        points.append(follow(model, optimizer, factor * gradients(20)))
    torch.testing.assert_close(*points, rtol=1e-11, atol=1e-12)


def test_shrinkage_is_what_the_inverse_leaves_of_the_gradient() -> None:
    model, rows = linear(), gradients(12)
    optimizer = MFAC(model.parameters(), window=6, damping=1e-2)
    follow(model, optimizer, rows)
    last, seen = rows[-1], rows[-6:]
    fisher = 1e-2 * torch.eye(SIZE, dtype=torch.float64) + seen.T @ seen / 6
    expected = 1e-2 * float(last @ torch.linalg.solve(fisher, last)) / float(last @ last)
    assert optimizer.telemetry()["shrinkage"] == pytest.approx(expected, rel=1e-10)


def test_a_window_that_cannot_be_factored_is_decomposed() -> None:
    """The same gradient again and again, with a damping that rounding swallows."""
    model, row = linear(), gradients(1)
    optimizer = MFAC(model.parameters(), window=5, damping=1e-30, lr=0.1, momentum=0.0)
    points = follow(
        model,
        optimizer,
        row.expand(9, -1) * torch.linspace(1, 1.7, 9, dtype=torch.float64)[:, None],
    )
    assert optimizer.telemetry()["failures/cholesky"] > 0
    assert bool(points.isfinite().all())
    assert float((points[-1] - 1).norm()) > 0


@pytest.mark.parametrize("kind", [MFAC, GGT])
def test_a_window_that_does_not_fit_is_refused_with_what_helps(kind: Any) -> None:
    model = mlp((100, 100, 10))  # 11,110 parameters
    limit = 11_110 * 4 * 20.5 / 2**30
    with pytest.raises(
        UnsupportedError, match=r"set window=20 or precision=bfloat16, or raise max_gib"
    ):
        kind(model.parameters(), window=40, max_gib=limit)
    kind(model.parameters(), window=20, max_gib=limit)
    kind(model.parameters(), window=40, precision="bfloat16", max_gib=limit)
    with pytest.raises(UnsupportedError, match=r"too large for any window"):
        kind(model.parameters(), window=1, max_gib=1e-6)


@pytest.mark.parametrize("kind", [MFAC, GGT])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_state_is_what_the_formula_says(kind: Any, momentum: float) -> None:
    model = linear(torch.float32)
    optimizer = kind(model.parameters(), window=6, momentum=momentum)
    follow(model, optimizer, gradients(3))
    held = sum(t.numel() * t.element_size() for t in optimizer.state[model.weight].values())
    assert held == 4 * (6 * SIZE + (SIZE if momentum else 0) + 2 * 6**2)


@pytest.mark.parametrize("kind", [MFAC, GGT])
def test_a_gradient_whose_square_overflows_changes_nothing(kind: Any) -> None:
    model, rows = linear(torch.float32), gradients(9)
    optimizer = kind(model.parameters(), window=4, precision="bfloat16")
    follow(model, optimizer, rows[:6])
    before = {key: value.clone() for key, value in optimizer.state[model.weight].items()}
    weight = model.weight.detach().clone()
    follow(model, optimizer, 1e25 * rows[6:7])
    assert optimizer.failures["window"] + optimizer.failures["non_finite"] == 1
    assert torch.equal(model.weight, weight)
    assert all(
        torch.equal(value, optimizer.state[model.weight][key]) for key, value in before.items()
    )


def test_a_loaded_window_keeps_its_precision_and_is_one_matrix_again() -> None:
    model, other, rows = linear(), linear(), gradients(14)
    options: dict[str, Any] = {"window": 5, "precision": "bfloat16", "damping": 1e-3}
    optimizer, resumed = MFAC(model.parameters(), **options), MFAC(other.parameters(), **options)
    follow(model, optimizer, rows[:7])
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(optimizer.state_dict())
    assert resumed.state[other.weight]["window"].dtype == torch.bfloat16
    assert torch.equal(follow(model, optimizer, rows[7:]), follow(other, resumed, rows[7:]))
    saved, own = optimizer.state[model.weight]["window"], resumed.state[other.weight]["window"]
    assert torch.equal(saved, own)
    assert saved.data_ptr() != own.data_ptr()
