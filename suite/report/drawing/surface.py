"""A function of two parameters as a picture needs it: its box, values on a grid, levels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from suite.report.drawing.trajectories import Landscape

GRID = 220  # points along each side
LEVELS = 18
WIDEN = 0.5  # of the domain's size, at most, on every side, to show a trajectory that leaves it
STAYS = 0.9  # of a trajectory's points, within that reach, for it to count
MARGIN = 0.04
# the ninth decile of f - f* over its fiftieth part, from which levels are spaced logarithmically
LOG_FROM = 100.0

Array = npt.NDArray[np.float64]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Surface:
    """A function on a grid.

    Attributes:
        box: `(x_low, x_high, y_low, y_high)`.
        x: the coordinates of the columns, `(GRID,)`.
        y: the coordinates of the rows, `(GRID,)`.
        height: f - f* where the minimum f* is known, else f, `(GRID, GRID)`, rows along y; NaN
            where it is not finite.
        levels: increasing.
        minimum: f*, or None.
        minimizers: `(k, 2)`, those inside the box.
    """

    box: Box
    x: Array
    y: Array
    height: Array
    levels: Array
    minimum: float | None
    minimizers: Array

    @property
    def quantity(self) -> str:
        """The name of the quantity that the levels measure."""
        return "f" if self.minimum is None else "f - f*"


def surface(landscape: Landscape) -> Surface:
    """Evaluate the function in the box of the trajectories."""
    minimizers = landscape.minimizers
    box = view(
        getattr(landscape.task, "domain", None),
        [one.points for one in landscape.trajectories],
        minimizers,
    )
    x, y = np.linspace(box[0], box[1], GRID), np.linspace(box[2], box[3], GRID)
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    minimum = float(np.nanmin(landscape.values(minimizers))) if len(minimizers) else None
    height = landscape.values(points).reshape(GRID, GRID) - (minimum or 0.0)
    return Surface(
        box,
        x,
        y,
        height,
        levels(height, above_minimum=minimum is not None),
        minimum,
        _within(minimizers, np.array(box[::2]), np.array(box[1::2])),
    )


def view(
    domain: tuple[tuple[float, float], tuple[float, float]] | None,
    trajectories: list[Array],
    minimizers: Array,
) -> Box:
    """The domain, widened to hold the trajectories, by at most half its size on every side.

    A trajectory that runs away does not widen it: it leaves the picture instead of shrinking it.
    Without a domain, the starts, the minimizers and the middle nine tenths of each trajectory
    stand for it.
    """
    if domain is None:
        middles = [np.nanquantile(one, (0.05, 0.95), axis=0) for one in trajectories]
        marks = np.concatenate([*(one[:1] for one in trajectories), *middles, minimizers])
        low, high = marks.min(0), marks.max(0)
        size = np.where(high > low, high - low, np.maximum(1.0, np.abs(high)))
        low, high = low - 0.15 * size, high + 0.15 * size
    else:
        low, high = np.array(domain, dtype=float).T
    size = high - low
    reach = (low - WIDEN * size, high + WIDEN * size)
    within = [_within(one, *reach) for one in trajectories]
    near = [
        part for part, one in zip(within, trajectories, strict=True) if len(part) > STAYS * len(one)
    ]
    if near:
        points = np.concatenate(near)
        low = np.where(points.min(0) < low, points.min(0) - MARGIN * size, low)
        high = np.where(points.max(0) > high, points.max(0) + MARGIN * size, high)
    return float(low[0]), float(high[0]), float(low[1]), float(high[1])


def levels(height: Array, *, above_minimum: bool) -> Array:
    """Contour levels that show the valleys.

    Above a known minimum they are spaced logarithmically where the heights span decades, and else
    as cubes, which are dense at the bottom and still tell a saddle from the valleys beside it.
    Without a minimum they are even, and symmetric about the median height.
    """
    known = height[np.isfinite(height)]
    top = float(np.quantile(known, 0.995))
    if not above_minimum:
        middle = float(np.median(known))
        reach = max(top - middle, middle - float(np.quantile(known, 0.005))) or 1.0
        return np.linspace(middle - reach, middle + reach, LEVELS + 1)
    bottom = float(np.quantile(known, 0.002))
    if bottom > 0 and np.quantile(known, 0.9) > LOG_FROM * np.quantile(known, 0.02):
        return np.geomspace(bottom, max(top, 2 * bottom), LEVELS)
    return (top or 1.0) * np.linspace(0, 1, LEVELS) ** 3


def _within(points: Array, low: Array, high: Array) -> Array:
    inside: Array = points[((points >= low) & (points <= high)).all(axis=1)]
    return inside
