"""Telemetry of a run: steps compared with gradients, and the curvature along the way.

All of it is measured off the clock and aside from the run: with objectives, counts and random
streams of its own, on buffers that do not move. A run with telemetry takes the very steps of the
run without.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from optimizers import Objective, UnsupportedError
from optimizers.linalg.curvature import Curvature
from optimizers.linalg.flat import flatten, unflatten
from optimizers.linalg.spectrum import spectral_density
from optimizers.objective.step_state import held_statistics
from suite.results.directory import Row, RowFile
from suite.training.measures.step_diagnostics import (
    Facts,
    along,
    cosine,
    largest_tensors,
    norm,
    spread,
    step_facts,
)
from suite.training.seeds import stream
from tasks.task import Batch, Task

PREFIX = "telemetry/"
LAYER_COLUMNS = ("step", "name", "layer", "value")
EIGENVALUES = 3
DIRECTIONS = 2  # products with the gradient and the last update
NO_HESSIAN = "the task offers no hessian: the columns of curvature are left out"


class LayerFile(RowFile):
    """telemetry.csv: values of single parameter tensors at the evaluations, in long form."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, LAYER_COLUMNS)

    def note(self, step: int, layers: Mapping[tuple[str, str], float]) -> None:
        """The values of a step under (name, layer); they reach the disk at the next flush."""
        for (name, layer), value in layers.items():
            if math.isfinite(value):
                self.add(dict(zip(LAYER_COLUMNS, (step, name, layer, value), strict=True)))


