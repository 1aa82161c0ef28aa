"""Methods that work in Krylov subspaces of a curvature matrix of any size."""

from optimizers.krylov.hessian_free import HessianFree
from optimizers.krylov.ksd import KSD

__all__ = ["KSD", "HessianFree"]
