"""Optimizers of first and second order behind one call: `loss = optimizer.step(objective)`.

Every method is a name of this package: `from optimizers import KFAC, SOAP`. Its module is loaded
when the name is first used. `list_methods("*newton*")` lists the methods by their short names.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from optimizers.errors import Unsupported, UnsupportedError
from optimizers.minimize import Iterate, Result, least_squares, minimize
from optimizers.objective import Objective
from optimizers.registry import MethodInfo, list_methods

if TYPE_CHECKING:
    from optimizers.diagonal import (
        SGDPH,
        SOAA,
        AdaFisher,
        AdaHessian,
        INNAprop,
        SophiaG,
        SophiaH,
    )
    from optimizers.krylov import KSD, HessianFree
    from optimizers.least_squares import GGNCG, GaussNewton, LevenbergMarquardt
    from optimizers.low_rank import FOSI, GGT, MFAC
    from optimizers.matrix import SOAP, KLShampoo, Muon, Shampoo
    from optimizers.natural_gradient import EKFAC, KBFGS, KFAC, SINGD, TNT, LocoProp
    from optimizers.newton import Newton, NewtonCG, SaddleFreeNewton
    from optimizers.online import OGR, MomentumParabola
    from optimizers.packaged import PytorchOptimizer
    from optimizers.quasi_newton import BFGS, DFP, LBFGS, SR1
    from optimizers.step_size import ALIG, BB, SLS, SPS, GeN, MoMo, MoMoAdam
    from optimizers.structured import RAMDA, ProxAdamW, ProxSGD
    from optimizers.trust_region import ARC, TRON, SubsampledARC, TrustRegion

FAMILY_OF = {
    "ALIG": "step_size",
    "ARC": "trust_region",
    "AdaFisher": "diagonal",
    "AdaHessian": "diagonal",
    "BB": "step_size",
    "BFGS": "quasi_newton",
    "DFP": "quasi_newton",
    "EKFAC": "natural_gradient",
    "FOSI": "low_rank",
    "GGNCG": "least_squares",
    "GGT": "low_rank",
    "GaussNewton": "least_squares",
    "GeN": "step_size",
    "HessianFree": "krylov",
    "INNAprop": "diagonal",
    "KBFGS": "natural_gradient",
    "KFAC": "natural_gradient",
    "KLShampoo": "matrix",
    "KSD": "krylov",
    "LBFGS": "quasi_newton",
    "LevenbergMarquardt": "least_squares",
    "LocoProp": "natural_gradient",
    "MFAC": "low_rank",
    "MoMo": "step_size",
    "MoMoAdam": "step_size",
    "MomentumParabola": "online",
    "Muon": "matrix",
    "Newton": "newton",
    "NewtonCG": "newton",
    "OGR": "online",
    "ProxAdamW": "structured",
    "ProxSGD": "structured",
    "PytorchOptimizer": "packaged",
    "RAMDA": "structured",
    "SGDPH": "diagonal",
    "SINGD": "natural_gradient",
    "SLS": "step_size",
    "SOAA": "diagonal",
    "SOAP": "matrix",
    "SPS": "step_size",
    "SR1": "quasi_newton",
    "SaddleFreeNewton": "newton",
    "Shampoo": "matrix",
    "SophiaG": "diagonal",
    "SophiaH": "diagonal",
    "SubsampledARC": "trust_region",
    "TNT": "natural_gradient",
    "TRON": "trust_region",
    "TrustRegion": "trust_region",
}

__all__ = [
    "ALIG",
    "ARC",
    "BB",
    "BFGS",
    "DFP",
    "EKFAC",
    "FOSI",
    "GGNCG",
    "GGT",
    "KBFGS",
    "KFAC",
    "KSD",
    "LBFGS",
    "MFAC",
    "OGR",
    "RAMDA",
    "SGDPH",
    "SINGD",
    "SLS",
    "SOAA",
    "SOAP",
    "SPS",
    "SR1",
    "TNT",
    "TRON",
    "AdaFisher",
    "AdaHessian",
    "GaussNewton",
    "GeN",
    "HessianFree",
    "INNAprop",
    "Iterate",
    "KLShampoo",
    "LevenbergMarquardt",
    "LocoProp",
    "MethodInfo",
    "MoMo",
    "MoMoAdam",
    "MomentumParabola",
    "Muon",
    "Newton",
    "NewtonCG",
    "Objective",
    "ProxAdamW",
    "ProxSGD",
    "PytorchOptimizer",
    "Result",
    "SaddleFreeNewton",
    "Shampoo",
    "SophiaG",
    "SophiaH",
    "SubsampledARC",
    "TrustRegion",
    "Unsupported",
    "UnsupportedError",
    "least_squares",
    "list_methods",
    "minimize",
]


def __getattr__(name: str) -> Any:
    """Load a method's family when the method is first used."""
    if name not in FAMILY_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    method = getattr(import_module(f"{__name__}.{FAMILY_OF[name]}"), name)
    globals()[name] = method
    return method


def __dir__() -> list[str]:
    """All names of the package, methods that are not loaded yet among them."""
    return sorted({*globals(), *__all__})
