"""The loss of one mini-batch as a function of the parameters."""

from optimizers.objective.objective import Objective

__all__ = ["Objective"]
