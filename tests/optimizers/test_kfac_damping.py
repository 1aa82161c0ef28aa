"""One Kronecker block by itself.

Factors by loops over positions, factored damping against a dense solve.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from optimizers.layers.capture import LayerRecord
from optimizers.natural_gradient.blocks import KroneckerBlock, Measure
from optimizers.natural_gradient.inverses import Cholesky, Eigen
from optimizers.natural_gradient.model_blocks import blocks_of
from tests.optimizers.cases import close


def block_of(layer: nn.Module) -> KroneckerBlock:
    (block,) = blocks_of(layer, {id(parameter): 0 for parameter in layer.parameters()})
    assert isinstance(block, KroneckerBlock)
    return block


def factors_of(
    layer: nn.Module, inputs: Tensor, gradients: Tensor, measure: Measure
) -> dict[str, Tensor]:
    block = block_of(layer)
    sums = block.sums([{layer: LayerRecord([inputs], [gradients])}], measure)
    assert sums is not None
    return block.factors(sums)


def spd(size: int, seed: int) -> Tensor:
    rows = torch.randn(
        2 * size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    return rows.T @ rows


def test_factors_of_a_linear_layer_are_means_over_terms() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2).double()
    inputs, per_term = torch.randn(5, 3).double(), torch.randn(5, 2).double()
    captured = per_term * 0.7 / 5  # gradients of a loss that is 0.7 times a mean over the 5 terms
    factors = factors_of(layer, inputs, captured, Measure(terms=5, scale=0.7))
    homogeneous = torch.cat([inputs, torch.ones(5, 1).double()], dim=1)
    close(factors["a"], sum(torch.outer(a, a) for a in homogeneous) / 5)
    close(factors["g"], sum(torch.outer(g, g) for g in per_term) / 5)


@pytest.mark.parametrize("reduce", [False, True])
def test_factors_of_a_convolution(reduce: bool) -> None:
    """Omega and Gamma of Grosse and Martens (2016).

    Reduced, an example's mean input and summed gradient.
    """
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 2).double()
    inputs, captured = torch.randn(4, 2, 3, 3).double(), torch.randn(4, 3, 2, 2).double()
    omega, gamma = torch.zeros(9, 9).double(), torch.zeros(3, 3).double()
    for n in range(4):
        places = [(i, j) for i in range(2) for j in range(2)]
        patches = [
            torch.cat([inputs[n, :, i : i + 2, j : j + 2].flatten(), torch.ones(1).double()])
            for i, j in places
        ]
        gradients = [4 * captured[n, :, i, j] for i, j in places]
        if reduce:
            patches, gradients = [torch.stack(patches).mean(0)], [torch.stack(gradients).sum(0)]
        omega += sum(torch.outer(patch, patch) for patch in patches) / 4
        gamma += sum(torch.outer(gradient, gradient) for gradient in gradients) / (
            4 * len(gradients)
        )
    factors = factors_of(layer, inputs, captured, Measure(terms=4, scale=1.0, reduce=reduce))
    close(factors["a"], omega)
    close(factors["g"], gamma)


def test_factors_have_the_weights_precision() -> None:
    factors = factors_of(
        nn.Linear(3, 2), torch.randn(4, 3).bfloat16(), torch.randn(4, 2).bfloat16(), Measure(4, 1.0)
    )
    assert {factor.dtype for factor in factors.values()} == {torch.float32}
    half = factors_of(
        nn.Linear(3, 2).bfloat16(),
        torch.randn(4, 3).bfloat16(),
        torch.randn(4, 2).bfloat16(),
        Measure(4, 1.0),
    )
    assert {factor.dtype for factor in half.values()} == {torch.float32}


@pytest.mark.parametrize("split", ["trace", "equal"])
@pytest.mark.parametrize("damping", [1e-4, 1.0, 1e3])
def test_factored_damping_is_a_dense_solve(damping: float, split: str) -> None:
    a, g = spd(4, 0), 0.01 * spd(3, 1)
    pi = ((a.trace() / 4) / (g.trace() / 3)).sqrt() if split == "trace" else torch.ones(()).double()
    eye = torch.eye(4).double()
    dense = torch.kron(g + damping**0.5 / pi * eye[:3, :3], a + pi * damping**0.5 * eye)
    block, state = block_of(nn.Linear(3, 3).double()), {"a": a, "g": g}
    Cholesky(split).refresh([(block, state, damping)], Counter())
    gradient = torch.randn(3, 4).double()
    close(
        Cholesky().solve(block, state, damping, gradient).flatten(),
        torch.linalg.solve(dense, gradient.flatten()),
    )
    Eigen().refresh([(block, state, damping)], Counter())
    exact = torch.kron(g, a) + damping * torch.eye(12).double()
    close(
        Eigen().solve(block, state, damping, gradient).flatten(),
        torch.linalg.solve(exact, gradient.flatten()),
    )


def test_dead_inputs_and_factors_that_are_not_finite() -> None:
    block, unit = block_of(nn.Linear(2, 2, bias=False).double()), torch.eye(2).double()
    for dead, alive in (("a", "g"), ("g", "a")):
        state = {dead: 0 * unit, alive: unit}
        Cholesky().refresh([(block, state, 0.25)], Counter())
        close(state[f"{dead}_inverse"], 2 * unit)  # pi falls back to one
        close(state[f"{alive}_inverse"], unit / 1.5)
    failures: Counter[str] = Counter()
    broken = [{"a": float("nan") * unit, "g": unit}, {"a": unit, "g": float("inf") * unit}]
    healthy = {"a": unit, "g": unit}
    Cholesky().refresh(
        [(block, state, 0.25) for state in (broken[0], healthy, broken[1])], failures
    )
    assert failures == {"inverse": 2}
    assert [set(state) for state in broken] == [{"a", "g"}] * 2
    close(healthy["a_inverse"], unit / 1.5)


def test_blocks_of_equal_shape_are_inverted_as_each_alone() -> None:
    blocks = [block_of(nn.Linear(3, 3).double()) for _ in range(4)]
    states = [{"a": spd(4, seed), "g": spd(3, 10 + seed)} for seed in range(4)]
    states[2]["g"] = -states[2]["g"]
    for ways in (Cholesky(), Eigen()):
        together, alone = ([dict(state) for state in states] for _ in range(2))
        failures: Counter[str] = Counter()
        ways.refresh(
            [(block, state, 0.1) for block, state in zip(blocks, together, strict=True)], failures
        )
        for block, state in zip(blocks, alone, strict=True):
            ways.refresh([(block, state, 0.1)], Counter())
        assert failures == ({"inverse": 1} if isinstance(ways, Cholesky) else {})
        gradient = torch.randn(3, 4).double()
        for number, (block, one, other) in enumerate(zip(blocks, together, alone, strict=True)):
            assert one.keys() == other.keys()
            if number != 2:
                close(
                    ways.solve(block, one, 0.1, gradient), ways.solve(block, other, 0.1, gradient)
                )
        assert bool(ways.stored(together[2])) is isinstance(ways, Eigen)
