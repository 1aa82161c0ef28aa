"""FOSI against dense eigenpairs, and its whole trajectory against the text in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from optimizers.linalg.lanczos import lanczos
from optimizers.low_rank import FOSI
from tests.optimizers.cases import Identity, Problem, Scalar, close, mlp

SIZE = 50
ZERO = torch.zeros(1, 1)


def spread(seed: int = 0, lowest: float = -2.0) -> Tensor:
    """A symmetric matrix with eigenvalues from `lowest` to 100."""
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64))
    values = torch.cat(
        [torch.linspace(lowest, 1, SIZE - 5), torch.tensor([5.0, 10, 20, 50, 100])]
    ).double()
    return basis @ (values[:, None] * basis.T)


def quadratic(matrix: Tensor) -> Problem:
    size = len(matrix)
    return Problem(Scalar([1.0] * size, lambda x: x @ matrix @ x / 2), Identity(), ZERO, ZERO)


def run(problem: Problem, optimizer: FOSI, steps: int) -> np.ndarray:
    points = []
    for _ in range(steps):
        optimizer.step(problem.objective())
        points.append(problem.params[0].detach().clone())
    return torch.stack(points).numpy()


def fosi(problem: Problem, **options: Any) -> FOSI:
    return FOSI(problem.model.named_parameters(), **options)


@pytest.mark.parametrize(("top", "bottom"), [(5, 0), (3, 2), (1, 4), (50, 0)])
def test_the_eigenpairs_are_the_dense_ones(top: int, bottom: int) -> None:
    matrix = spread()
    problem = quadratic(matrix)
    optimizer = fosi(problem, top=top, bottom=bottom, warmup=0, order=SIZE)
    run(problem, optimizer, 1)
    values, vectors = torch.linalg.eigh(matrix)
    chosen = [*range(bottom), *range(SIZE - top, SIZE)]
    close(optimizer.state[problem.params[0]]["eigenvalues"], values[chosen])
    basis = optimizer.basis.matrix()
    close(basis.T @ basis, vectors[:, chosen] @ vectors[:, chosen].T)


def test_a_short_process_finds_what_stands_out() -> None:
    """Four iterations a pair, as the paper has it, give the top three to three digits."""
    problem = quadratic(spread())
    optimizer = fosi(problem, top=3, warmup=0, order=12)
    run(problem, optimizer, 1)
    close(
        optimizer.state[problem.params[0]]["eigenvalues"],
        torch.tensor([20.0, 50, 100]).double(),
        1e-3,
    )


class ByHand:
    """The text with dense eigenvectors, the velocity as a vector of n, and the base optimizers
    written out."""

    def __init__(
        self, matrix: np.ndarray, base: str, lr: float, alpha: float, momentum: float, decay: float
    ) -> None:
        self.matrix, self.base, self.lr, self.alpha, self.rate, self.decay = (
            matrix,
            base,
            lr,
            alpha,
            momentum,
            decay,
        )
        self.theta, self.velocity = np.ones(SIZE), np.zeros(SIZE)
        self.first, self.second, self.t, self.scale = np.zeros(SIZE), np.zeros(SIZE), 0, 1.0
        self.vectors, self.values = np.zeros((SIZE, 0)), np.zeros(0)

    def estimate(self, top: int, bottom: int, max_scale: float) -> None:
        values, vectors = np.linalg.eigh(self.matrix)
        chosen = [*range(bottom), *range(SIZE - top, SIZE)]
        self.values, self.vectors = values[chosen], vectors[:, chosen]
        if self.base == "sgd":
            self.scale = float(np.clip(values[-1] / values[-top], 1, max_scale))

    def based(self, g: np.ndarray) -> np.ndarray:
        self.t += 1
        if self.base == "sgd":
            self.first = self.rate * self.first + g
            return -self.lr * self.first
        self.first = 0.9 * self.first + 0.1 * g
        self.second = 0.999 * self.second + 0.001 * g * g
        root = np.sqrt(self.second / (1 - 0.999**self.t))
        return -self.lr * self.first / (1 - 0.9**self.t) / (root + 1e-8)

    def step(self) -> np.ndarray:
        gradient = self.matrix @ self.theta
        inside = self.vectors @ (self.vectors.T @ gradient)
        fresh = 1.0 if self.base == "sgd" else 1 - self.rate
        self.velocity = self.rate * self.velocity + fresh * inside
        newton = self.vectors @ ((self.vectors.T @ self.velocity) / np.abs(self.values))
        base = self.based(gradient - inside)
        base = base - self.vectors @ (self.vectors.T @ base)
        self.theta = (
            (1 - self.lr * self.decay) * self.theta + self.scale * base - self.alpha * newton
        )
        return self.theta


@pytest.mark.parametrize("base", ["adamw", "sgd"])
@pytest.mark.parametrize(("top", "bottom"), [(4, 0), (3, 2)])
def test_it_is_the_text(base: str, top: int, bottom: int) -> None:
    """Seven steps of the base optimizer, then three periods of ten."""
    matrix = spread(lowest=-0.5)
    options = {"lr": 1e-3, "alpha": 0.2, "momentum": 0.8}
    problem = quadratic(matrix)
    optimizer = fosi(
        problem,
        base=base,
        top=top,
        bottom=bottom,
        period=10,
        warmup=7,
        order=SIZE,
        weight_decay=0.1,
        max_scale=4.0,
        **options,
    )
    ours = run(problem, optimizer, 37)
    twin = ByHand(matrix.numpy(), base, decay=0.1, **options)
    for t, point in enumerate(ours):
        if t >= 7 and (t - 7) % 10 == 0:
            twin.estimate(top, bottom, 4.0)
        expected = twin.step()
        np.testing.assert_allclose(point, expected, rtol=0, atol=1e-10 * np.abs(expected).max())
    assert optimizer.telemetry()["scale"] == pytest.approx(twin.scale, rel=1e-10)
    assert optimizer.telemetry()["age"] == 9


def test_before_the_first_estimate_it_is_adamw() -> None:
    torch.manual_seed(0)
    data = torch.randn(20, 4, dtype=torch.float64), torch.randint(3, (20,))
    ours, theirs = (Problem(mlp().double(), nn.CrossEntropyLoss(), *data) for _ in range(2))
    theirs.model.load_state_dict(ours.model.state_dict())
    optimizer = fosi(ours, lr=0.01, weight_decay=0.1, period=30)
    adamw = torch.optim.AdamW(theirs.model.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(30):
        optimizer.step(ours.objective())
        adamw.step(theirs.objective())
    for a, b in zip(ours.params, theirs.params, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    assert "age" not in optimizer.telemetry()


def test_newtons_step_ends_the_gradient_in_the_subspace_and_leaves_saddles() -> None:
    """alpha = 1 and no momentum: the top directions are done, the negative ones left twice as
    far."""
    matrix = spread()
    problem = quadratic(matrix)
    optimizer = fosi(
        problem, lr=0.0, base="sgd", alpha=1.0, momentum=0.0, top=5, bottom=2, warmup=0, order=SIZE
    )
    before = problem.params[0].detach().clone()
    run(problem, optimizer, 1)
    vectors = torch.linalg.eigh(matrix)[1].T
    along, now = vectors @ before, vectors @ problem.params[0].detach()
    close(now[:2], 2 * along[:2])
    close(now[2:45], along[2:45])
    assert float(now[45:].abs().max()) < 1e-10


def test_a_flat_direction_counts_as_curved_as_the_floor_says() -> None:
    """Newton's step alone.

    To the minimum where there is one, and 1 / (1e-3 10) along the slope that has none.
    """
    matrix = torch.diag(torch.tensor([10.0, 1.0, 1e-9]).double())
    problem = Problem(
        Scalar([1.0] * 3, lambda x: x @ matrix @ x / 2 + x[2]), Identity(), ZERO, ZERO
    )
    optimizer = fosi(
        problem, base="sgd", lr=0.0, top=3, order=3, warmup=0, alpha=1.0, momentum=0.0, floor=1e-3
    )
    (point,) = run(problem, optimizer, 1)
    np.testing.assert_allclose(point, [0.0, 0.0, 1 - 100.0], rtol=0, atol=1e-5)


def test_the_longer_steps_of_sgd_are_those_of_the_top_alone() -> None:
    """100 / 20 at the top; at the bottom eigenvalues are near zero."""
    problem = quadratic(spread())
    optimizer = fosi(problem, base="sgd", top=3, bottom=2, warmup=0, order=SIZE, max_scale=1e3)
    run(problem, optimizer, 1)
    assert optimizer.telemetry()["scale"] == pytest.approx(5.0)


def test_every_estimate_begins_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[Tensor] = []

    def recorded(product: Any, start: Tensor, iterations: int) -> Any:
        starts.append(start)
        return lanczos(product, start, iterations)

    monkeypatch.setattr("optimizers.low_rank.fosi.lanczos", recorded)
    problem = quadratic(spread())
    run(problem, fosi(problem, warmup=0, period=2), 5)
    assert len(starts) == 3
    assert len({float(start[0]) for start in starts}) == 3


@pytest.mark.parametrize("base", ["adamw", "sgd"])
def test_the_base_optimizer_keeps_out_of_the_subspace(base: str) -> None:
    """AdamW's step on a gradient that is orthogonal to it is not; it is projected again."""
    problem = quadratic(spread())
    optimizer = fosi(problem, lr=0.01, base=base, alpha=0.0, top=5, warmup=0, order=SIZE)
    points = run(problem, optimizer, 4)
    steps = torch.from_numpy(np.diff(points, axis=0))
    assert float(steps.norm()) > 1e-3
    assert float((optimizer.basis.matrix() @ steps.T).abs().max()) < 1e-12


