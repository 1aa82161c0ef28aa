"""Inverse roots, power steps and Newton-Schulz against their definitions, the SVD and torch's
own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.optim._muon import _zeropower_via_newtonschulz

from optimizers.linalg.decompositions import fix_null_space
from optimizers.linalg.roots import (
    QUINTIC,
    conditions,
    inverse_roots,
    newton_schulz,
    power_step,
    stacked_eigen,
)
from tests.optimizers.cases import close


def positive(k: int = 3, n: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    factors = torch.randn(k, n, 2 * n, generator=generator, dtype=torch.float64)
    return factors @ factors.mT


@pytest.mark.parametrize("power", [2, 4, 8])
def test_the_root_to_its_power_is_the_inverse(power: int) -> None:
    matrices = positive()
    roots, condition, good = inverse_roots(matrices, 1 / power, 1e-300)
    identity = torch.eye(6, dtype=torch.float64).expand(3, 6, 6)
    close(torch.linalg.matrix_power(roots, power) @ matrices, identity, 1e-10)
    torch.testing.assert_close(condition, torch.linalg.cond(matrices))
    assert bool(good.all())


def test_eps_is_added_to_the_eigenvalues() -> None:
    matrices = positive()
    roots, condition, _ = inverse_roots(matrices, 1.0, 0.5)
    shifted = matrices + 0.5 * torch.eye(6, dtype=torch.float64)
    close(roots, torch.linalg.inv(shifted), 1e-12)
    torch.testing.assert_close(condition, torch.linalg.cond(shifted))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_noise_of_a_singular_matrix_is_not_magnified(dtype: torch.dtype) -> None:
    vector = torch.arange(1.0, 5.0, dtype=dtype)
    roots, _, _ = inverse_roots(torch.outer(vector, vector)[None], 0.25, 1e-30)
    assert roots.dtype == dtype
    largest = float(vector @ vector * torch.finfo(dtype).eps) ** -0.25
    assert float(torch.linalg.matrix_norm(roots, 2)) == pytest.approx(largest, rel=0.2)


def test_a_zero_matrix_has_the_root_of_eps() -> None:
    roots, _, good = inverse_roots(torch.zeros(1, 3, 3), 0.25, 1e-12)
    torch.testing.assert_close(roots[0], 1e3 * torch.eye(3))
    assert bool(good.all())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_matrix_that_is_not_finite_does_not_touch_the_others(bad: float) -> None:
    matrices = positive()
    expected = inverse_roots(matrices, 0.25, 1e-12)[0]
    matrices[1, 2, 3] = bad
    roots, _, good = inverse_roots(matrices, 0.25, 1e-12)
    assert good.tolist() == [True, False, True]
    torch.testing.assert_close(roots[[0, 2]], expected[[0, 2]])


def test_condition_numbers_stay_numbers() -> None:
    largest, smallest = torch.tensor([2.0, 1.0, 0.0]), torch.tensor([0.5, -1e-9, 0.0])
    assert conditions(largest, smallest).tolist() == [4.0, 1 / torch.finfo(torch.float32).eps, 1.0]


def test_when_the_batch_fails_each_is_tried_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = positive()
    expected, _, _ = stacked_eigen(matrices)
    eigh = torch.linalg.eigh

    def failing(given: Tensor) -> tuple[Tensor, Tensor]:
        if given.ndim == 3 or torch.equal(given, matrices[2]):
            raise torch.linalg.LinAlgError("did not converge")
        return eigh(given)

    monkeypatch.setattr(torch.linalg, "eigh", failing)
    values, vectors, good = stacked_eigen(matrices)
    assert good.tolist() == [True, True, False]
    torch.testing.assert_close(values[:2], expected[:2])
    assert torch.equal(vectors[2], torch.eye(6, dtype=torch.float64))


# -- the power step --------------------------------------------------------------------------------


def test_power_steps_find_the_eigenvectors_in_falling_order() -> None:
    matrices = positive()
    bases = torch.linalg.qr(
        torch.randn(3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    )[0]
    identity = torch.eye(6, dtype=torch.float64).expand(3, 6, 6)
    for _ in range(400):
        bases, quotients, _ = power_step(matrices, bases)
        close(bases.mT @ bases, identity, 1e-13)
    values, vectors = torch.linalg.eigh(matrices)
    torch.testing.assert_close(quotients, values.flip(-1))
    close((bases.mT @ vectors.flip(-1)).abs(), identity, 1e-8)


def test_the_order_says_which_column_continues_which() -> None:
    values = torch.tensor([1.0, 5.0, 3.0], dtype=torch.float64)
    bases, quotients, order = power_step(
        values.diag()[None], torch.eye(3, dtype=torch.float64)[None]
    )
    assert order.tolist() == [[1, 2, 0]]
    assert quotients.tolist() == [[5.0, 3.0, 1.0]]
    torch.testing.assert_close(bases.abs()[0], torch.eye(3, dtype=torch.float64)[:, [1, 2, 0]])


def test_a_power_step_of_a_singular_matrix_stays_orthonormal() -> None:
    vector = torch.ones(4, dtype=torch.float64)
    bases, _, _ = power_step(
        torch.outer(vector, vector)[None], torch.eye(4, dtype=torch.float64)[None]
    )
    close(bases.mT @ bases, torch.eye(4, dtype=torch.float64)[None], 1e-13)


# -- Newton-Schulz ---------------------------------------------------------------------------------

SHAPES = [(5, 5), (4, 12), (12, 4), (1, 7), (7, 1), (32, 20)]


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_land_in_the_band_and_vectors_stay(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    u, _, v = torch.linalg.svd(
        torch.randn(*shape, generator=generator, dtype=torch.float64), full_matrices=False
    )
    values = torch.linspace(1, 0.05, len(v), dtype=torch.float64)
    orthogonal = newton_schulz((u * values) @ v)
    singular = torch.linalg.svdvals(orthogonal)
    assert 0.6 < float(singular.min()) <= float(singular.max()) < 1.3
    inside = u.mT @ orthogonal @ v.mT
    close(inside, inside.diagonal().diag(), 1e-9)
    cosine = float((orthogonal * (u @ v)).sum() / (orthogonal.norm() * (u @ v).norm()))
    assert cosine > 0.9


@pytest.mark.parametrize("shape", SHAPES)
def test_in_bfloat16_it_is_torchs(shape: tuple[int, int]) -> None:
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    orthogonal = newton_schulz(matrices.bfloat16())
    expected = torch.stack(
        [_zeropower_via_newtonschulz(m.clone(), QUINTIC, 5, 1e-7) for m in matrices]
    )
    torch.testing.assert_close(orthogonal, expected, rtol=0.02, atol=0.02)


def test_a_stack_is_each_alone_and_a_transpose_is_transposed() -> None:
    matrices = torch.randn(4, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    stacked = newton_schulz(matrices)
    close(stacked, torch.stack([newton_schulz(matrix) for matrix in matrices]), 1e-13)
    close(newton_schulz(matrices.mT), stacked.mT, 1e-13)
    assert bool((newton_schulz(torch.zeros(2, 3, 4)) == 0).all())


def test_classical_coefficients_converge_to_the_orthogonal_factor() -> None:
    matrix = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    close(newton_schulz(matrix, 30, (15 / 8, -10 / 8, 3 / 8)), u @ v, 1e-12)


def test_a_null_space_has_the_same_basis_whatever_the_rounding() -> None:
    """Of a factor of few gradients; as `eigh` returns it, it is made of rounding errors."""
    torch.manual_seed(0)
    rows = torch.randn(1, 5, 40, dtype=torch.float64)
    exact, rounded = (
        rows.mT @ rows,
        (rows.mT[..., :2] @ rows[:, :2]) + rows.mT[..., 2:] @ rows[:, 2:],
    )
    assert not torch.equal(exact, rounded)

    def apart(first: Tensor, second: Tensor) -> float:
        return float((1 - (first * second).sum(-2).abs()).max())

    pairs = [stacked_eigen(matrix)[:2] for matrix in (exact, rounded)]
    plain = apart(pairs[0][1], pairs[1][1])
    bases = [fix_null_space(*pair).flip(-1) for pair in pairs]
    close(bases[0][0].mT @ bases[0][0], torch.eye(40, dtype=torch.float64))
    assert torch.equal(bases[0][..., :5], pairs[0][1].flip(-1)[..., :5])
    assert plain > 0.1 > 1e-6 > apart(*bases)
    more = torch.randn(10, 40, dtype=torch.float64)
    grown = [exact + more.T @ more, rounded + (more.T[:, :3] @ more[:3] + more.T[:, 3:] @ more[3:])]
    for _ in range(3):  # of rank 15: the images of 40 columns
        bases = [power_step(matrix, basis)[0] for matrix, basis in zip(grown, bases, strict=True)]
    overlap = bases[0][0].T @ bases[1][0]
    assert float((1 - overlap.abs().amax(-1)).max()) < 1e-6
    close(bases[0][0].T @ bases[0][0], torch.eye(40, dtype=torch.float64))
