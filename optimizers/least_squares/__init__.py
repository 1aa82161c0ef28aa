"""Gauss-Newton methods.

Called, the package is the function `least_squares(residuals, x0, ...)` of the same name.
"""

import sys
from types import ModuleType

from optimizers.least_squares.gauss_newton import GaussNewton
from optimizers.least_squares.ggn_cg import GGNCG
from optimizers.least_squares.levenberg_marquardt import LevenbergMarquardt
from optimizers.minimize import least_squares

__all__ = ["GGNCG", "GaussNewton", "LevenbergMarquardt"]


class _CallablePackage(ModuleType):
    """Loading a package binds its name in its parent, here that of the function.

    `optimizers.least_squares` is both.
    """

    __call__ = staticmethod(least_squares)


# the package's name stays: `_target_: optimizers.least_squares...` is part of every run's id
sys.modules[__name__].__class__ = _CallablePackage
