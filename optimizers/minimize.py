"""Direct use on a torch function: `minimize(fn, x0)`, `least_squares(residuals, x0)`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from optimizers.errors import UnsupportedError
from optimizers.method import Method, require_range
from optimizers.objective import Objective
from optimizers.registry import Builder, builder

PATIENCE = 10  # steps in a row that change nothing, after which a method is not going to move


@dataclass(frozen=True)
class Result:
    """Where a minimisation ended, in the spirit of scipy's OptimizeResult.

    Attributes:
        x: the last point, shaped like the start.
        fun: the function there; |r|^2 / 2 for `least_squares`.
        grad_norm: the Euclidean norm of the gradient of `fun` there.
        status: `converged` (grad_norm <= tol), `max_steps`, `stalled` (the method found no step
            that it could take, or changed nothing for ten steps), `diverged` (a value or the point
            is not finite) or `stopped` (the callback).
        message: the status in a sentence.
        steps: the steps taken.
        counts: the oracle calls: `value` (evaluations, those of a gradient included), `grad`,
            `hvp`, `ggnvp`, `jac`.
    """

    x: Tensor
    fun: float
    grad_norm: float
    status: str
    message: str
    steps: int
    counts: dict[str, int]

    @property
    def success(self) -> bool:
        """Whether the point is stationary to the tolerance."""
        return self.status == "converged"


@dataclass(frozen=True)
class Iterate:
    """The point at which a step begins, with the function and the gradient's norm there."""

    step: int
    x: Tensor
    fun: float
    grad_norm: float
    counts: dict[str, int]


Callback = Callable[[Iterate], Any]


def minimize(
    fn: Callable[[Tensor], Tensor],
    x0: Tensor,
    method: str | Builder = "bfgs",
    *,
    max_steps: int = 1000,
    tol: float = 1e-8,
    callback: Callback | None = None,
    **hyperparameters: Any,
) -> Result:
    """Minimise a torch function of one tensor by any optimizer of configs/optimizer.

    Args:
        fn: from a tensor shaped like `x0` to a scalar, made of torch operations.
        x0: the start, of a floating-point type; float64 unless there is a reason.
        method: a name of `list_methods()`, or a class of one's own, called as `method(params,
            **hyperparameters)`.
        max_steps: the largest number of steps.
        tol: stop when the gradient's Euclidean norm is at most this.
        callback: called with an `Iterate` at the beginning of every step and at the end; a true
            result stops the run.
        hyperparameters: passed to the method.

    Raises:
        ValueError: an unknown method, a hyperparameter out of its range, a function that is not
            scalar.
        UnsupportedError: the method needs what a function cannot give; the message names methods
            that fit.
    """
    return _run(
        _Function(fn, x0), _Value(), {"hessian"}, method, max_steps, tol, callback, hyperparameters
    )


def least_squares(
    residuals: Callable[[Tensor], Tensor],
    x0: Tensor,
    method: str | Builder = "levenberg_marquardt",
    *,
    max_steps: int = 1000,
    tol: float = 1e-8,
    callback: Callback | None = None,
    **hyperparameters: Any,
) -> Result:
    """Minimise |r(x)|^2 / 2 for a torch function r of one tensor.

    Arguments and errors are those of `minimize`. `residuals` gives a tensor of any shape; its
    entries are the residuals.
    """
    offers = {"hessian", "ggn", "jacobian", "sampled"}
    return _run(
        _Residuals(residuals, x0),
        _HalfSquares(),
        offers,
        method,
        max_steps,
        tol,
        callback,
        hyperparameters,
    )


class _Function(nn.Module):
    """The point as the model: its output for any input is the function's value."""

    def __init__(self, fn: Callable[[Tensor], Tensor], x0: Tensor) -> None:
        super().__init__()
        if not isinstance(x0, Tensor):
            raise ValueError(f"x0 must be a tensor, got {type(x0).__name__}; pass torch.tensor(x0)")
        if not x0.is_floating_point():
            raise ValueError(
                f"x0 must be of a floating-point type, got {x0.dtype}; pass x0.double()"
            )
        self.fn = fn
        self.x = nn.Parameter(x0.detach().clone())

    def forward(self, inputs: Tensor) -> Tensor:
        value = self.fn(self.x)
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise ValueError(
                f"fn must return one number as a tensor, got {getattr(value, 'shape', type(value))}"
            )
        return _connected(value).reshape(1)


class _Residuals(_Function):
    """The point as the model: its output for any input is a row of residuals."""

    def forward(self, inputs: Tensor) -> Tensor:
        return _connected(self.fn(self.x)).reshape(1, -1)


def _connected(value: Tensor) -> Tensor:
    if torch.is_grad_enabled() and not value.requires_grad:
        raise ValueError("the function's value does not depend on x through torch operations")
    return value


