"""The method of Davidon, Fletcher and Powell with a dense inverse Hessian."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from optimizers.quasi_newton.dense import DenseInverse, dfp_update_


class DFP(DenseInverse):
    r"""Dense DFP, the dual of BFGS: d = -H g, H <- H - H y y' H / y.Hy + s s' / s.y.

    Davidon, 1959; Fletcher and Powell, 1963; Nocedal and Wright, 2006, eq. 6.15. All but the update
    is as in `BFGS`, with the same arguments, costs and errors. DFP corrects a wrong H slowly if
    steps are inexact (Powell, "How bad are the BFGS and DFP methods when the objective function is
    quadratic?", 1986). By default the search therefore requires slopes a ninth as large, at two to
    three times the evaluations a step.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        line_search: str = "strong_wolfe",
        curvature: float = 0.1,
        damping: float = 0.0,
        skip: float = 1e-8,
        max_trials: int = 25,
        max_parameters: int = 5000,
    ) -> None:
        super().__init__(
            params, lr, line_search, curvature, damping, skip, max_trials, max_parameters
        )

    update_ = staticmethod(dfp_update_)