class Telemetry:
    """Watches one model and its optimizer.

    `begin` before a step and `end` after it, then `row` for the history.

    Attributes:
        seconds: what all of it has taken so far.
        evaluations: how often the curvature was measured, `curvature_seconds` long in all.
        note: what is left out and why; empty where nothing is.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        optimizer: Any,
        seed: int,
        *,
        products: int,
        autocast: bool = False,
        parts: int = 1,
    ) -> None:
        self.model = model
        self.task = task
        self.optimizer = optimizer
        self.products = products
        self.autocast = autocast
        self.parts = parts
        self.named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.params = [parameter for _, parameter in self.named]
        self.norms = [module for module in model.modules() if isinstance(module, _NormBase)]
        self.seed = stream(seed, "telemetry")
        self.batch: Batch = next(task.batches("train", stream(seed, "data")))
        self.seconds = self.curvature_seconds = 0.0
        self.evaluations = 0
        self.note = "" if "hessian" in task.offers else NO_HESSIAN
        self.layers: dict[tuple[str, str], float] = {}
        self._begun: tuple[Objective, Tensor, Tensor, Tensor] | None = None
        self._step: Facts = {}
        self._update: Tensor | None = None
        self._watching = True

    # -- a step ------------------------------------------------------------------------------------

    def begin(self, inputs: Tensor, targets: Tensor) -> None:
        """Remember where a step starts.

        The parameters, the loss and the gradient of its mini-batch.
        """
        if not self._watching:
            return
        with self._surviving("the step's columns are"), self._aside():
            objective = self._objective((inputs, targets), autocast=self.autocast)
            loss, gradient = objective.value_and_gradient()
            self._begun = objective, loss, gradient, flatten(self.params).detach()
            return
        self._watching = False

    def end(self) -> None:
        """Compare the step just taken with the gradient at its start."""
        if self._begun is None:
            return
        objective, loss, gradient, start = self._begun
        self._begun = None
        with self._surviving("the step's columns are"), self._aside():
            update = flatten(self.params).detach() - start
            after = objective.value()
            self._step = step_facts(gradient, update, float(loss), float(after))
            ratios = self._note_layers(gradient, update, start)
            self._step |= {f"update_ratio_{name}": value for name, value in spread(ratios).items()}
            self._update = update

    def _note_layers(self, gradient: Tensor, update: Tensor, start: Tensor) -> list[float]:
        """Note the largest tensors one by one.

        The update-to-weight ratios of all that count as weights.
        """
        parts = [unflatten(vector, self.params) for vector in (gradient, update, start)]
        followed = largest_tensors(self.params)
        weights = [p.ndim >= 2 for p in self.params]
        ratios = []
        self.layers = {}
        for index, (slope, change, before) in enumerate(zip(*parts, strict=True)):
            moved, size = norm(change), norm(before)
            ratio = moved / size if size > 0 else math.nan
            if weights[index] or not any(weights):
                ratios.append(ratio)
            if index in followed:
                name = self.named[index][0]
                self.layers["update_ratio", name] = ratio
                self.layers["cosine", name] = -cosine(slope, change)
                self.layers["gradient_norm", name] = norm(slope)
        return ratios

    # -- the curvature -----------------------------------------------------------------------------

    def curvature(self) -> Facts:
        """The Hessian of the loss of the run's first mini-batch, at the parameters as they are."""
        if "hessian" not in self.task.offers or self.products == 0:
            return {}
        before, facts = self.seconds, None
        with (
            self._surviving("curvature is"),
            self._aside(self.seed),
        ):  # the same dropout masks at every evaluation
            facts = self._curvature(self._objective(self.batch).hessian())
        self.evaluations += 1
        self.curvature_seconds += self.seconds - before
        self.products = 0 if facts is None else self.products
        return facts or {}

    def _curvature(self, hessian: Curvature) -> Facts:
        gradient, update = hessian.gradient, self._update
        facts = {"gradient_curvature": along(hessian, gradient)}
        if update is not None:
            facts["update_curvature"] = along(hessian, update)
        density = spectral_density(hessian, self.products - DIRECTIONS, EIGENVALUES)
        if density is None:
            return facts
        facts |= {
            f"eigenvalue_{rank}": float(value)
            for rank, value in enumerate(density.largest, start=1)
        }
        facts |= {
            "eigenvalue_min": density.smallest,
            "eigenvalue_error": density.error,
            "trace": density.trace,
        }
        facts |= {"negative_share": density.negative_share, "negative_mass": density.negative_mass}
        lr = self.optimizer.param_groups[0].get("lr")
        if lr is not None:
            facts["lr_sharpness"] = float(lr) * facts["eigenvalue_1"]
        return facts

    @contextmanager
    def _surviving(self, what: str) -> Iterator[None]:
        """Note a fault of telemetry, a lack of memory among them; it ends no run."""
        try:
            yield
        except (RuntimeError, NotImplementedError, UnsupportedError) as error:
            reason = str(error).partition("\n")[0]
            self.note = f"{what} left out from here on: {type(error).__name__}: {reason}"
            print(f"Telemetry: {self.note}", file=sys.stderr)

    # -- what is recorded --------------------------------------------------------------------------

    def row(self, *, evaluated: bool) -> Row:
        """The columns for the history, what is not known left empty.

        The curvature at evaluations only.
        """
        facts = self._step | self._own_facts()
        if evaluated:
            facts |= self.curvature()
        self._step, self._update = {}, None
        return {
            PREFIX + name: value if math.isfinite(value) else "" for name, value in facts.items()
        }

    def _own_facts(self) -> Facts:
        """The optimizer's own telemetry, and the number of its failures so far."""
        failures: Counter[str] | None = getattr(self.optimizer, "failures", None)
        facts = {} if failures is None else {"failures": float(sum(failures.values()))}
        tell: Callable[[], Mapping[str, float]] | None = getattr(self.optimizer, "telemetry", None)
        return (
            facts
            if tell is None
            else facts | {name: float(value) for name, value in tell().items()}
        )

    def summary(self) -> dict[str, Any]:
        """What it cost, for summary.json."""
        each = self.curvature_seconds / self.evaluations if self.evaluations else None
        return {
            "telemetry_seconds": round(self.seconds, 6),
            "telemetry_seconds_per_evaluation": None if each is None else round(each, 6),
            "telemetry_note": self.note,
        }

    # -- aside from the run ------------------------------------------------------------------------

    def _objective(self, batch: Batch, *, autocast: bool = False) -> Objective:
        loss_fn, l2 = self.task.loss_fn, self.task.l2
        return Objective(self.model, loss_fn, *batch, l2=l2, autocast=autocast, parts=self.parts)

    @contextmanager
    def _aside(self, seed: int | None = None) -> Iterator[None]:
        """Restore random streams and running statistics afterwards, and add up the time."""
        began = perf_counter()
        device = self.params[0].device
        try:
            with (
                torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
                held_statistics(self.norms),
            ):
                if seed is not None:
                    torch.manual_seed(seed)
                yield
        finally:
            self.seconds += perf_counter() - began
