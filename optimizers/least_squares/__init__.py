"""Gauss-Newton methods; the package is also the function `least_squares(residuals, x0, ...)`."""

import sys
from types import ModuleType

from optimizers.least_squares.gauss_newton import GaussNewton
from optimizers.least_squares.ggn_cg import GGNCG
from optimizers.least_squares.levenberg_marquardt import LevenbergMarquardt
from optimizers.minimize import least_squares

__all__ = ["GGNCG", "GaussNewton", "LevenbergMarquardt"]


class _CallablePackage(ModuleType):
    """A package that can be called, as loading it binds its name over the function's.

    Ids of runs name `optimizers.least_squares`, so that package and function share the name.
    """

    __call__ = staticmethod(least_squares)


# the package's name stays: `_target_: optimizers.least_squares...` is part of every run's id
sys.modules[__name__].__class__ = _CallablePackage
