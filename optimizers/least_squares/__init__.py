"""Gauss-Newton methods."""

from optimizers.least_squares.ggn_cg import GGNCG

__all__ = ["GGNCG"]
