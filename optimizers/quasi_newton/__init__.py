"""Quasi-Newton methods: curvature learnt from changes of the gradient."""

from optimizers.quasi_newton.bfgs import BFGS
from optimizers.quasi_newton.dfp import DFP
from optimizers.quasi_newton.lbfgs import LBFGS
from optimizers.quasi_newton.sr1 import SR1

__all__ = ["BFGS", "DFP", "LBFGS", "SR1"]
