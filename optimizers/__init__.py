"""Optimizers of first and second order behind one call: `loss = optimizer.step(objective)`."""

from optimizers.errors import Unsupported
from optimizers.minimize import Iterate, Result, least_squares, minimize
from optimizers.objective import Objective

__all__ = ["Iterate", "Objective", "Result", "Unsupported", "least_squares", "minimize"]