class _Value(nn.Module):
    """The model's output as the loss."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.mean()


class _HalfSquares(nn.MSELoss):
    """|r|^2 / 2; the targets are zero, whatever their shape."""

    def __init__(self) -> None:
        super().__init__()
        self.reduction = "half_sum"

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return input.square().sum() / 2


class _StationaryError(Exception):
    """Thrown through a step by the evaluation that meets a stationary point, to end it there."""


class _StoppedError(Exception):
    """Thrown through a step when the callback wants no more."""


class _Watch:
    """Sees every gradient at the point itself; ends the run at the first that is small enough."""

    def __init__(self, tol: float, x: Tensor, callback: Callback | None) -> None:
        self.tol, self.x, self.callback = tol, x, callback
        self.step = 0
        self.shown = -1
        self.patient = False  # look at a stationary point without stopping
        self.fun = self.grad_norm = float("nan")
        self.counts: dict[str, int] = {}

    def __call__(self, loss: Tensor, gradient: Tensor) -> None:
        self.fun, self.grad_norm = float(loss), float(gradient.norm())
        if self.callback is not None and self.shown < self.step:
            self.shown = self.step
            point = self.x.detach().clone()
            if self.callback(
                Iterate(self.step, point, self.fun, self.grad_norm, dict(self.counts))
            ):
                raise _StoppedError
        if self.grad_norm <= self.tol and not self.patient:
            raise _StationaryError


def _run(
    model: _Function,
    loss_fn: nn.Module,
    offers: set[str],
    method: str | Builder,
    max_steps: int,
    tol: float,
    callback: Callback | None,
    hyperparameters: dict[str, Any],
) -> Result:
    require_range("max_steps", max_steps, low=0, whole=True)
    require_range("tol", tol)
    optimizer = builder(method)([("x", model.x)], **hyperparameters)
    _require_fit(optimizer, offers)
    watch = _Watch(tol, model.x, callback)
    nothing = torch.zeros(1, 1, dtype=model.x.dtype, device=model.x.device)
    objective = Objective(model, loss_fn, nothing, nothing, observer=watch)
    watch.counts = objective.counts
    if isinstance(optimizer, Method):
        optimizer.expect(max(1, max_steps), 1.0)
    _set_weights(optimizer, "train")
    status, message = _steps(optimizer, objective, watch, max_steps)
    if _set_weights(optimizer, "eval") and status != "diverged":
        watch.patient = True
        _settled(objective, watch)
    if status not in ("converged", "diverged") and model.x.dtype != torch.float64:
        precision = str(model.x.dtype).removeprefix("torch.")
        message += f"; x0 is {precision}, whose rounding may hide what is left to gain"
    point = model.x.detach().clone()
    return Result(
        point, watch.fun, watch.grad_norm, status, message, watch.step, dict(objective.counts)
    )


def _set_weights(optimizer: Any, purpose: str) -> bool:
    """Go to the training or the evaluation point of a method that has two; whether it has."""
    switch = getattr(optimizer, purpose, None)
    if callable(switch):
        switch()
    return callable(switch)


def _require_fit(optimizer: Any, offers: set[str]) -> None:
    missing: frozenset[str] = getattr(optimizer, "needs", frozenset()) - offers
    if not missing:
        return
    name, wanted = type(optimizer).__name__, ", ".join(sorted(missing))
    if missing <= {"ggn", "jacobian"}:
        raise UnsupportedError(
            f"{name} needs {wanted}: the function as a sum of squares. Give its residuals to "
            "least_squares(residuals, x0, method=...), or choose a method for plain functions, "
            "such as bfgs, newton_cg or trust_region"
        )
    raise UnsupportedError(
        f"{name} needs {wanted}, which belongs to networks; use it through an Objective"
    )


def _steps(optimizer: Any, objective: Objective, watch: _Watch, max_steps: int) -> tuple[str, str]:
    """Step until the run ends; its status and sentence. The watch then has the last values."""
    try:
        if max_steps and _escaped(optimizer, objective, watch):
            watch.step = 1
        idle = 0
        while watch.step < max_steps:
            before = watch.x.detach().clone()
            loss = optimizer.step(objective.on(objective.inputs, objective.inputs))
            watch.step += 1
            if not bool(torch.isfinite(loss)) or not bool(torch.isfinite(watch.x).all()):
                return _diverged(watch, float(loss))
            idle = idle + 1 if torch.equal(before, watch.x) else 0
            if reason := _obstacle(optimizer, idle):
                norm = _settled(objective, watch)
                return "stalled", f"{reason}; the gradient's norm is {norm:.3g}"
        norm = _settled(objective, watch)
        return (
            "max_steps",
            f"the gradient's norm is {norm:.3g} after {watch.step} steps, tol is {watch.tol:.3g}",
        )
    except _StationaryError:
        where = "the start is a stationary point: " if watch.step == 0 else ""
        return (
            "converged",
            f"{where}the gradient's norm {watch.grad_norm:.3g} is at most tol = {watch.tol:.3g}",
        )
    except _StoppedError:
        return "stopped", f"the callback stopped the run at step {watch.step}"


def _obstacle(optimizer: Any, idle: int) -> str:
    """Why a method will not move from where it is; empty where it may."""
    if reason := str(getattr(optimizer, "stuck", "")):
        return reason
    return f"the point has not changed for {idle} steps" if idle == PATIENCE else ""


def _escaped(optimizer: Any, objective: Objective, watch: _Watch) -> bool:
    """Whether a method that knows the Hessian leaves a start without a gradient, maybe a saddle."""
    if "hessian" not in getattr(optimizer, "needs", ()):
        return False
    start, watch.patient = watch.x.detach().clone(), True
    loss = optimizer.step(objective.on(objective.inputs, objective.inputs))
    watch.patient = False
    if not watch.grad_norm <= watch.tol:  # an ordinary start, and an ordinary first step
        return True
    if bool(objective.value() < loss):
        return True
    with torch.no_grad():
        watch.x.copy_(start)
    raise _StationaryError


def _settled(objective: Objective, watch: _Watch) -> float:
    """The gradient's norm at the last point, which the watch may not have seen yet."""
    objective.on(objective.inputs, objective.inputs).value_and_gradient()
    return watch.grad_norm


def _diverged(watch: _Watch, loss: float) -> tuple[str, str]:
    watch.fun, watch.grad_norm = loss, float("nan")
    return (
        "diverged",
        f"the function is {loss:.3g} or the point is not finite after {watch.step} steps",
    )
