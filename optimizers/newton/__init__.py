"""Newton methods."""

from optimizers.newton.newton import Newton
from optimizers.newton.newton_cg import NewtonCG
from optimizers.newton.saddle_free_newton import SaddleFreeNewton

__all__ = ["Newton", "NewtonCG", "SaddleFreeNewton"]
