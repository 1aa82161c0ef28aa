"""The numerator f - f* of Polyak's step size."""

from __future__ import annotations

from optimizers.step_size.global_step import GlobalStep

ELSEWHERE = ", or use optimizer=momo with estimate=true and a lower_bound that is safely low"


class Polyak(GlobalStep):
    """Steps of size (f - f*) / |g|^2, to where f's linear model reaches its lower bound f*."""

    f_star: float

    def gap(self, value: float, squares: float) -> float:
        """The gap f - f*, or 0 without a useful step; `stuck` gives the reason.

        Raises:
            UnsupportedError: the loss is negative and f* is its default, zero.
        """
        self.stuck = ""
        if squares == 0:
            self.stuck = "the gradient is zero"
            return 0.0
        if value > self.f_star:
            return value - self.f_star
        self.require_bound(value, self.f_star, "f_star", ELSEWHERE)
        self.stuck = f"the loss, {value:.6g}, is at its lower bound f_star = {self.f_star:.6g}"
        if value < self.f_star:
            self.failures["below_f_star"] += 1
            self.stuck = (
                f"the loss, {value:.6g}, is below f_star = {self.f_star:.6g}; pass a smaller f_star"
            )
        return 0.0
