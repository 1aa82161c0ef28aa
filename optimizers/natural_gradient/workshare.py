"""Inverses shared out over ranks: one rank computes each, one or all store it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optimizers.distributed import SingleProcess
from optimizers.natural_gradient.blocks import Block
from optimizers.natural_gradient.inverses import Inverses, State


def owners_of(blocks: Sequence[Block], size: int) -> dict[int, int]:
    """The rank that inverts each block, by `id`: the costliest first, to the least busy rank."""
    busy = [0.0] * size
    owners: dict[int, int] = {}
    for block in sorted(blocks, key=lambda block: -block.inverse_cost()):
        rank = busy.index(min(busy))
        busy[rank] += block.inverse_cost()
        owners[id(block)] = rank
    return owners


def hand_out(
    work: Sequence[tuple[Block, State]],
    owner: dict[int, int],
    inverses: Inverses,
    ranks: SingleProcess,
) -> set[int]:
    """Give every rank the owners' inverses, in one sum; the `id`s of the blocks that have one."""
    held = [
        bool(inverses.stored(state)) and owner[id(block)] == ranks.rank for block, state in work
    ]
    blanks = [inverses.blank(block, state) for block, state in work]
    shared = [
        {
            name: state[name].clone(memory_format=torch.contiguous_format) if mine else blank[name]
            for name in blank
        }
        for (_, state), mine, blank in zip(work, held, blanks, strict=True)
    ]
    ready = gathered_flags(work, held, ranks)
    ranks.all_reduce_([tensor for tensors in shared for tensor in tensors.values()])
    for (block, state), tensors in zip(work, shared, strict=True):
        if id(block) in ready:
            state.update(tensors)
    return ready


def gathered_flags(
    work: Sequence[tuple[Block, State]], held: Sequence[bool], ranks: SingleProcess
) -> set[int]:
    """The `id`s of the blocks for which some rank's flag is set."""
    if not work:
        return set()
    block, _ = work[0]
    flags: Tensor = block.parameters[0].new_tensor([float(flag) for flag in held])
    ranks.all_reduce_([flags])
    return {id(block) for (block, _), flag in zip(work, flags.tolist(), strict=True) if flag}
