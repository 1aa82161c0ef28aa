"""A test function with its start, minima and sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.functions.function import Interval

Function = Callable[[Tensor], Tensor]
Point = Callable[[int], Tensor]
Minimum = float | Mapping[int, float] | Callable[[int], float] | None


@dataclass(frozen=True)
class Problem:
    """A test function: its formula, its standard start and its published minima.

    The formula is either a vector of residuals, `f(x) = sum_i r_i(x)^2` (without a factor 1/2), or
    `f` itself. It takes one point, `(n,)`, and consists of torch operations that differentiate
    twice under `torch.func.vmap`; outside its domain it gives infinity or NaN.

    Attributes:
        name: the name in the task's YAML.
        dimension: the usual n.
        start: the standard start, as a function of n.
        residuals: `(n,)` to `(m,)`, for a sum of squares.
        value: `(n,)` to a scalar, for a function that is no sum of squares.
        number: the number in the collection of Moré, Garbow and Hillstrom, 1 to 35.
        sizes: the allowed n; None for a fixed n.
        minimum: the smallest value f*: a number, a table or a function of n; minus infinity for a
            function without minimum, None for an unpublished one.
        minimizers: the points with value f*, as functions of n; empty if they are unknown or
            infinitely many.
        local_minima: other published values at which correct solvers end.
        box: the rectangle of a picture at n = 2.
    """

    name: str
    dimension: int
    start: Point
    residuals: Function | None = None
    value: Function | None = None
    number: int | None = None
    sizes: range | None = None
    minimum: Minimum = None
    minimizers: tuple[Point, ...] = ()
    local_minima: tuple[float, ...] = ()
    box: tuple[Interval, Interval] | None = None

    def __post_init__(self) -> None:
        if (self.residuals is None) == (self.value is None):
            raise ValueError(f"{self.name} needs either residuals or a value")

    def outputs(self, x: Tensor) -> Tensor:
        """The residuals at one point, `(m,)`, or the value, a scalar, without residuals."""
        formula = self.residuals or self.value
        assert formula is not None
        return formula(x)

    def __call__(self, x: Tensor) -> Tensor:
        """The value f at one point, a scalar."""
        outputs = self.outputs(x)
        return outputs if self.residuals is None else outputs.square().sum()

    def resolve(self, dimension: int | None) -> int:
        """The requested dimension, or the usual one.

        Raises:
            ValueError: the function is not defined for that n.
        """
        chosen = self.dimension if dimension is None else dimension
        if chosen != self.dimension and chosen not in (self.sizes or ()):
            raise ValueError(f"dimension must be {self._allowed()} for {self.name}, got {chosen}")
        return chosen

    def lowest(self, dimension: int) -> float | None:
        """The minimum f* for this n, or None if it is unknown."""
        if isinstance(self.minimum, Mapping):
            return self.minimum.get(dimension)
        return self.minimum(dimension) if callable(self.minimum) else self.minimum

    def _allowed(self) -> str:
        if self.sizes is None:
            return str(self.dimension)
        if len(self.sizes) < 100:
            return f"from {self.sizes[0]} to {self.sizes[-1]}"
        least = f"at least {self.sizes.start}"
        return least if self.sizes.step == 1 else f"{least} and a multiple of {self.sizes.step}"


def repeated(*pattern: float) -> Point:
    """The point of n entries that repeats a pattern."""

    def point(dimension: int) -> Tensor:
        copies = math.ceil(dimension / len(pattern))
        return torch.tensor(pattern, dtype=torch.float64).repeat(copies)[:dimension]

    return point


def any_from(least: int, multiple: int = 1) -> range:
    """Every n from `least` to the longest tensor, in steps of `multiple`."""
    return range(least, 2**62, multiple)


def counted(count: int, like: Tensor) -> Tensor:
    """The numbers 1, 2, ..., `count`, of the type and on the device of another tensor."""
    return torch.arange(1, count + 1, dtype=like.dtype, device=like.device)


def constant(values: tuple[float, ...], like: Tensor) -> Tensor:
    """Data as a tensor of the type and on the device of another tensor."""
    return torch.tensor(values, dtype=like.dtype, device=like.device)