def test_steep_directions_no_longer_limit_the_rate() -> None:
    """Gradient descent at 0.05 diverges where the curvature is 100.

    With five directions taken out it ends.
    """
    ends = {}
    for alpha, warmup in ((0.5, 0), (0.5, 10**6)):
        problem = quadratic(spread(lowest=0.1))
        optimizer = fosi(
            problem,
            lr=0.05,
            base="sgd",
            momentum=0.0,
            alpha=alpha,
            warmup=warmup,
            order=SIZE,
            max_scale=1.0,
        )
        run(problem, optimizer, 150)
        ends[warmup] = float(problem.objective().value())
    assert ends[0] < 1e-1 < 1e10 < ends[10**6]


def test_the_products_are_those_of_the_order() -> None:
    problem = quadratic(spread())
    objective = problem.objective()
    optimizer = fosi(problem, lr=1e-4, top=5, period=100)
    for _ in range(300):
        optimizer.step(objective.on(ZERO, ZERO))
    assert objective.counts["hvp"] == 2 * 20
    assert objective.counts["grad"] == 300 + 2


def test_a_hessian_that_is_not_finite_is_counted_and_the_base_goes_on() -> None:
    """|x|^1.5 has no second derivative at zero, and a gradient there."""
    model = Scalar([0.0, 1.0, 2.0], lambda x: (x.abs() ** 1.5).sum())
    problem = Problem(model, Identity(), ZERO, ZERO)
    optimizer = fosi(problem, lr=0.01, top=1, warmup=0, period=2)
    points = run(problem, optimizer, 4)
    assert optimizer.telemetry()["failures/lanczos"] == 2
    assert bool(np.isfinite(points).all())
    assert points[-1][2] < points[0][2] < 2


