"""Methods for a loss plus a regulariser.

The operators, the methods' limits, and the solutions of convex problems.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import minimize as scipy_minimize
from torch import Tensor, nn

from optimizers import Objective
from optimizers.structured import RAMDA, ProxAdamW, ProxSGD
from optimizers.structured.regularisers import L1, GroupLasso, Nuclear, Regulariser

KINDS: dict[str, Regulariser] = {
    "inputs": GroupLasso("input"),
    "outputs": GroupLasso("output"),
    "l1": L1(),
    "nuclear": Nuclear(),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def positive(*shape: int, seed: int = 0) -> Tensor:
    return (
        torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 3
        + 0.1
    )


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cost(
    kind: Regulariser, solution: Tensor, point: Tensor, metric: Tensor, strength: float
) -> float:
    return float(
        0.5 * (metric * (solution - point).square()).sum() + strength * kind.value(solution)
    )


# -- operators -------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("strength", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("shape", [(3, 2), (2, 2, 2)])
def test_no_point_is_better_than_the_operators(
    kind: str, strength: float, shape: tuple[int, ...]
) -> None:
    """The problem is strongly convex.

    Scipy, from several starts, and small moves find nothing below.
    """
    point, metric = normal(*shape), positive(*shape)
    proximal = KINDS[kind].prox(point, metric, strength)
    best = cost(KINDS[kind], proximal, point, metric, strength)

    def value(flat: np.ndarray) -> float:
        return cost(KINDS[kind], torch.from_numpy(flat).reshape(shape), point, metric, strength)

    for start in (proximal, point, torch.zeros_like(point)):
        options = {"maxfev": 1500, "xatol": 1e-9, "fatol": 1e-13}
        other = scipy_minimize(
            value, start.flatten().numpy() + 1e-3, method="Nelder-Mead", options=options
        )
        assert best <= other.fun + 1e-9
    for seed in range(50):
        assert (
            best <= value((proximal + 1e-4 * normal(*shape, seed=seed)).flatten().numpy()) + 1e-12
        )


@pytest.mark.parametrize("side", ["input", "output"])
def test_group_lasso_satisfies_its_optimality_conditions(side: str) -> None:
    """D (u - W) = tau W / |W| in a group that lives, |D u| <= tau in one that does not (Yuan and
    Lin, 2006)."""
    kind, point, metric = GroupLasso(side), normal(7, 9) * 0.7, positive(7, 9)
    proximal = kind.prox(point, metric, 1.2)
    rows, weights, targets = (t.T if side == "input" else t for t in (proximal, metric, point))
    tau = 1.2 * rows.shape[1] ** 0.5
    alive = rows.norm(dim=1) > 0
    assert 0 < int(alive.sum()) < len(rows)
    pull = weights * (targets - rows)
    torch.testing.assert_close(
        pull[alive], tau * rows[alive] / rows[alive].norm(dim=1, keepdim=True)
    )
    assert bool(((weights * targets)[~alive].norm(dim=1) <= tau).all())


def test_in_a_plain_metric_the_operators_are_the_textbook_ones() -> None:
    point, one = normal(6, 4), torch.ones(6, 4, dtype=torch.float64)
    soft = point.sign() * (point.abs() - 0.2).clamp(min=0)
    torch.testing.assert_close(L1().prox(point, 2 * one, 0.4), soft)
    left, values, right = torch.linalg.svd(point, full_matrices=False)
    torch.testing.assert_close(
        Nuclear().prox(point, one, 0.6), left * (values - 0.6).clamp(min=0) @ right
    )
    norms = point.norm(dim=0)
    shrunk = point * (1 - 0.5 * 6**0.5 / norms).clamp(min=0)
    torch.testing.assert_close(GroupLasso("input").prox(point, one, 0.5), shrunk)


@every_kind
def test_without_strength_the_operator_changes_nothing(kind: str) -> None:
    point, metric = normal(5, 4), positive(5, 4)
    torch.testing.assert_close(KINDS[kind].prox(point, metric, 0.0), point)


def test_groups_of_a_kernel_are_its_channels() -> None:
    kernel = normal(5, 3, 2, 2)
    kernel[:, 1] = 0
    assert GroupLasso("input").zeros(kernel) == (1, 3)
    assert GroupLasso("output").zeros(kernel) == (0, 5)
    expected = sum(kernel[:, c].norm() * 20**0.5 for c in range(3))
    torch.testing.assert_close(GroupLasso("input").value(kernel), expected)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("kind", ["inputs", "outputs"])
def test_the_group_operator_at_extreme_scales(kind: str, scale: float) -> None:
    """W scales with u and with the ratio of strength and metric."""
    point, metric = normal(6, 5), positive(6, 5)
    plain = KINDS[kind].prox(point, metric, 0.4)
    torch.testing.assert_close(
        KINDS[kind].prox(point * scale, metric, 0.4 * scale), plain * scale, rtol=1e-7, atol=0
    )
    torch.testing.assert_close(
        KINDS[kind].prox(point, metric * scale, 0.4 * scale), plain, rtol=1e-7, atol=1e-12
    )


# -- methods ---------------------------------------------------------------------------------------


def classification(seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    return model, torch.randn(40, 6, dtype=torch.float64), torch.randint(3, (40,))


def trained(make: object, steps: int = 30) -> list[Tensor]:
    model, inputs, targets = classification()
    optimizer = make(model.parameters())  # type: ignore[operator]
    objective = Objective(model, nn.CrossEntropyLoss(), inputs, targets)
    for step in range(steps):
        part = torch.arange(40).roll(step * 7)[:16]
        optimizer.step(objective.on(inputs[part], targets[part]))
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (partial(ProxSGD, lr=0.1, momentum=0.9), partial(torch.optim.SGD, lr=0.1, momentum=0.9)),
        (
            partial(ProxAdamW, lr=0.01, weight_decay=0.1),
            partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
        ),
    ],
)
def test_without_a_regulariser_they_are_torchs(ours: object, theirs: object) -> None:
    mine = trained(partial(ours, strength=0.0))  # type: ignore[arg-type]
    for a, b in zip(mine, trained(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("restarts", [[], [8, 15]])
def test_ramda_without_a_regulariser_in_closed_form(adaptive: bool, restarts: list[int]) -> None:
    """W <- (1 - c) W + c (W0 - G / D), against sums taken by numpy.

    A restart empties them and divides lr and eps.
    """
    model, inputs, targets = classification()
    names = [p.detach().numpy().copy() for p in model.parameters()]
    twin, _, _ = classification()
    points = [w.copy() for w in names]
    make = partial(RAMDA, lr=0.1, averaging=0.3, strength=0.0, eps=0.02, adaptive=adaptive)
    optimizer = make(model.parameters(), restarts=[step / 20 for step in restarts], total_steps=20)
    objective = Objective(model, nn.CrossEntropyLoss(), inputs, targets)
    for step in range(20):
        rounds = sum(step >= first for first in restarts)
        t = 1 + step - (restarts[rounds - 1] if rounds else 0)
        if t == 1:
            start, sums, squares = (
                [w.copy() for w in points],
                [0.0 * w for w in points],
                [0.0 * w for w in points],
            )
        with torch.no_grad():
            for p, w in zip(twin.parameters(), points, strict=True):
                p.copy_(torch.from_numpy(w))
        twin.zero_grad()
        nn.functional.cross_entropy(twin(inputs), targets).backward()
        share = min(1.0, 0.3 * t**0.5) if rounds == len(restarts) else 0.3
        for i, p in enumerate(twin.parameters()):
            assert p.grad is not None
            g, eta = p.grad.numpy(), 0.1 * 0.1**rounds * t**0.5
            sums[i], squares[i] = sums[i] + eta * g, squares[i] + eta * g**2
            metric = np.cbrt(squares[i]) + 0.02 * 0.1**rounds if adaptive else t**0.5
            points[i] = (1 - share) * points[i] + share * (start[i] - sums[i] / metric)
        optimizer.step(objective)
        for p, w in zip(model.parameters(), points, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), w, rtol=1e-9, atol=1e-12)


class Line(nn.Module):
    """A linear map without a bias, from zero."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.weight.T


