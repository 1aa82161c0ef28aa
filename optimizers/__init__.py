"""Optimizers of first and second order behind one call: `loss = optimizer.step(objective)`."""

from optimizers.errors import Unsupported, UnsupportedError
from optimizers.minimize import Iterate, Result, least_squares, minimize
from optimizers.objective import Objective

__all__ = [
    "Iterate",
    "Objective",
    "Result",
    "Unsupported",
    "UnsupportedError",
    "least_squares",
    "minimize",
]
