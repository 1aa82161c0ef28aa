"""A curvature matrix as a linear map, together with the loss and the gradient at the same point."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from optimizers.phases import phased

Product = Callable[[Tensor], Tensor]


class Curvature:
    """A symmetric matrix of size n, known by its products: `matrix(v)` for a vector (n,).

    The graph behind it is kept, so a product costs no new forward pass; changing the parameters in
    place ends its life.

    Attributes:
        loss: the loss at the point of expansion, detached.
        gradient: the gradient there, flat, shape (n,), detached.
    """

    def __init__(
        self,
        loss: Tensor,
        gradient: Tensor,
        product: Product,
        rows: Product,
        count: Callable[[int], None],
    ) -> None:
        self.loss = loss
        self.gradient = gradient
        self._product = product
        self._rows = rows
        self._count = count

    @phased("curvature")
    def __call__(self, vector: Tensor) -> Tensor:
        """The product with a vector (n,); counted."""
        self._count(1)
        return self._product(vector)

    def dense(self, chunk: int = 256) -> Tensor:
        """The whole matrix (n, n), symmetrised.

        It takes n products, `chunk` of them at a time where autograd can batch them.
        """
        size = self.gradient.numel()
        matrix = self.rows(
            torch.eye(size, dtype=self.gradient.dtype, device=self.gradient.device), chunk
        )
        return (matrix + matrix.T) / 2

    @phased("curvature")
    def rows(self, vectors: Tensor, chunk: int = 256) -> Tensor:
        """The products with every row of (k, n), `chunk` at a time where autograd can batch."""
        self._count(len(vectors))
        return torch.cat(
            [batched(self._rows, self._product, part) for part in vectors.split(chunk)]
        )


def batched(rows_product: Product, product: Product, rows: Tensor) -> Tensor:
    """Products with every row of (k, n), one by one where there is no batching rule."""
    try:
        return rows_product(rows)
    except RuntimeError:
        return torch.stack([product(row) for row in rows])
