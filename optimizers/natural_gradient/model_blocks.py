"""Which parameters of a network have a block, and with which others they share it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from optimizers.natural_gradient.blocks import Block, KroneckerBlock
from optimizers.natural_gradient.layer_maps import LinearMap, linear_maps_of
from optimizers.natural_gradient.scale_shift import SCALE_SHIFT, scale_shift_blocks


def blocks_of(model: nn.Module, group_of: Mapping[int, int]) -> list[Block]:
    """The blocks of a model: of its normalising layers, then of its linear maps, in their order.

    A weight and its bias share a block unless one of them is frozen, belongs to several layers or
    to another parameter group. The uses of a weight by several layers are one block. A parameter
    that a layer of an unknown kind owns has none.

    Args:
        model: the network.
        group_of: the parameter group of each trained parameter, by its `id`.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    owners, trained = _owners(model), _trained(model, group_of)
    unshared = {key: group for key, group in trained.items() if owners[key] == 1}
    maps = [linear_map for module in model.modules() for linear_map in linear_maps_of(module)]
    uses = _uses(maps)
    known = {key: group for key, group in trained.items() if owners[key] == uses[key]}
    return [
        *_normalising_blocks(model, names, unshared),
        *_kronecker_blocks(maps, names, owners, known),
    ]


def _owners(model: nn.Module) -> Counter[int]:
    """How many modules hold each parameter, by its `id`."""
    parameters = (p for module in model.modules() for p in module._parameters.values())
    return Counter(id(p) for p in parameters if p is not None)


def _trained(model: nn.Module, group_of: Mapping[int, int]) -> dict[int, int]:
    """The group of each trained parameter of the model, by the parameter's `id`."""
    keys = (id(p) for p in model.parameters() if p.requires_grad)
    return {key: group_of[key] for key in keys if key in group_of}


def _uses(maps: Sequence[LinearMap]) -> Counter[int]:
    """How many linear maps use each parameter, by its `id`."""
    parameters = (p for linear_map in maps for p in (linear_map.weight, linear_map.bias))
    return Counter(id(p) for p in parameters if p is not None)


def _normalising_blocks(
    model: nn.Module, names: Mapping[int, str], unshared: Mapping[int, int]
) -> Iterator[Block]:
    for module in model.modules():
        if type(module) in SCALE_SHIFT:
            yield from scale_shift_blocks(module, names, unshared)


def _kronecker_blocks(
    maps: Sequence[LinearMap],
    names: Mapping[int, str],
    owners: Mapping[int, int],
    known: Mapping[int, int],
) -> list[Block]:
    """The blocks of the parameters that linear maps alone use.

    Args:
        maps: the linear maps.
        names: of all parameters, by their `id`.
        owners: the number of modules that hold a parameter.
        known: the parameter group of each of these parameters.
    """
    blocks: list[Block] = []
    of_weight: dict[int, KroneckerBlock] = {}
    for linear_map in maps:
        weight, bias = _key(linear_map.weight, known), _key(linear_map.bias, known)
        unshared = owners[weight] == 1 and owners[bias] == 1
        if unshared and known[weight] == known[bias]:
            blocks.append(KroneckerBlock(names[weight], [linear_map], weight=True, bias=True))
            continue
        if weight in of_weight:
            of_weight[weight].maps.append(linear_map)
        elif weight:
            of_weight[weight] = KroneckerBlock(names[weight], [linear_map], weight=True, bias=False)
            blocks.append(of_weight[weight])
        if bias and owners[bias] == 1:
            blocks.append(KroneckerBlock(names[bias], [linear_map], weight=False, bias=True))
    return blocks


def _key(parameter: nn.Parameter | None, known: Mapping[int, int]) -> int:
    """The `id` of a known parameter, 0 for any other."""
    return id(parameter) if parameter is not None and id(parameter) in known else 0