def regression(outputs: int) -> tuple[Tensor, Tensor]:
    inputs = normal(60, 8, seed=1)
    truth = normal(outputs, 8, seed=2)
    truth[:, ::2] = 0
    return inputs, inputs @ truth.T + 0.1 * normal(60, outputs, seed=3)


CONVEX = {
    "prox_sgd": partial(ProxSGD, lr=0.2, momentum=0.0),
    "prox_sgd, momentum": partial(ProxSGD, lr=0.05, momentum=0.8),
    "rmda": partial(RAMDA, lr=1.0, averaging=1.0, adaptive=False, restarts=[]),
}


@pytest.mark.parametrize("name", CONVEX)
def test_l1_reaches_scikit_learns_lasso(name: str) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    inputs, targets = regression(1)
    model = Line(8, 1)
    optimizer = CONVEX[name](model.parameters(), strength=0.1, regulariser="l1")
    objective = Objective(model, HalfSquares(), inputs, targets)
    for _ in range(3000):
        optimizer.step(objective)
    peer = linear_model.Lasso(alpha=0.1, fit_intercept=False, tol=1e-14, max_iter=100000)
    coefficients = peer.fit(inputs.numpy(), targets.numpy().ravel()).coef_
    np.testing.assert_allclose(
        model.weight.detach().numpy()[0], coefficients, atol=2e-4 if "rmda" in name else 1e-10
    )
    assert (coefficients == 0).sum() == int((model.weight == 0).sum()) > 0


