"""Which parameters of a network have a block, and with which others they share it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from torch import nn

from optimizers.natural_gradient.blocks import Block, KroneckerBlock
from optimizers.natural_gradient.scale_shift import SCALE_SHIFT, scale_shift_blocks
from optimizers.natural_gradient.sites import sites_of


def blocks_of(model: nn.Module, group_of: Mapping[int, int]) -> list[Block]:
    """The blocks of a model, in the order of its layers.

    A weight and its bias share a block unless one of them is frozen, belongs to several layers or
    to another parameter group. The uses of a weight by several layers are one block. A parameter
    that a layer of an unknown kind owns has none.

    Args:
        model: the network.
        group_of: the parameter group of each trained parameter, by its `id`.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    sites = [site for module in model.modules() for site in sites_of(module)]
    owners = Counter(
        id(p) for module in model.modules() for p in module._parameters.values() if p is not None
    )
    weights = Counter(id(site.weight) for site in sites if site.weight is not None)
    biases = Counter(id(site.bias) for site in sites if site.bias is not None)
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad} & set(
        group_of
    )
    known = {key for key in trained if owners[key] == weights[key] + biases[key]}
    blocks: list[Block] = []
    of_weight: dict[int, KroneckerBlock] = {}
    unshared = {key: group_of[key] for key in trained if owners[key] == 1}
    for module in model.modules():
        if type(module) in SCALE_SHIFT:
            blocks += scale_shift_blocks(module, names, unshared)
    for site in sites:
        weight, bias = _key(site.weight, known), _key(site.bias, known)
        alone = owners[weight] == 1 and owners[bias] == 1
        if weight and bias and alone and group_of[weight] == group_of[bias]:
            blocks.append(KroneckerBlock(names[weight], [site], weight=True, bias=True))
            continue
        if weight in of_weight:
            of_weight[weight].sites.append(site)
        elif weight:
            of_weight[weight] = KroneckerBlock(names[weight], [site], weight=True, bias=False)
            blocks.append(of_weight[weight])
        if bias and owners[bias] == 1:
            blocks.append(KroneckerBlock(names[bias], [site], weight=False, bias=True))
    return blocks


def _key(parameter: nn.Parameter | None, known: set[int]) -> int:
    return id(parameter) if parameter is not None and id(parameter) in known else 0
