"""What K-FAC does in two processes, each with its share of every mini-batch, and in one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from optimizers import Objective
from optimizers.distributed import SINGLE_PROCESS, ProcessGroup, SingleProcess
from optimizers.linalg.flat import flatten
from optimizers.natural_gradient import EKFAC, KFAC
from tests.optimizers.cases import LOSSES, MODELS, Problem, mlp
from tests.optimizers.ranks import Progress

STEPS = 10
HALF = 5  # no step that renews anything: what is resumed has to be complete
PLAIN: dict[str, object] = {"statistics_period": 2, "inverse_period": 3, "lr": 0.05}
QUADRATIC: dict[str, object] = {
    **PLAIN,
    "step_rule": "exact",
    "damping_rule": "adaptive",
    "damping_period": 2,
}
MEMORY: dict[str, object] = {"distribution": "memory"}
Way = tuple[type[KFAC], Mapping[str, object], str]

WAYS: dict[str, Way] = {
    "sampled": (KFAC, PLAIN, "classifier"),
    "sum": (KFAC, {**PLAIN, "fisher": "empirical"}, "sum"),
    "exact conv": (KFAC, {**PLAIN, "fisher": "exact", "max_dim": 10}, "conv"),
    "lstm": (KFAC, {**PLAIN, "shared_weights": "reduce"}, "lstm"),
    "tied": (KFAC, PLAIN, "tied"),
    "adapted": (KFAC, QUADRATIC, "classifier"),
    "adapted share": (
        KFAC,
        {**QUADRATIC, "curvature_share": 0.5, "statistics_share": 0.6},
        "classifier",
    ),
    "staggered": (KFAC, {**PLAIN, "staggered": True}, "classifier"),
    "memory": (KFAC, {**PLAIN, **MEMORY}, "classifier"),
    "memory conv": (KFAC, {**PLAIN, **MEMORY, "fisher": "exact"}, "conv"),
    "memory eigen": (KFAC, {**PLAIN, **MEMORY, "inverse": "eigen"}, "classifier"),
    "memory adapted": (KFAC, {**QUADRATIC, **MEMORY}, "classifier"),
    "memory staggered": (KFAC, {**PLAIN, **MEMORY, "staggered": True}, "classifier"),
    "ekfac": (EKFAC, PLAIN, "classifier"),
    "ekfac exact": (EKFAC, {**PLAIN, "fisher": "exact"}, "classifier"),
    "ekfac staggered": (EKFAC, {**PLAIN, "staggered": True, "averaging": 0.8}, "classifier"),
}
TINY: dict[str, Way] = {  # parts of less than an example for every rank
    "shares": (
        KFAC,
        {**QUADRATIC, "curvature_share": 0.01, "statistics_share": 0.01},
        "classifier",
    ),
    "slices": (KFAC, {**PLAIN, "staggered": True, "statistics_period": 7}, "sum"),
}


def problem_of(name: str) -> Problem:
    torch.manual_seed(0)
    if name == "classifier":
        model = mlp((4, 6, 5, 3)).double()
        return Problem(
            model, nn.CrossEntropyLoss(), torch.randn(24, 4).double(), torch.randint(3, (24,))
        )
    return {**LOSSES, **MODELS, "sum": LOSSES["mlp_ce_sum"]}[name]()


class Run:
    """A network in training, on mini-batches that turn."""

    def __init__(self, way: Way, ranks: SingleProcess) -> None:
        method, options, name = way
        self.problem = problem_of(name)
        self.model = copy.deepcopy(self.problem.model)
        self.optimizer = method(self.model.named_parameters(), **options)
        self.objective = Objective(
            self.model,
            self.problem.loss_fn,
            self.problem.inputs,
            self.problem.targets,
            l2=0.01,
            ranks=ranks,
            generator=torch.Generator().manual_seed(7),
        )
        self.step = 0
        self.losses: list[Tensor] = []

    def go(self, steps: int) -> Tensor:
        count = len(self.problem.inputs)
        for _ in range(steps):
            chosen = torch.arange(self.step, self.step + max(2, count - 1)) % count
            batch = self.problem.inputs[chosen], self.problem.targets[chosen]
            self.losses.append(self.optimizer.step(self.objective.on(*batch)))
            self.step += 1
        return flatten(self.model.parameters()).detach()

    def saved(self) -> dict[str, Any]:
        return copy.deepcopy(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "generator": self.objective._batch.problem.generator.get_state(),
                "step": self.step,
            }
        )

    def resume(self, saved: dict[str, Any]) -> None:
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(copy.deepcopy(saved["optimizer"]))
        self.objective._batch.problem.generator.set_state(saved["generator"])
        self.step = saved["step"]


def inverted(optimizer: KFAC) -> list[int]:
    """The numbers of the blocks whose inverse this process holds."""
    states = [optimizer.state[block.parameters[0]] for block in optimizer._blocks or []]
    return [number for number, state in enumerate(states) if optimizer.inverses.stored(state)]


def trained(name: str, ranks: SingleProcess) -> dict[str, Any]:
    """Where ten steps lead, at once and with a checkpoint between them, and what was kept."""
    whole, first, second = (Run(WAYS[name], ranks) for _ in range(3))
    end = whole.go(STEPS)
    middle = first.go(HALF)
    held = inverted(first.optimizer)
    saved = first.saved()
    assert inverted(first.optimizer) == held  # saving leaves nothing behind
    second.resume(saved)
    return {
        "start": flatten(whole.problem.model.parameters()).detach(),
        "end": end,
        "losses": torch.stack(whole.losses),
        "counts": dict(whole.objective.counts),
        "telemetry": whole.optimizer.telemetry(),
        "failures": dict(whole.optimizer.failures),
        "middle": middle,
        "held": held,
        "blocks": len(first.optimizer._blocks or []),
        "saved": saved,
        "gone on": first.go(STEPS - HALF),
        "resumed": second.go(STEPS - HALF),
        "held after resuming": inverted(second.optimizer),
    }


def resumed_alone(name: str, saved: dict[str, Any]) -> Tensor:
    """Where one process gets with what two have saved."""
    run = Run(WAYS[name], SINGLE_PROCESS)
    run.resume(saved)
    return run.go(STEPS - HALF)


def work(ranks: ProcessGroup, progress: Progress) -> dict[str, Any]:
    """The results of one of the processes."""
    results: dict[str, Any] = {}
    for name in WAYS:
        results[name] = trained(name, ranks)
        progress()
    return results | {"tiny": {name: Run(way, ranks).go(STEPS) for name, way in TINY.items()}}
