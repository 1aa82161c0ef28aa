"""Saddle-free Newton: absolute eigenvalues of the Hessian, exactly or in a Krylov space."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from optimizers.linalg.curvature import Curvature
from optimizers.linalg.damping import RatioRule, reduction_ratio
from optimizers.linalg.flat import flatten, unflatten
from optimizers.method import Method, require_choice, require_dense, require_range
from optimizers.newton.spectrum import Spectrum, exact_spectrum, krylov_spectrum
from optimizers.objective import Objective
from optimizers.phases import phased

FORMS = ("auto", "exact", "lanczos")


class SaddleFreeNewton(Method):
    r"""Saddle-free Newton: theta += lr d, d = -(|H| + damping I)^{-1} g.

    |H| = V |diag(e)| V' replaces negative eigenvalues by their absolute values, so that a step
    moves away from saddle points instead of towards them (Dauphin et al., 2014, "Identifying and
    attacking the saddle point problem", arXiv 1406.2572, eq. 12). Two forms:

    - `exact`: all eigenvalues of the dense H;
    - `lanczos`: those of H within the Krylov space of g, of `krylov` dimensions, and the previous
      step (their algorithm 1): d = -V' (|T| + damping I)^{-1} V g, the rows of V orthonormal, T = V
      H V'. The step has no component outside the space; the forms agree if the space is the whole
      one.

    With `adaptive=True` a step that does not lower the loss is refused and tried again with more
    damping, and the damping follows the ratio of actual to predicted reduction (Nocedal and Wright,
    2006, section 4.1). The trials share the decomposition and cost one evaluation each. Differences
    from the paper: it chooses the damping in each step, the best of the powers of ten from 1 to
    1e-6, at seven evaluations instead of one or two, and takes several steps in one Krylov space.

    Cost per step: n Hessian-vector products and an eigen-decomposition (n^3), or `krylov` + 1
    products and about 4 n krylov^2 multiplications; one evaluation per trial. Memory: 8 n^2 bytes
    for each of three matrices, or krylov + 5 vectors beside the retained graph; state n floats for
    `lanczos`.

    Args:
        params: the parameters, or pairs of name and parameter; all those of the model, in its
            order.
        lr: the length of the step along the Newton direction; 1 is Newton's own.
        damping: the first multiple of the identity, for a loss that is summed over outputs and
            averaged over examples.
        form: `exact`, `lanczos`, or `auto`: exact up to `max_parameters`.
        krylov: the number of Lanczos vectors.
        adaptive: refuse steps that raise the loss, and adapt the damping.
        max_trials: the number of trials of a step.
        max_parameters: the largest n for which the dense matrix is built.

    Raises:
        ValueError: a hyperparameter out of its range.
        UnsupportedError: `exact` with more than `max_parameters` parameters.
    """

    needs = frozenset({"hessian"})

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        damping: float = 1e-3,
        form: str = "auto",
        krylov: int = 40,
        adaptive: bool = True,
        max_trials: int = 10,
        max_parameters: int = 2000,
    ) -> None:
        require_range("lr", lr, open_low=True)
        require_range("damping", damping)
        require_choice("form", form, FORMS)
        require_range("krylov", krylov, low=1, whole=True)
        require_range("max_trials", max_trials, low=1, whole=True)
        require_range("max_parameters", max_parameters, low=1, whole=True)
        self.krylov = krylov
        self.adaptive = adaptive
        self.max_trials = max_trials
        self.rule = RatioRule(increase=4.0, decrease=1 / 3)
        self.diagnostics: dict[str, float] = {}
        super().__init__(params, {"lr": lr, "damping": damping})
        size = sum(p.numel() for p in self.parameters())
        self.form = form if form != "auto" else "exact" if size <= max_parameters else "lanczos"
        if self.form == "exact":
            require_dense(
                self, max_parameters, "form=lanczos, newton_cg and trust_region need no such matrix"
            )

    def telemetry(self) -> dict[str, float]:
        """`smallest_eigenvalue` within the step's space, beside the common numbers.

        A refused step counts as a failure.
        """
        return {
            **super().telemetry(),
            "damping": float(self.param_groups[0]["damping"]),
            **self.diagnostics,
        }

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        """Move along the saddle-free direction, damped until the loss falls; return the loss."""
        self.whole(objective)
        self.stuck, self.diagnostics = "", {}
        hessian = objective.hessian()
        if not bool(torch.isfinite(hessian.loss + hessian.gradient.norm())):
            self.failures["non_finite"] += 1
            return hessian.loss
        if not bool(hessian.gradient.any()):
            self.stuck = "the gradient is zero"
            return hessian.loss
        spectrum = (
            exact_spectrum(hessian) if self.form == "exact" else self._krylov_spectrum(hessian)
        )
        if spectrum is None:
            self.stuck = "the Hessian is not finite"
            self.failures["eigen"] += 1
        else:
            self.diagnostics["smallest_eigenvalue"] = float(spectrum.values.min())
            self._move(objective, hessian.loss, spectrum)
        return hessian.loss

    def _krylov_spectrum(self, hessian: Curvature) -> Spectrum | None:
        params = self.parameters()
        previous = (
            flatten(self.state[p]["step"] for p in params)
            if "step" in self.state[params[0]]
            else None
        )
        return krylov_spectrum(hessian, self.krylov, previous)

    def _move(self, objective: Objective, loss: Tensor, spectrum: Spectrum) -> None:
        """Try steps with growing damping until one lowers the loss."""
        group = self.param_groups[0]
        for _ in range(self.max_trials if self.adaptive else 1):
            along = (
                -group["lr"]
                * spectrum.slopes
                / spectrum.absolute(group["damping"] * objective.scale)
            )
            step = spectrum.lift(along)
            if not self.adaptive or self._accepts(objective, loss, step, spectrum.change(along)):
                self._remember(step)
                objective.move(step)
                return
            if group["damping"] in (0, self.rule.largest):  # all further trials would be the same
                self.stuck = f"no step lowers the loss, damping={group['damping']:g} cannot change"
                break
        self.failures["refused"] += 1

    @phased("line search")
    def _accepts(
        self, objective: Objective, before: Tensor, step: Tensor, model_change: float
    ) -> bool:
        """Whether the loss fell; the damping follows the ratio of actual to predicted reduction."""
        group = self.param_groups[0]
        after = float(objective.value(step))
        ratio = reduction_ratio(float(before), after, -model_change, torch.finfo(step.dtype).eps)
        group["damping"] = self.rule(group["damping"], ratio)
        if isfinite(ratio):
            self.diagnostics["reduction_ratio"] = ratio
        return ratio > 0

    def _remember(self, step: Tensor) -> None:
        """Store the step for the next Krylov space."""
        if self.form == "lanczos":
            params = self.parameters()
            for parameter, part in zip(params, unflatten(step, params), strict=True):
                self.state[parameter]["step"] = part.clone()
