"""Optimizers of first and second order behind one call: `loss = optimizer.step(objective)`."""

from optimizers.errors import Unsupported
from optimizers.objective import Objective

__all__ = ["Objective", "Unsupported"]
