r"""Blocks of the Fisher matrix: the parameters that share one, its factors, its damped inverse.

A layer s = W abar (abar the input, with a one appended for the bias) has the block A (x) G with A =
E[abar abar'] and G = E[g g'], g the gradient of one example's loss by s (Martens and Grosse, 2015,
eq. 1; for convolutions Grosse and Martens, 2016, eq. 14; for shared weights Eschenhagen et al.,
2023, sections 3.1 `expand` and 3.2 `reduce`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from optimizers.layers.capture import Captured, LayerRecord
from optimizers.natural_gradient.layer_maps import LinearMap

CHUNK = 2**20  # numbers in the rows of a layer that are held at a time

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Measure:
    """How captured tensors become factors.

    Attributes:
        terms: the number of log-likelihood terms of the whole mini-batch.
        scale: the factor between the loss and the canonical one.
        reduce: whether the positions of a shared weight are summed within an example before the
            outer products.
        largest: the dimension above which only a factor's diagonal is kept.
    """

    terms: int
    scale: float
    reduce: bool = False
    largest: float = float("inf")


class Block(ABC):
    """Parameters whose part of the Fisher matrix is kept, and how it is kept."""

    def __init__(self, name: str, parameters: Sequence[nn.Parameter]) -> None:
        self.name = name
        self.parameters = list(parameters)

    @abstractmethod
    def matrix(self, tensors: Sequence[Tensor]) -> Tensor:
        """Tensors shaped like the parameters as the matrix, or stack of matrices, of `solve`."""

    @abstractmethod
    def tensors(self, matrix: Tensor) -> list[Tensor]:
        """The inverse of `matrix`."""

    @abstractmethod
    def sums(self, passes: Sequence[Captured], measure: Measure) -> Tensors | None:
        """What a mini-batch adds: sums over its examples, which may be added up over ranks.

        None if it was not used.
        """

    def factors(self, sums: Tensors) -> Tensors:
        """The factors from the sums over all examples."""
        return sums

    @property
    @abstractmethod
    def modules(self) -> list[nn.Module]:
        """The layers that have to be captured."""

    @abstractmethod
    def state_bytes(self, largest: float) -> int:
        """The bytes of the factors and their inverses."""

    def inverse_cost(self) -> float:
        """The relative cost of inverting the block, by which blocks are shared out over ranks."""
        return float(sum(size**3 for size in self.matrix(self.parameters).shape[-2:]))

    @abstractmethod
    def is_dense(self, factor: Tensor) -> bool:
        """Whether a factor is kept as a matrix, not as its diagonal."""

    @abstractmethod
    def damped(self, factors: Tensors, damping: float, split: str = "trace") -> Tensors:
        """The matrices to be inverted; `split` says how two factors share the damping."""

    @abstractmethod
    def solve(self, inverses: Tensors, matrix: Tensor) -> Tensor:
        """The damped inverse of the block times a matrix, given the inverses of `damped`."""


class KroneckerBlock(Block):
    """A (x) G of one weight matrix, its bias in the last column, or of either alone.

    Several linear maps may share a weight: their contributions are summed. Uses of one orientation
    count as further examples; a weight that serves as a matrix and as its transpose (a tied
    embedding and output layer) has a sum of two Kronecker products, of which the one with the same
    partial traces is kept.

    Args:
        name: of the parameters.
        maps: where the weight is used; the first one's matrix is the block's.
        weight, bias: whether the block has them.
    """

    def __init__(self, name: str, maps: Sequence[LinearMap], weight: bool, bias: bool) -> None:
        self.maps = list(maps)
        self.weight, self.bias = weight, bias
        first = self.maps[0]
        parts = [first.weight] * weight + [first.bias] * bias
        super().__init__(name, [part for part in parts if part is not None])
        self.groups = first.groups
        self.dtype = torch.promote_types(self.parameters[0].dtype, torch.float32)

    def matrix(self, tensors: Sequence[Tensor]) -> Tensor:
        """The weight as its linear map's matrix, the bias as the last column."""
        linear_map, columns = self.maps[0], []
        if self.weight:
            columns.append(linear_map.weight_matrix(tensors[0]))
        if self.bias:
            columns.append(linear_map.bias_matrix(tensors[-1]))
        return (columns[0] if len(columns) == 1 else torch.cat(columns, dim=-1)).to(self.dtype)

    def tensors(self, matrix: Tensor) -> list[Tensor]:
        """The matrix's columns as weight and bias, in their own types."""
        linear_map = self.maps[0]
        parts = []
        if self.weight:
            parts.append(linear_map.weight_tensor(matrix[..., :-1] if self.bias else matrix))
        if self.bias:
            parts.append(linear_map.bias_tensor(matrix[..., -1:]))
        return [
            part.reshape(p.shape).to(p.dtype)
            for part, p in zip(parts, self.parameters, strict=True)
        ]

    @property
    def modules(self) -> list[nn.Module]:
        """The layers whose linear maps use the weight."""
        return [linear_map.module for linear_map in self.maps]

    def state_bytes(self, largest: float) -> int:
        """2 (in^2 + out^2) numbers; in or out of them for a diagonal."""
        out, size = self.matrix(self.parameters).shape[-2:]
        one_hot = self.weight and all(linear_map.one_hot for linear_map in self.maps)
        numbers = [d if d > largest or (one_hot and d == size) else d * d for d in (size, out)]
        return 2 * sum(numbers) * (self.groups or 1) * torch.finfo(self.dtype).bits // 8

    def is_dense(self, factor: Tensor) -> bool:
        """Whether a factor has two axes beside that of a stack."""
        return factor.ndim == (2 if self.groups is None else 3)

    # -- statistics --------------------------------------------------------------------------------

    def uses(self, passes: Sequence[Captured]) -> Iterator[tuple[LinearMap, Tensor, list[Tensor]]]:
        """Each use of the weight: its linear map, the captured input, the passes' output gradients.

        A layer that was called on one example without a batch axis gets one.
        """
        for linear_map in (part for whole in self.maps for part in whole.parts()):
            key = linear_map.key
            records = [captured[key] for captured in passes if key in captured]
            for value, gradients in reached(records, len(passes)):
                if gradients[0].ndim == linear_map.axes:
                    value, gradients = value.unsqueeze(0), [one.unsqueeze(0) for one in gradients]
                yield linear_map, value, gradients

    def rows(
        self, linear_map: LinearMap, value: Tensor, gradients: Sequence[Tensor], measure: Measure
    ) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """The rows abar (..., N, T, in + bias) and g (..., N, T, out) of one use, in pieces.

        A piece holds some of the examples. A linear map that is one of several gives zeros for the
        others.
        """
        for a, g in self._pieces(linear_map, value, gradients, measure):
            yield linear_map.placed(a), [linear_map.placed(one) for one in g]

    def _pieces(
        self, linear_map: LinearMap, value: Tensor, gradients: Sequence[Tensor], measure: Measure
    ) -> Iterator[tuple[Tensor, list[Tensor]]]:
        size = max(1, linear_map.inputs_per_example(value)) if self.weight else 1
        count = max(1, CHUNK // size)
        split = zip(*(gradient.split(count) for gradient in gradients), strict=True)
        for part, by_pass in zip(value.split(count), split, strict=True):
            g = [self._output_rows(linear_map, part, one, measure) for one in by_pass]
            a = self._abar(linear_map, part, g[0])
            yield a.mean(-2, keepdim=True) if measure.reduce else a, g

    def _output_rows(
        self, linear_map: LinearMap, value: Tensor, gradient: Tensor, measure: Measure
    ) -> Tensor:
        """The rows g of an output gradient, zero where a position takes no part."""
        rows = linear_map.gradients(gradient).to(self.dtype) * (measure.terms / measure.scale)
        counted = linear_map.counted(value)
        rows = rows if counted is None else rows * counted.unsqueeze(-1)
        return rows.sum(-2, keepdim=True) if measure.reduce else rows

    def _abar(self, linear_map: LinearMap, value: Tensor, like: Tensor) -> Tensor:
        columns = [linear_map.inputs(value).to(self.dtype)] if self.weight else []
        columns += [like.new_ones(*(columns or [like])[0].shape[:-1], 1)] if self.bias else []
        return columns[0] if len(columns) == 1 else torch.cat(columns, dim=-1)

    def sums(self, passes: Sequence[Captured], measure: Measure) -> Tensors | None:
        """Sums of abar abar' and of g g' over all uses, and the number of positions."""
        sums: Tensors = {}
        for linear_map, value, gradients in self.uses(passes):
            mark = "" if linear_map.transposed == self.maps[0].transposed else "_transposed"
            for a, g, rows in self._moments(linear_map, value, gradients, measure):
                new = {"a": a / measure.terms, "g": g, "rows": a.new_tensor(float(rows))}
                for name, tensor in new.items():
                    known, tensor = sums.get(name + mark), linear_map.placed(tensor)
                    sums[name + mark] = tensor if known is None else _added(known, tensor)
        return sums or None

    def _moments(
        self, linear_map: LinearMap, value: Tensor, gradients: Sequence[Tensor], measure: Measure
    ) -> Iterator[tuple[Tensor, Tensor, int]]:
        """The sums of a a' and of g g' over a use's positions, and their number, in pieces."""
        moment = None
        if self.weight and not measure.reduce:
            moment = linear_map.input_moment(value, self.bias, measure.largest, self.dtype)
        if moment is not None:
            outputs = (self._output_rows(linear_map, value, one, measure) for one in gradients)
            counted = linear_map.counted(value)
            rows = (
                linear_map.gradients(gradients[0])[..., 0].shape[-2:].numel()
                if counted is None
                else int(counted.sum())
            )
            yield moment, _total_moment(outputs, measure.largest), rows
            return
        for a, g in self._pieces(linear_map, value, gradients, measure):
            a_sum = _moment(a, 0 if linear_map.one_hot else measure.largest)
            yield a_sum, _total_moment(g, measure.largest), a.shape[-3] * a.shape[-2]

    def second_moments(
        self, passes: Sequence[Captured], measure: Measure, bases: Tensors
    ) -> Tensor:
        """The sum over examples of (Q_G' W'_n Q_A)^2 / terms, shaped like the block's matrix.

        W'_n is an example's gradient, summed over its positions; `bases` holds Q_A as `a_basis` and
        Q_G as `g_basis`, none for a factor that is kept as its diagonal.
        """
        total = torch.zeros_like(self.matrix(self.parameters))
        for linear_map, value, gradients in self.uses(passes):
            swapped = linear_map.transposed != self.maps[0].transposed
            for a, by_pass in self.rows(linear_map, value, gradients, measure):
                for g in by_pass:
                    left, right = (a, g) if swapped else (g, a)
                    total += _squares(
                        _in_basis(left, bases, "g_basis"), _in_basis(right, bases, "a_basis")
                    )
        return total / measure.terms

    def factors(self, sums: Tensors) -> Tensors:
        """A = E[abar abar'] and G = E[g g'], the nearest A (x) G where there are two products."""
        if "a" in sums and "a_transposed" not in sums:
            return {"a": sums["a"], "g": _mean(sums["g"], sums["rows"])}
        swapped = (_mean(sums["g_transposed"], sums["rows_transposed"]), sums["a_transposed"])
        if "a" not in sums:
            return dict(zip(("a", "g"), swapped, strict=True))
        return self._nearest([(sums["a"], _mean(sums["g"], sums["rows"])), swapped])

    def _nearest(self, terms: Sequence[tuple[Tensor, Tensor]]) -> Tensors:
        """The Kronecker product with the partial traces of a sum of several."""
        traces = [(self._trace(a), self._trace(g)) for a, g in terms]
        total = torch.stack([ta * tg for ta, tg in traces]).sum(0).sqrt()
        total = torch.where(total > 0, total, torch.ones_like(total))
        weighted = [
            (self._times(tg / total, a), self._times(ta / total, g))
            for (a, g), (ta, tg) in zip(terms, traces, strict=True)
        ]
        a, g = weighted[0]
        for other_a, other_g in weighted[1:]:
            a, g = _added(a, other_a), _added(g, other_g)
        return {"a": a, "g": g}

    def _times(self, number: Tensor, factor: Tensor) -> Tensor:
        return number.reshape(number.shape + (1,) * self._axes(factor)) * factor

    def _axes(self, factor: Tensor) -> int:
        return 2 if self.is_dense(factor) else 1

    def _diagonal(self, factor: Tensor) -> Tensor:
        return factor.diagonal(dim1=-2, dim2=-1) if self.is_dense(factor) else factor

    def _trace(self, factor: Tensor) -> Tensor:
        return self._diagonal(factor).sum(-1)

    # -- the inverse -------------------------------------------------------------------------------

    def damped(self, factors: Tensors, damping: float, split: str = "trace") -> Tensors:
        """A + pi sqrt(damping) I and G + sqrt(damping) / pi I.

        Martens and Grosse, 2015, section 6.3. Split `trace`: pi^2 is the ratio of the factors' mean
        eigenvalues; `equal`: pi is 1.
        """
        mean_a, mean_g = (self._diagonal(factors[name]).mean(-1) for name in ("a", "g"))
        ratio = mean_a / mean_g
        usable = (ratio > 0) & torch.isfinite(ratio) & (split == "trace")
        pi = torch.where(usable, ratio, torch.ones_like(ratio)).sqrt()
        root = damping**0.5
        return {
            "a": self._shifted(factors["a"], pi * root),
            "g": self._shifted(factors["g"], root / pi),
        }

    def _shifted(self, factor: Tensor, shift: Tensor) -> Tensor:
        if not self.is_dense(factor):
            return factor + shift[..., None]
        shifted = factor.clone()
        shifted.diagonal(dim1=-2, dim2=-1).add_(shift[..., None])
        return shifted

    def solve(self, inverses: Tensors, matrix: Tensor) -> Tensor:
        """G^{-1} M A^{-1}, element by element for a diagonal."""
        a, g = inverses["a"], inverses["g"]
        matrix = g @ matrix if self.is_dense(g) else g.unsqueeze(-1) * matrix
        return matrix @ a if self.is_dense(a) else matrix * a.unsqueeze(-2)


def reached(records: Sequence[LayerRecord], count: int) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """The input and the gradients of each use that all `count` backward passes reached."""
    for use, value in enumerate(records[0].inputs if records else []):
        gradients = [record.gradients[use] for record in records]
        known = [gradient for gradient in gradients if gradient is not None]
        if len(known) == count:
            yield value, known


def _moment(rows: Tensor, largest: float) -> Tensor:
    """The sum of r r' over all rows (..., N, T, d), or its diagonal where d is too large."""
    if rows.shape[-1] > largest:
        return rows.square().sum((-3, -2))
    if rows.stride(-1) != 1 and rows.shape[-1] <= rows.shape[-2]:  # channels before places: no copy
        return (rows.mT @ rows).sum(-3)
    flat = rows.flatten(-3, -2)
    return flat.mT @ flat


def _total_moment(rows: Iterable[Tensor], largest: float) -> Tensor:
    moments = (_moment(one, largest) for one in rows)
    return sum(moments, start=next(moments))


def _mean(total: Tensor, count: Tensor) -> Tensor:
    """A sum over positions over their number, one for a whole stack or one for each matrix."""
    return total / count.clamp(min=1).reshape(count.shape + (1,) * (total.ndim - count.ndim))


def _in_basis(rows: Tensor, bases: Tensors, name: str) -> Tensor:
    if name not in bases:
        return rows
    basis = bases[name]
    return rows @ (basis if basis.ndim == 2 else basis.unsqueeze(1))


def _squares(left: Tensor, right: Tensor) -> Tensor:
    """sum_n (sum_t l_nt r_nt')^2, of rows (..., N, T, out) and (..., N, T, in)."""
    if left.shape[-2] == 1:
        return left.squeeze(-2).square().mT @ right.squeeze(-2).square()
    count = max(1, CHUNK // (left.shape[-1] * right.shape[-1]))
    parts = zip(left.split(count, dim=-3), right.split(count, dim=-3), strict=True)
    return torch.stack([(one.mT @ other).square().sum(-3) for one, other in parts]).sum(0)


def _added(one: Tensor, other: Tensor) -> Tensor:
    """The sum of two factors, either of which may be a diagonal."""
    if one.ndim < other.ndim:
        return torch.diag_embed(one) + other
    return one + (torch.diag_embed(other) if other.ndim < one.ndim else other)
