"""The second moment of a convolution's patches without the patches."""

from __future__ import annotations

import torch
from torch import Tensor


def stripe_moment(
    stripes: Tensor, kernel: int, dilation: int, padding: tuple[int, ...], bias: bool
) -> Tensor:
    """The sum of p p' over all patches p = (in, kernel, *kernels) of an input.

    It is made of patches along all axes but one. Two rows i and j of the kernel meet the rows r and
    r + (j - i) dilation of the input, r over as many as there are outputs from i * dilation on. For
    pairs of equal distance these are the same products but for a few rows at both ends: instead of
    kernel^2 products over all rows it takes `kernel`, each of a part 1 / kernel of a patch with
    another, and no patch is written down. With `bias` a one is appended to every patch.

    Args:
        stripes: (rows, N, *places, *kernels, in), `kernels` the kernel's other axes.
        kernel: the kernel's length along the rows.
        dilation: the distance of its rows.
        padding: how many rows at the beginning and at the end are zeros.
        bias: whether there is a one.
    """
    rows, axes = len(stripes), (stripes.ndim - 3) // 2
    others = stripes.shape[2 + axes : -1].numel()
    flat = stripes.reshape(rows, -1, others * stripes.shape[-1])
    outputs, each = rows - dilation * (kernel - 1), flat.shape[1]
    flat = flat.flatten(0, 1)

    def product(first: int, last: int, distance: int) -> Tensor:
        first, last = max(first, padding[0]), min(last, rows - padding[1] - distance)
        last = max(first, last)
        other = flat[(first + distance) * each : (last + distance) * each]
        return flat[first * each : last * each].mT.mm(other)

    blocks = flat.new_zeros(kernel, kernel, flat.shape[1], flat.shape[1])
    for apart in range(kernel):
        distance, latest = apart * dilation, (kernel - 1 - apart) * dilation
        common = product(latest, outputs, distance)
        for i in range(kernel - apart):
            start = i * dilation
            ends = product(start, latest, distance) + product(outputs, outputs + start, distance)
            block = common + ends
            blocks[i, i + apart], blocks[i + apart, i] = block, block.mT
    split: Tensor = blocks.unflatten(3, (others, -1)).unflatten(2, (others, -1))
    # (in, kernel, *kernels) twice
    moment = split.permute(3, 0, 2, 5, 1, 4).flatten(3).flatten(0, 2)
    if not bias:
        return moment
    of_rows = flat.unflatten(0, (rows, each)).sum(1)
    starts = [i * dilation for i in range(kernel)]
    column = torch.stack([of_rows[start : start + outputs].sum(0) for start in starts])
    column = column.unflatten(1, (others, -1)).movedim(2, 0).reshape(-1, 1)
    corner = column.new_full((1, 1), float(outputs * each))
    return torch.cat([torch.cat([moment, column], 1), torch.cat([column.mT, corner], 1)])
