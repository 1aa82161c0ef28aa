"""A few flat vectors as the rows of one matrix, split over the parameters' state."""

from __future__ import annotations

import torch
from torch import Tensor

from optimizers.linalg.flat import unflatten
from optimizers.method import Method

PRECISIONS = {"parameter": None, "float32": torch.float32, "bfloat16": torch.bfloat16}
CHUNK = 32  # rows converted to float32 at a time


class Rows:
    """A matrix (count, n), zero at first, whose columns lie in the state of their parameters.

    Parameter p holds its columns as `state[p][key]`, of shape (count, *p.shape). All these tensors
    are views of one matrix, for products. After a checkpoint is loaded they are gathered into one
    matrix again.

    Args:
        method: the method whose parameters hold the columns.
        key: the name of the columns in the state.
        count: the number of rows.
        precision: `parameter`, `float32` or `bfloat16`; products with rows in bfloat16 are taken in
            float32.
    """

    def __init__(self, method: Method, key: str, count: int, precision: str = "parameter") -> None:
        self.method = method
        self.key = key
        self.count = count
        self.precision = PRECISIONS[precision]
        self._matrix: Tensor | None = None
        self._views: list[Tensor] = []

    def matrix(self) -> Tensor:
        """All rows, (count, n)."""
        params = self.method.parameters()
        columns = [self.method.state[p].get(self.key) for p in params]
        if self._matrix is not None and all(
            a is b for a, b in zip(columns, self._views, strict=True)
        ):
            return self._matrix
        dtype = self.precision or params[0].dtype
        sizes = [p.numel() for p in params]
        matrix = torch.zeros(self.count, sum(sizes), dtype=dtype, device=params[0].device)
        views = unflatten(matrix, params)
        for p, view, old in zip(params, views, columns, strict=True):
            if old is not None:
                view.copy_(old)
            self.method.state[p][self.key] = view
        self._matrix, self._views = matrix, views
        return matrix

    @property
    def resolution(self) -> float:
        """The relative rounding of the products."""
        return float(torch.finfo(torch.promote_types(self.matrix().dtype, torch.float32)).eps)

    def rounded(self, vector: Tensor) -> Tensor:
        """A vector rounded to the rows' precision, in the precision of the products."""
        row = vector.to(self.precision or vector.dtype)
        return row.float() if row.dtype == torch.bfloat16 else row

    def times(self, vector: Tensor) -> Tensor:
        """The products (count,) of the rows with a vector (n,)."""
        matrix = self.matrix()
        if matrix.dtype != torch.bfloat16:
            return matrix @ vector
        return torch.cat([part.float() @ vector for part in matrix.split(CHUNK)])

    def combined(self, weights: Tensor) -> Tensor:
        """The sum (n,) of the rows, each times its weight."""
        matrix = self.matrix()
        if matrix.dtype != torch.bfloat16:
            return weights.to(matrix.dtype) @ matrix
        parts = zip(weights.float().split(CHUNK), matrix.split(CHUNK), strict=True)
        total = torch.zeros(matrix.shape[1], device=matrix.device)
        for some, part in parts:
            total += some @ part.float()
        return total