def test_a_space_that_ends_early_is_counted_and_used() -> None:
    """The identity has one Ritz value; the other pairs stay zero and do nothing."""
    problem = quadratic(3 * torch.eye(SIZE, dtype=torch.float64))
    optimizer = fosi(problem, lr=0.01, top=4, bottom=1, warmup=0)
    points = run(problem, optimizer, 3)
    assert optimizer.failures["breakdown"] == 1
    assert int((optimizer.state[problem.params[0]]["eigenvalues"] != 0).sum()) == 1
    assert optimizer.telemetry()["largest_eigenvalue"] == pytest.approx(3, rel=1e-10)
    assert bool(np.isfinite(points).all())


def test_the_share_of_the_gradient_in_the_subspace_is_told() -> None:
    matrix = spread()
    problem = quadratic(matrix)
    optimizer = fosi(problem, top=2, warmup=0, order=SIZE)
    gradient = matrix @ problem.params[0].detach()
    run(problem, optimizer, 1)
    top = torch.linalg.eigh(matrix)[1][:, -2:]
    expected = float((top.T @ gradient).square().sum() / gradient.square().sum())
    assert optimizer.telemetry()["subspace_share"] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("base", "own"), [("adamw", 2 * 27 + 2), ("sgd", 27)])
def test_state_is_what_the_formula_says(base: str, own: int) -> None:
    """From the first step on, so that memory does not jump when the first estimate comes."""
    problem = Problem(
        nn.Linear(8, 3), nn.CrossEntropyLoss(), torch.randn(9, 8), torch.randint(3, (9,))
    )
    optimizer = fosi(problem, base=base, top=3, bottom=1, warmup=2)
    for _ in range(4):
        optimizer.step(problem.objective())
        assert sum(
            t.numel() for state in optimizer.state.values() for t in state.values()
        ) == own + 4 * (27 + 2)
