"""Which optimizers of pytorch-optimizer run behind `step(objective)`, which do not, and why."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from optimizers.objective import Objective
from optimizers.packaged.adapter import PytorchOptimizer
from optimizers.packaged.catalogue import listed

STEPS = 12
HALF = STEPS // 2


@dataclass(frozen=True)
class Trial:
    """What became of one optimizer on a small classification.

    Attributes:
        name: its class.
        runs: whether every step was taken, all losses and parameters stayed finite, and the
            parameters moved.
        why: what stopped it, in its own words; empty where nothing did.
        needs: what it asks for beyond a closure, in words.
        first, last: the loss before the first step and after the last one.
        gradients: oracle calls for a gradient a step; `products` of them with the Hessian.
        continues: whether a run that is saved half-way and loaded into a new optimizer goes on bit
            for bit.
        state: numbers kept for each parameter, all tensors together.
        narrow: what it keeps in fewer digits than parameters of float64.
    """

    name: str
    runs: bool
    why: str = ""
    needs: str = ""
    first: float = float("nan")
    last: float = float("nan")
    gradients: float = 0.0
    products: float = 0.0
    continues: bool = False
    state: float = 0.0
    narrow: str = ""


@dataclass
class _Case:
    """One model, its data and its optimizer; every case begins with the same numbers."""

    name: str
    settings: dict[str, Any]
    dtype: torch.dtype

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(64, 6, generator=generator, dtype=self.dtype)
        self.targets = (
            self.inputs @ torch.randn(6, 3, generator=generator, dtype=self.dtype)
        ).argmax(1)
        torch.manual_seed(0)
        layers = [
            nn.Linear(6, 16),
            nn.Tanh(),
            nn.Linear(16, 16),
            nn.LayerNorm(16),
            nn.Tanh(),
            nn.Linear(16, 3),
        ]
        self.model = nn.Sequential(*layers).to(self.dtype)
        self.objective = Objective(self.model, nn.CrossEntropyLoss(), self.inputs, self.targets)
        self.optimizer = PytorchOptimizer(
            self.model.named_parameters(), self.name, settings=self.settings
        )
        self.optimizer.expect(STEPS, 4.0)
        self.switch("train")

    def switch(self, to: str) -> None:
        getattr(self.optimizer, to, lambda: None)()

    def train(self, steps: int) -> list[float]:
        return [
            float(self.optimizer.step(self.objective.on(self.inputs, self.targets)))
            for _ in range(steps)
        ]

    def values(self) -> Tensor:
        return torch.cat(
            [parameter.detach().flatten().clone() for parameter in self.model.parameters()]
        )

    def save(self) -> io.BytesIO:
        file = io.BytesIO()
        torch.save(
            {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}, file
        )
        file.seek(0)
        return file

    def load(self, file: io.BytesIO) -> None:
        saved = torch.load(file, weights_only=True)
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])


def survey(
    names: Iterable[str] | None = None, dtype: torch.dtype = torch.float32, **settings: Any
) -> list[Trial]:
    """Try optimizers, all that the package lists by default, with these settings.

    The random numbers of the process are as before afterwards.
    """
    with torch.random.fork_rng(devices=[]):
        return [_tried(name, settings, dtype) for name in (listed() if names is None else names)]


def _tried(name: str, settings: dict[str, Any], dtype: torch.dtype) -> Trial:
    try:
        with _noted() as notes:
            return _measured(_Case(name, settings, dtype), notes)
    except Exception as error:  # whatever it is, it is the result
        return Trial(name, runs=False, why=str(error) or type(error).__name__)


def _measured(case: _Case, notes: list[warnings.WarningMessage]) -> Trial:
    start = case.values()
    losses = case.train(HALF)
    continues = _continues(case, losses)
    case.switch("eval")
    moved = bool((case.values() != start).any() and case.values().isfinite().all())
    last = float(case.objective.value())
    counts, finite = case.objective.counts, bool(torch.tensor(losses).isfinite().all())
    return Trial(
        name=case.optimizer.title,
        runs=finite and moved,
        why=""
        if finite and moved
        else "its loss is not finite"
        if moved
        else "its parameters do not move",
        needs=_needs(case.optimizer),
        first=losses[0],
        last=last,
        gradients=counts["grad"] / STEPS,
        products=counts["hvp"] / STEPS,
        continues=continues,
        state=_numbers(case.optimizer.state_dict()) / start.numel(),
        narrow="; ".join(
            dict.fromkeys(str(note.message) for note in notes if "float64" in str(note.message))
        ),
    )


def _continues(case: _Case, losses: list[float]) -> bool:
    """Train on, and once more from a checkpoint; whether both take the same steps."""
    try:
        other = _Case(case.name, case.settings, case.dtype)
        other.load(case.save())
    except Exception:
        losses += case.train(STEPS - HALF)
        return False
    state = torch.get_rng_state()
    losses += case.train(STEPS - HALF)
    torch.set_rng_state(state)
    again = other.train(STEPS - HALF)
    return again == losses[HALF:] and torch.equal(case.values(), other.values())


def _needs(optimizer: PytorchOptimizer) -> str:
    """What an optimizer got beside the closure, in words."""
    inner: Any = optimizer.inner
    counted = {
        "gradients with their graph": bool(optimizer.needs),
        "the backward pass": hasattr(inner, "fused_backward"),
        "the length of the training": bool(optimizer.state_dict()["told"]),
        "hidden matrices apart": len(optimizer.param_groups) > 1,
        "train/eval": hasattr(optimizer, "eval"),
    }
    return ", ".join(words for words, needed in counted.items() if needed)


def _numbers(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel()
    if isinstance(value, dict):
        return sum(map(_numbers, value.values()))
    return sum(map(_numbers, value)) if isinstance(value, list | tuple) else 0


@contextmanager
def _noted() -> Iterator[list[warnings.WarningMessage]]:
    """Collect what is warned of instead of showing it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught
