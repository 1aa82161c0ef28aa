"""Any optimizer of pytorch-optimizer, by its name, behind `step(objective)`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from optimizers.errors import UnsupportedError
from optimizers.method import Method
from optimizers.objective import Objective
from optimizers.packaged import arguments, catalogue
from optimizers.packaged.packing import narrowed, pack, unpack
from optimizers.packaged.randomness import one_source

Evaluate = Callable[[], Tensor]
LAST = ("max_lr",)  # what some classes call their learning rate
COUNTERS = (bool, int, float, Tensor, type(None))  # of attributes that a step may change
EXPLAINED = (
    ValueError,
    RuntimeError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    ImportError,
)
SWITCHES = ("train", "eval")


class PytorchOptimizer(Method):
    """One of the about 130 optimizers of the package pytorch-optimizer, by its name.

    Each gets what it declares that it needs. Most take a closure and nothing else. Of the others

    - a constructor that asks for a `model` gets a module of the named parameters, one that asks for
      `num_iterations` or `num_data` gets it by `expect` (or by `settings`), one that has an
      `adamw_lr` gets hidden matrices and the rest as two groups (as `optimizers.layers.roles` tells
      them apart), one that wraps an optimizer gets the class that `settings.optimizer` or
      `settings.base_optimizer` names, the wrapped one's settings beside its own;
    - a `step` that takes a `hessian` gets gradients with their graph in the steps in which its
      `update_period` says that it uses them: a gradient, and a Hessian product for each pass
      through the graph;
    - a `fused_backward` gets the loss with its graph, and one whose step perturbs the
      parameters before it calls the closure gets the gradients at their place first.

    State, cost and decay are those of the optimizer that is chosen; `lr` is its own default unless
    given. A loss or gradient that is not finite where the step begins refuses the step.

    Where it differs from the package: settings that the class does not know are refused (the
    package takes and ignores them); precisions that default to float32 follow parameters of
    float64; all random numbers come from torch's generator (three classes draw from Python's or
    numpy's); checkpoints keep the counters that the package holds outside its state; what a class
    cannot do is `UnsupportedError` and says so.

    Args:
        params: parameters, named parameters or groups.
        name: the class, upper and lower case being the same: `Ranger21`, `adan`, ...
        lr: the learning rate, where the class has one (`lr` or `max_lr`).
        settings: all other arguments of the class, by its own names.

    Raises:
        ValueError: an unknown name or setting (with those that are close), a value out of range,
            or, at the first step, an argument that follows from the length of the training, which
            `expect` has not given.
        UnsupportedError: the package is not installed; the class needs what a training in one
            process does not give.
    """

    def __init__(
        self,
        params: Iterable[Any],
        name: str,
        lr: float | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.inner: torch.optim.Optimizer | None = None
        self.kind = catalogue.find(name)
        self.title = self.kind.__name__
        given = dict(settings or {})
        super().__init__(params, {})
        if lr is not None:
            given |= {self._name_of_lr(given): lr}
        self._dtype = self.parameters()[0].dtype
        _, self._base = arguments.wrapped(self.kind, given)
        self._own, self._rest = arguments.checked(self.kind, given, self._dtype)
        self._from_facts: dict[str, Any] = {}
        self._begun = False
        self._first: Tensor | None = None
        self._failed: BaseException | None = None
        self.needs = frozenset({"hessian"} if catalogue.step_takes(self.kind, "hessian") else ())
        self._try_build(arguments.Facts())

    # -- building ----------------------------------------------------------------------------------

    def expect(self, steps: int, steps_per_epoch: float) -> None:
        """Take the length of the training, and build the optimizer if that was missing."""
        super().expect(steps, steps_per_epoch)
        self._try_build(arguments.Facts(self.horizon))

    def _try_build(self, facts: arguments.Facts) -> None:
        """Build the optimizer if the facts give all that its settings do not."""
        values = arguments.from_facts(self.kind, self._own, facts)
        if self.inner is None and None not in values.values():
            self._build(values)

    def _build(self, from_facts: Mapping[str, Any]) -> None:
        self._from_facts = dict(from_facts)
        try:
            inner = arguments.build(
                self.kind,
                self.param_groups,
                {**self._own, **self._from_facts},
                self._base,
                self._rest,
            )
        except Exception as error:
            raise self._explained(error, "cannot be made") from error
        if not isinstance(getattr(inner, "param_groups", None), list):
            raise UnsupportedError(
                f"{self.title} of pytorch-optimizer has no parameter groups: it is no optimizer"
            )
        self.inner = inner
        self._share()

    def _share(self) -> None:
        """Groups and state are those of the optimizer inside, which may have made new ones."""
        assert self.inner is not None
        self.param_groups, self.state = self.inner.param_groups, self.inner.state
        self.defaults = self.inner.defaults

    def _ready(self, objective: Objective) -> torch.optim.Optimizer:
        if self.inner is None:
            facts = arguments.Facts(self.horizon, len(objective.inputs))
            self._try_build(facts)
            if self.inner is None:
                missing = [
                    key
                    for key, value in arguments.from_facts(self.kind, self._own, facts).items()
                    if value is None
                ]
                raise ValueError(
                    f"{self.title} needs {', '.join(missing)}: pass "
                    f"optimizer.settings.{missing[0]}=..., or tell the length of the training by "
                    "expect(steps, steps_per_epoch)"
                )
        return self.inner

    def _name_of_lr(self, given: Mapping[str, Any]) -> str:
        """What the class calls its learning rate."""
        _, base = arguments.wrapped(self.kind, given)
        kinds = [self.kind] if base is None else [self.kind, base]
        for name in ("lr", *LAST):
            if any(name in catalogue.signature(kind) for kind in kinds):
                return name
        raise ValueError(f"{self.title} has no learning rate; leave lr out")

    # -- a step ------------------------------------------------------------------------------------

    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        """A step of the optimizer inside, given the oracles that its class declares."""
        inner = self._ready(objective)
        self._first, self._failed = None, None
        try:
            with one_source() if catalogue.draws_elsewhere(self.kind) else nullcontext():
                self._take(inner, objective)
        except _RefusedError:
            pass
        except Exception as error:
            if error is self._failed or self._begun or not _is_the_packages(error):
                raise
            raise self._explained(error, "cannot take a step here") from error
        if not self._begun:
            self._begun = True
            self._warn_of_narrow_state()
        assert self._first is not None
        return self._first

    def _take(self, inner: Any, objective: Objective) -> None:
        """Give the step what the class declares that it needs."""
        if hasattr(inner, "fused_backward"):
            loss = self._watched(objective.attached, objective, gradients=False)()
            if getattr(inner, "clip_grad_norm", None):
                inner.grad_norm(loss)
            inner.fused_backward(loss, inner.param_groups[0]["lr"])
        elif self._needs_graph(inner):
            with objective.differentiable() as evaluate:
                inner.step(self._watched(evaluate, objective))
        else:
            evaluate = self._watched(objective, objective)
            if catalogue.wants_gradients(self.kind):
                evaluate()
            inner.step(evaluate)

    def _needs_graph(self, inner: Any) -> bool:
        if not self.needs:
            return False
        return bool(inner.param_groups[0].get("step", 0) % getattr(inner, "update_period", 1) == 0)

    def _watched(
        self, evaluate: Evaluate, objective: Objective, gradients: bool = True
    ) -> Evaluate:
        """An evaluation that keeps the first loss, and ends the step if that is not finite."""

        def watched() -> Tensor:
            try:
                loss = evaluate()
            except Exception as error:
                self._failed = error
                raise
            if self._first is None:
                self._first = loss.detach().clone()
                if gradients and not self.finite(self._first, objective):
                    raise _RefusedError
                if not gradients and not bool(torch.isfinite(self._first)):
                    self.failures["non_finite"] += 1
                    raise _RefusedError
            return loss

        return watched

    # -- weights and checkpoints -------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        """`train` and `eval` exist where the optimizer inside has them."""
        if name in SWITCHES and self.__dict__.get("inner") is not None:
            return getattr(self.inner, name)
        raise AttributeError(f"{type(self).__name__} has no {name!r}")

    def state_dict(self) -> dict[str, Any]:
        """State, facts and counters of the optimizer inside, as checkpoints may hold them."""
        if self.inner is None:
            return super().state_dict()
        counters = {
            name: value for name, value in vars(self.inner).items() if type(value) in COUNTERS
        }
        return {
            "inner": pack(self.inner.state_dict()),
            "told": self._from_facts,
            "counters": counters,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state, in the precisions in which it was saved."""
        if "inner" not in state_dict:  # saved before the first step
            super().load_state_dict(state_dict)
            return
        if self.inner is None:
            self._build(state_dict["told"])
        assert self.inner is not None
        saved = unpack(state_dict["inner"])
        own = [_functions(group) for group in self.inner.param_groups]
        self.inner.load_state_dict(saved)
        for group, functions in zip(self.inner.param_groups, own, strict=True):
            group.update(functions)
        self._keep_precisions(saved)
        for name, value in state_dict["counters"].items():
            setattr(self.inner, name, value)
        self._share()

    def _keep_precisions(self, saved: Mapping[str, Any]) -> None:
        """Undo the cast of the state to the precision of the parameters."""
        assert self.inner is not None
        states, groups = saved.get("state"), saved.get("param_groups")
        if not isinstance(states, Mapping) or groups is None:
            return
        numbers = [number for group in groups for number in group["params"]]
        params = [parameter for group in self.inner.param_groups for parameter in group["params"]]
        for number, parameter in zip(numbers, params, strict=True):
            if number in states and parameter in self.inner.state:
                self.inner.state[parameter] = narrowed(self.inner.state[parameter], states[number])

    # -- messages ----------------------------------------------------------------------------------

    def _explained(self, error: Exception, what: str) -> Exception:
        """A failure of the package in words that name the optimizer.

        A value out of range stays a ValueError.
        """
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if isinstance(error, KeyError):  # of a setting that goes with one that was given
            reason = f"it has no setting {error.args[0]!r} and no default for it"
        hint = ""
        if self._dtype is torch.float64 and any(
            word in reason for word in ("dtype", "Float", "float", "Double")
        ):
            hint = "; it keeps narrower numbers than the parameters' float64: use precision=float32"
        message = f"{self.title} of pytorch-optimizer {what}: {reason}{hint}"
        values = catalogue.is_out_of_range(error) and not self._begun and self.inner is None
        return (
            ValueError(message)
            if values and not isinstance(error, UnsupportedError)
            else UnsupportedError(message)
        )

    def _warn_of_narrow_state(self) -> None:
        """Warn once which tensors are kept in fewer digits than parameters of float64."""
        if self._dtype is not torch.float64:
            return
        states = [state for state in dict(self.state).values() if isinstance(state, dict)]
        narrow = {
            f"{key} ({str(value.dtype).removeprefix('torch.')})"
            for state in states
            for key, value in state.items()
            if isinstance(value, Tensor)
            and value.is_floating_point()
            and value.ndim
            and value.dtype != self._dtype
        }
        if narrow:
            warnings.warn(
                f"{self.title} of pytorch-optimizer keeps {', '.join(sorted(narrow))} for "
                "parameters of float64: its steps have no more digits than that",
                stacklevel=3,
            )


def _functions(group: Mapping[str, Any]) -> dict[str, Any]:
    """The functions among a group's settings, which no checkpoint holds."""
    return {name: value for name, value in group.items() if callable(value)}


def _is_the_packages(error: Exception) -> bool:
    """Whether an exception is the package's own; others, such as a lack of memory, pass."""
    return (
        isinstance(error, EXPLAINED) and not isinstance(error, torch.OutOfMemoryError)
    ) or catalogue.is_own(error)


class _RefusedError(Exception):
    """The step ends before it has changed anything."""
