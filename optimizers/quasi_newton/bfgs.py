"""BFGS with a dense inverse Hessian."""

from __future__ import annotations

from optimizers.quasi_newton.dense import DenseInverse, bfgs_update_


class BFGS(DenseInverse):
    r"""Dense BFGS: d = -H g, H <- (I - rho s y') H (I - rho y s') + rho s s', rho = 1 / s.y.

    Nocedal and Wright, 2006, algorithm 6.1. Before the first update H is s.y / y.y times the
    identity (eq. 6.20); step, search, choice of pairs and restart are described in `LineSearched`.
    Each pair belongs to one mini-batch, that of its step.

    Cost per step: one value and gradient per trial of the search, mostly one, and 4 n^2
    multiplications. Memory: an (n, n) matrix as state, and some n-vectors.

    Args:
        params: the parameters, or pairs of name and parameter; all those of the model, in its
            order.
        lr: the first step length tried along a quasi-Newton direction, and the only one without a
            line search.
        line_search: `strong_wolfe`, `armijo` (halving) or `none` (fixed steps).
        curvature: the constant of the second Wolfe condition.
        damping: Powell's share, 0.2 in the literature; 0 for no damping.
        skip: pairs with s.y at most this share of s.Bs are skipped.
        max_trials: the largest number of trials of a search.
        max_parameters: the largest n for which the dense matrix is stored.

    Raises:
        ValueError: a hyperparameter out of its range.
        UnsupportedError: more than `max_parameters` parameters.
    """

    update_ = staticmethod(bfgs_update_)
