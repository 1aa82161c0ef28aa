"""Spectral density by Lanczos quadrature.

Dense eigenvalues, exact moments, torch.func's Hessian of a network.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian

from optimizers import Objective
from optimizers.linalg.curvature import Curvature
from optimizers.linalg.spectrum import rademacher, spectral_density
from tests.optimizers.cases import close

GAP = torch.cat(
    [
        torch.tensor([-4.0, -2.5]),
        torch.linspace(-0.5, 1.0, 194),
        torch.tensor([5.0, 7.0, 9.0, 12.0]),
    ]
)


def curvature(matrix: Tensor, spent: list[int] | None = None) -> Curvature:
    """A matrix as an objective gives it; `spent` collects the numbers of products."""
    count: Callable[[int], None] = (lambda _: None) if spent is None else spent.append
    gradient = torch.ones(len(matrix), dtype=matrix.dtype)
    return Curvature(
        gradient.sum(), gradient, lambda v: matrix @ v, lambda rows: rows @ matrix, count
    )


def symmetric(spectrum: Tensor, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(
        torch.randn(len(spectrum), len(spectrum), dtype=torch.float64, generator=generator)
    )
    return (basis * spectrum.double()) @ basis.T


# -- all eigenvalues -------------------------------------------------------------------------------


def test_a_small_matrix_is_decomposed() -> None:
    values = torch.tensor([-3.0, -1.0, 0.0, 2.0, 10.0], dtype=torch.float64)
    density = spectral_density(curvature(symmetric(values)), products=5)
    assert density is not None
    assert density.exact
    assert density.error == 0
    close(density.points, values, 1e-13)
    close(density.largest, torch.tensor([10.0, 2.0, 0.0], dtype=torch.float64), 1e-13)
    assert density.smallest == pytest.approx(-3, abs=1e-13)
    assert density.trace == pytest.approx(8, abs=1e-12)
    assert density.negative_share == pytest.approx(2 / 5)
    assert density.negative_mass == pytest.approx(4 / 16)


def test_fewer_parameters_than_eigenvalues_asked_for() -> None:
    density = spectral_density(
        curvature(torch.diag(torch.tensor([3.0, -1.0]))), products=10, largest=3
    )
    assert density is not None
    assert density.largest.tolist() == pytest.approx([3, -1])


def test_round_off_is_no_negative_curvature() -> None:
    """A positive semi-definite matrix of rank 2, whose other eigenvalues come out as +-1e-8 in
    float32."""
    tall = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    density = spectral_density(curvature(tall @ tall.T), products=40)
    assert density is not None
    assert float(density.points[0]) < 0
    assert density.negative_share == 0
    assert density.negative_mass < 1e-5


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_definite_matrices(sign: float) -> None:
    density = spectral_density(curvature(sign * symmetric(torch.linspace(1, 9, 30))), products=12)
    assert density is not None
    assert density.negative_share == (0 if sign > 0 else pytest.approx(1))
    assert density.negative_mass == (0 if sign > 0 else pytest.approx(1))


def test_a_zero_matrix() -> None:
    for size in (5, 50):
        density = spectral_density(curvature(torch.zeros(size, size)), products=10)
        assert density is not None
        assert (density.trace, density.negative_share, density.negative_mass) == (0, 0, 0)
        assert density.largest.tolist()[0] == 0


# -- estimates -------------------------------------------------------------------------------------


def test_the_ends_of_the_spectrum_are_found_within_the_stated_error() -> None:
    matrix = symmetric(GAP)
    density = spectral_density(curvature(matrix), products=40)
    assert density is not None
    assert not density.exact
    assert density.largest.tolist() == pytest.approx([12, 9, 7], abs=1e-6)
    assert density.smallest == pytest.approx(-4, abs=1e-6)
    ours = np.array([*density.largest.tolist(), density.smallest])
    theirs = np.linalg.eigvalsh(matrix.numpy())
    distance = np.abs(ours[:, None] - theirs).min(axis=1)
    assert (distance <= density.error + 1e-12).all()


def test_the_points_and_weights_have_the_moments_of_the_probes() -> None:
    """sum w t^k = z'A^k z / z'z, the mean over the probes, up to the degree 2 m - 1 of the shortest
    run."""
    matrix = symmetric(GAP / 12)
    density = spectral_density(curvature(matrix), products=36)
    assert density is not None
    assert float(density.weights.sum()) == pytest.approx(1, abs=1e-12)
    generator = torch.Generator().manual_seed(0)
    probes = [rademacher(torch.zeros(200, dtype=torch.float64), generator) for _ in range(2)]
    assert set(probes[0].tolist()) == {-1.0, 1.0}
    for power in (1, 2, 5, 19):
        expected = np.mean(
            [float(z @ torch.linalg.matrix_power(matrix, power) @ z) / 200 for z in probes]
        )
        assert float(density.weights @ density.points**power) == pytest.approx(
            expected, rel=1e-9, abs=1e-14
        )


def test_estimates_tend_to_the_truth_with_more_probes() -> None:
    matrix = symmetric(GAP)
    values = GAP.double()
    errors = []
    for products in (40, 160):
        density = [
            spectral_density(
                curvature(matrix), products, generator=torch.Generator().manual_seed(seed)
            )
            for seed in range(8)
        ]
        traces = [one.trace for one in density if one is not None]
        masses = [one.negative_mass for one in density if one is not None]
        mass = float(values[values < 0].abs().sum() / values.abs().sum())
        errors.append((np.std(traces), np.abs(np.array(masses) - mass).mean()))
        assert np.mean(traces) == pytest.approx(float(values.sum()), abs=4 * np.std(traces))
    assert errors[1][0] < errors[0][0]
    assert errors[1][1] < 0.05


def test_the_budget_is_kept_and_the_probes_repeat() -> None:
    matrix = symmetric(GAP)
    for products in (10, 37, 60):
        spent: list[int] = []
        one = spectral_density(curvature(matrix, spent), products)
        other = spectral_density(curvature(matrix), products)
        assert one is not None
        assert other is not None
        assert sum(spent) <= products
        assert torch.equal(one.points, other.points)


def test_a_product_that_is_not_finite_gives_none() -> None:
    broken = symmetric(GAP)
    broken[3, 3] = float("nan")
    assert spectral_density(curvature(broken), products=20) is None
    assert spectral_density(curvature(broken), products=200) is None


def test_odd_budgets_are_refused() -> None:
    with pytest.raises(ValueError, match="products must be at least 4, got 3"):
        spectral_density(curvature(torch.eye(2)), products=3)
    with pytest.raises(ValueError, match="largest must be at least 1, got 0"):
        spectral_density(curvature(torch.eye(2)), products=10, largest=0)


# -- a network -------------------------------------------------------------------------------------


def test_a_networks_hessian() -> None:
    """Against torch.func.hessian: exactly with n products, the ends with fewer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    inputs, targets = torch.randn(20, 3).double(), torch.randn(20, 2).double()
    objective = Objective(model, nn.MSELoss(), inputs, targets)
    named = dict(model.named_parameters())
    blocks = hessian(
        lambda p: nn.functional.mse_loss(functional_call(model, p, (inputs,)), targets)
    )(named)
    size = sum(p.numel() for p in named.values())
    dense = torch.cat(
        [
            torch.cat(
                [blocks[a][b].reshape(named[a].numel(), named[b].numel()) for b in named], dim=1
            )
            for a in named
        ]
    ).detach()
    values = torch.linalg.eigvalsh(dense)
    exact = spectral_density(objective.hessian(), products=size)
    assert exact is not None
    close(exact.points, values, 1e-12)
    assert exact.trace == pytest.approx(float(dense.trace()), rel=1e-12)
    assert exact.negative_share == pytest.approx(
        float((values < -1e-8 * values.abs().max()).double().mean())
    )
    assert exact.negative_mass == pytest.approx(
        float(values[values < 0].abs().sum() / values.abs().sum()), rel=1e-10
    )
    few = spectral_density(objective.hessian(), products=size - 2)
    assert few is not None
    assert not few.exact
    assert float(few.largest[0]) == pytest.approx(float(values[-1]), rel=1e-6)
    assert few.smallest == pytest.approx(float(values[0]), rel=1e-3)
