"""Blocks of a net, and dense matrices that they are checked against."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from optimizers.natural_gradient.blocks import Block, Measure
from optimizers.natural_gradient.model_blocks import blocks_of
from optimizers.natural_gradient.scale_shift import ScaleShiftBlock
from tests.optimizers.cases import Problem, Reference, close


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def classes(high: int, *shape: int, seed: int = 2) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def factored(
    problem: Problem, fisher: str = "exact", **options: object
) -> tuple[list[tuple[Block, dict]], float]:
    """The blocks of a problem's model with their factors, and the scale of its loss."""
    blocks = blocks_of(problem.model, {id(parameter): 0 for parameter in problem.params})
    kinds = tuple({type(module) for block in blocks for module in block.modules})
    objective = problem.objective()
    _, passes = objective.scores(kinds, fisher)
    measure = Measure(objective.terms, objective.scale, **options)  # type: ignore[arg-type]
    block_sums = [(block, block.sums(passes, measure)) for block in blocks]
    return [
        (block, block.factors(sums)) for block, sums in block_sums if sums is not None
    ], objective.scale


def indices(problem: Problem, block: Block) -> Tensor:
    """Where the entries of a block's matrix stand in the flat vector of all parameters."""
    offsets, offset = {}, 0
    for parameter in problem.params:
        offsets[id(parameter)] = torch.arange(offset, offset + parameter.numel()).view(
            parameter.shape
        )
        offset += parameter.numel()
    return block.matrix([offsets[id(parameter)] for parameter in block.parameters]).long()


def dense(block: Block, factors: dict[str, Tensor]) -> Tensor:
    """The block as matrices (K, n, n), in the order of the entries of each of its matrices."""
    if isinstance(block, ScaleShiftBlock):
        return factors["b"]
    full = {n: f if block.is_dense(f) else torch.diag_embed(f) for n, f in factors.items()}
    a, g = (full[name].reshape(-1, *full[name].shape[-2:]) for name in ("a", "g"))
    return torch.stack([torch.kron(one_g, one_a) for one_a, one_g in zip(a, g, strict=True)])


def exact(problem: Problem, block: Block) -> Tensor:
    """The same part of the exact Gauss-Newton matrix."""
    ggn = Reference(problem).ggn()
    index = indices(problem, block)
    stack = index.reshape(-1, *index.shape[-2:]).flatten(1)
    return torch.stack([ggn[row][:, row] for row in stack])


def assert_exact(problem: Problem, names: set[str] | None = None, **options: object) -> None:
    """Every block, or those of the names, equals the exact one; all parameters have a block."""
    factored_blocks, scale = factored(problem, **options)
    checked = set()
    for block, factors in factored_blocks:
        if names is None or block.name in names:
            close(scale * dense(block, factors), exact(problem, block), 1e-12)
            checked.add(block.name)
    if names is None:
        assert {id(p) for block, _ in factored_blocks for p in block.parameters} == {
            id(p) for p in problem.params
        }
    else:
        assert checked == names


def net(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(*layers).double()
    for name, parameter in model.named_parameters():
        if "bias" in name or parameter.ndim == 1:
            nn.init.normal_(parameter)
    return model