class HalfSquares(nn.MSELoss):
    """Half the mean over examples of the squared error."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return (input - target).square().sum() / (2 * len(input))


@pytest.mark.parametrize("name", ["prox_sgd", "prox_adamw", "ramda"])
def test_a_convex_group_lasso_ends_at_its_optimality_conditions(name: str) -> None:
    """grad f_g = -tau W_g / |W_g| where a group lives, |grad f_g| <= tau where not, with exact
    zeros."""
    makers = {
        "prox_sgd": partial(ProxSGD, lr=0.2, momentum=0.5),
        "prox_adamw": partial(ProxAdamW, lr=0.003, beta2=0.9),
        "ramda": partial(RAMDA, lr=0.05, averaging=0.1, restarts=[]),
    }
    inputs, targets = regression(3)
    model = Line(8, 3)
    optimizer = makers[name](model.parameters(), strength=0.15, regulariser="group_lasso")
    objective = Objective(model, HalfSquares(), inputs, targets)
    for _ in range(2500):
        optimizer.step(objective)
    objective()
    columns, slopes = model.weight.detach(), model.weight.grad
    assert slopes is not None
    tau = 0.15 * 3**0.5
    alive = columns.norm(dim=0) > 0
    assert 0 < int(alive.sum()) < 8
    assert optimizer.telemetry()["zero_units"] == pytest.approx(float((~alive).double().mean()))
    pulled = slopes[:, alive] + tau * columns[:, alive] / columns[:, alive].norm(dim=0)
    assert float(pulled.abs().max()) < (1e-2 if name == "ramda" else 1e-6)
    assert float(slopes[:, ~alive].norm(dim=0).max()) <= tau * 1.02


@pytest.mark.parametrize("kind", ["group_lasso", "l1", "nuclear"])
@pytest.mark.parametrize("method", [ProxSGD, ProxAdamW, RAMDA])
def test_more_strength_more_zeros(method: type[RAMDA], kind: str) -> None:
    def share(strength: float) -> float:
        model, inputs, targets = classification()
        options = {"restarts": [], "averaging": 0.3} if method is RAMDA else {}
        optimizer = method(
            model.parameters(), lr=0.03, strength=strength, regulariser=kind, **options
        )  # type: ignore[arg-type]
        objective = Objective(model, nn.CrossEntropyLoss(), inputs, targets)
        for _ in range(150):
            optimizer.step(objective)
        return optimizer.telemetry()["zero_units"]

    shares = [share(strength) for strength in (0.0, 0.01, 0.3)]
    assert shares[0] == 0
    assert shares[1] <= shares[2]
    assert shares[2] > 0.5


def test_ramda_restarts_when_it_should() -> None:
    """Two restarts of ten steps: W0 is renewed, sums begin anew, the rate falls tenfold."""
    model, inputs, targets = classification()
    optimizer = RAMDA(model.parameters(), lr=0.1, restarts=[0.4, 0.8], total_steps=10)
    objective = Objective(model, nn.CrossEntropyLoss(), inputs, targets)
    seen = []
    for _ in range(10):
        optimizer.step(objective)
        group = optimizer.param_groups[0]
        seen.append((group["rounds"], group["steps"]))
    assert seen == [(0, 1), (0, 2), (0, 3), (0, 4), (1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2)]
    assert group["eta"] == pytest.approx(0.1 * 0.01 * 2**0.5)
    assert group["sum"] == pytest.approx(0.1 * 0.01 * (1 + 2**0.5))


def test_ramda_asks_for_the_length_it_needs() -> None:
    model, inputs, targets = classification()
    optimizer = RAMDA(model.parameters())
    with pytest.raises(ValueError, match="total_steps"):
        optimizer.step(Objective(model, nn.CrossEntropyLoss(), inputs, targets))
    optimizer.expect(100, 10)
    optimizer.step(Objective(model, nn.CrossEntropyLoss(), inputs, targets))


def test_biases_and_groups_without_strength_are_free() -> None:
    model, inputs, targets = classification()
    first, second = model[0], model[2]  # type: ignore[index]
    groups = [{"params": first.parameters()}, {"params": second.parameters(), "strength": 0.0}]
    optimizer = ProxSGD(groups, lr=0.1, strength=5.0)
    objective = Objective(model, nn.CrossEntropyLoss(), inputs, targets)
    for _ in range(5):
        optimizer.step(objective)
    assert bool((first.weight == 0).all())
    assert not bool((second.weight == 0).any())
    assert bool((second.bias != 0).all())
    assert optimizer.telemetry()["zero_units"] == 1.0
