"""Rules that choose the damping of a quadratic model from how well it predicted."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, nan


@dataclass(frozen=True)
class RatioRule:
    """Levenberg-Marquardt damping: more when the model promised too much, less when it was right.

    With rho = (actual reduction) / (predicted reduction): damping *= `increase` if rho < `low` (or
    rho is not finite), *= `decrease` if rho > `high`. The defaults are Martens' (2010, section
    4.1).

    Raises:
        ValueError: a factor on the wrong side of one, or thresholds out of order.
    """

    increase: float = 1.5
    decrease: float = 2 / 3
    low: float = 0.25
    high: float = 0.75
    smallest: float = 1e-12
    largest: float = 1e12

    def __post_init__(self) -> None:
        if not self.increase > 1 > self.decrease > 0:
            raise ValueError(
                f"need increase > 1 > decrease > 0, got {self.increase} and {self.decrease}"
            )
        if not 0 < self.low < self.high:
            raise ValueError(f"need 0 < low < high, got {self.low} and {self.high}")

    def __call__(self, damping: float, ratio: float) -> float:
        """The next damping."""
        if damping == 0:
            return 0.0
        if not isfinite(ratio) or ratio < self.low:
            return min(damping * self.increase, self.largest)
        if ratio > self.high:
            return max(damping * self.decrease, self.smallest)
        return damping


def reduction_ratio(before: float, after: float, predicted: float, resolution: float) -> float:
    """Rho = (before - after) / predicted, both reductions positive when the loss falls.

    `resolution` is the relative spacing of the numbers the losses were computed in: when the loss
    could not have shown the predicted reduction, the ratio is round-off and 1 is returned; `nan`
    when a loss is not finite or no reduction was predicted (a loss that rises as predicted must not
    pass for a good model).
    """
    if not (isfinite(before) and isfinite(after)):
        return nan
    if abs(predicted) <= 10 * resolution * abs(before) and abs(
        before - after
    ) <= 100 * resolution * abs(before):
        return 1.0
    return (before - after) / predicted if predicted > 0 else nan
