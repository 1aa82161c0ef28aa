"""INNAprop against its text in numpy, AdamW where it is AdamW, and the differential equation it
discretises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from torch import Tensor

from optimizers.diagonal import INNAprop
from tests.optimizers.test_mfac import SIZE, follow, gradients, linear

SETTINGS = [(0.1, 0.9), (2.0, 2.0), (0.5, 0.1)]


def by_hand(rows: np.ndarray, lr: float, alpha: float, beta: float, decay: float) -> np.ndarray:
    theta, moment = np.ones(SIZE), np.zeros(SIZE)
    psi, points = (1 - alpha * beta) * theta, []
    for t, g in enumerate(rows, start=1):
        theta = (1 - decay * lr) * theta
        moment = 0.999 * moment + 0.001 * g * g
        scaled = g / (np.sqrt(moment / (1 - 0.999**t)) + 1e-8)
        psi = (1 - lr / beta) * psi + lr * (1 / beta - alpha) * theta
        inertia = (1 + lr * (1 - alpha * beta) / (beta - lr)) * theta - lr / (beta - lr) * psi
        theta = inertia - lr * beta * scaled
        points.append(theta)
    return np.stack(points)


@pytest.mark.parametrize(("alpha", "beta"), SETTINGS)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_it_is_the_text(alpha: float, beta: float, decay: float) -> None:
    model, rows = linear(), gradients(60)
    optimizer = INNAprop(model.parameters(), lr=0.02, alpha=alpha, beta=beta, weight_decay=decay)
    np.testing.assert_allclose(
        follow(model, optimizer, rows).numpy(),
        by_hand(rows.numpy(), 0.02, alpha, beta, decay),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("beta", [0.5, 1.0, 4.0])
def test_where_alpha_beta_is_one_it_is_adamw_without_momentum(beta: float) -> None:
    """psi stays zero; the decay of both is lr weight_decay."""
    model, twin, rows = linear(), linear(), gradients(50)
    ours = INNAprop(model.parameters(), lr=0.02, alpha=1 / beta, beta=beta, weight_decay=0.1)
    adamw = torch.optim.AdamW(
        twin.parameters(), lr=0.02 * beta, betas=(0.0, 0.999), weight_decay=0.1 / beta
    )
    torch.testing.assert_close(
        follow(model, ours, rows), follow(twin, adamw, rows), rtol=0, atol=1e-12
    )
    assert float(ours.state[model.weight]["psi"].abs().max()) < 1e-15


@pytest.mark.parametrize(("alpha", "beta"), SETTINGS)
def test_the_first_step_is_lr_beta_by_the_sign(alpha: float, beta: float) -> None:
    model, rows = linear(), gradients(1)
    optimizer = INNAprop(model.parameters(), lr=0.02, alpha=alpha, beta=beta, eps=1e-30)
    (point,) = follow(model, optimizer, rows)
    torch.testing.assert_close(1 - point, 0.02 * beta * rows[0].sign(), rtol=1e-9, atol=0)


def constant_scale(curvature: Tensor, lr: float, alpha: float, beta: float, time: float) -> Tensor:
    """Where f = sum h x^2 / 2 ends from a start so near to zero that sqrt(v) is nothing beside eps
    = 1."""
    model, near = linear(), 1e-9
    with torch.no_grad():
        model.weight.mul_(near)
    optimizer = INNAprop(model.parameters(), lr=lr, alpha=alpha, beta=beta, eps=1.0)
    for _ in range(round(time / lr)):
        follow(model, optimizer, curvature * model.weight.detach())
    return model.weight.detach().flatten() / near


def exactly(h: float, alpha: float, beta: float, time: float) -> float:
    """theta'' + (alpha + beta h) theta' + h theta = 0 with theta = 1, theta' = -beta h at first
    (psi's start)."""
    system = np.array([[0.0, 1.0], [-h, -(alpha + beta * h)]])
    return float((expm(time * system) @ np.array([1.0, -beta * h]))[0])


@pytest.mark.parametrize(("alpha", "beta"), [(0.1, 0.9), (2.0, 2.0)])
def test_small_steps_follow_the_dynamics_with_the_hessian(alpha: float, beta: float) -> None:
    """The error is of first order in the step."""
    curvature = torch.logspace(-1, 1, SIZE, dtype=torch.float64)
    exact = torch.tensor([exactly(h, alpha, beta, 2.0) for h in curvature.tolist()])
    errors = [
        float((constant_scale(curvature, lr, alpha, beta, 2.0) - exact).abs().max())
        for lr in (0.01, 0.005, 0.0025)
    ]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.05)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.03)
    assert errors[2] < 0.005


def test_a_parameter_that_comes_late_is_corrected_for_its_own_steps() -> None:
    model, late = linear(), torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = INNAprop([model.weight, late], lr=0.02)
    follow(model, optimizer, gradients(20))
    assert late not in optimizer.state
    row = gradients(1)
    model.weight.grad, late.grad = row, torch.tensor([1e-4, -1.0, 50.0], dtype=torch.float64)

    def objective() -> Tensor:
        return torch.zeros(())

    objective.params = [model.weight, late]  # type: ignore[attr-defined]
    optimizer.step(objective)  # type: ignore[arg-type]
    torch.testing.assert_close(1 - late.detach(), 0.02 * 0.9 * late.grad.sign(), rtol=1e-3, atol=0)


def test_a_rate_that_reaches_beta_is_refused() -> None:
    model = linear()
    with pytest.raises(
        ValueError, match=r"lr must be below beta=0.5, got 0.5; lower lr or raise beta"
    ):
        INNAprop(model.parameters(), lr=0.5, beta=0.5)
    optimizer = INNAprop(model.parameters(), lr=0.1, beta=0.5)
    optimizer.param_groups[0]["lr"] = 0.7
    with pytest.raises(ValueError, match=r"lr must be below beta=0.5, got 0.7"):
        follow(model, optimizer, gradients(1))
