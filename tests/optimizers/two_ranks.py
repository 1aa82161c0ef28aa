"""What two processes, each with its share of a mini-batch, answer to each question that one process
answers alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from optimizers import Objective, UnsupportedError
from optimizers.distributed import SINGLE_PROCESS, ProcessGroup, SingleProcess
from optimizers.krylov.hessian_free import HessianFree
from optimizers.least_squares.ggn_cg import GGNCG
from optimizers.least_squares.levenberg_marquardt import LevenbergMarquardt
from optimizers.linalg.flat import flatten
from optimizers.natural_gradient import KBFGS, SINGD, TNT
from optimizers.newton.newton_cg import NewtonCG
from optimizers.quasi_newton.lbfgs import LBFGS
from optimizers.trust_region.subsampled_arc import SubsampledARC
from tests.optimizers.cases import LOSSES, MODELS, Builder, Problem, mlp
from tests.optimizers.ranks import SIZE, Progress

Answers = dict[str, Tensor]


def trimmed(build: Builder, count: int) -> Builder:
    """The problem with its first examples only."""

    def make() -> Problem:
        problem = build()
        problem.inputs, problem.targets = problem.inputs[:count], problem.targets[:count]
        return problem

    return make


def with_loss(loss_fn: nn.Module) -> Builder:
    def make() -> Problem:
        torch.manual_seed(0)
        return Problem(
            mlp().double(), loss_fn, torch.randn(7, 4).double(), torch.tensor([0, 1, 2, 0, 0, 1, 2])
        )

    return make


WEIGHTS = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)
PROBLEMS: dict[str, Builder] = {
    **{name: trimmed(build, 5) for name, build in LOSSES.items()},  # 3 examples and 2
    "even": LOSSES["mlp_ce"],
    "one each": trimmed(LOSSES["mlp_mse"], 2),
    **{name: MODELS[name] for name in ("conv", "lstm", "sdpa", "multihead", "tied")},
    "class weights": with_loss(nn.CrossEntropyLoss(WEIGHTS)),
    "ignored targets": with_loss(nn.CrossEntropyLoss(WEIGHTS, ignore_index=0)),
    "only ignored targets": with_loss(nn.CrossEntropyLoss(ignore_index=2)),
    "label smoothing": with_loss(nn.CrossEntropyLoss(label_smoothing=0.1)),
}
IN_PARTS = ("mlp_ce", "mlp_bce_sum", "mlp_mse_example", "one each", "conv", "ignored targets")
FISHER = [name for name in PROBLEMS if name.split()[-1] not in ("weights", "targets", "smoothing")]


def problem_of(name: str) -> Problem:
    problem = PROBLEMS[name]()
    if name == "only ignored targets":
        problem.targets[4:] = 2  # all of the second rank's
    return problem


def answers(ranks: SingleProcess, names: Iterable[str] = PROBLEMS, **options: Any) -> Answers:
    """All of them, by the names of what was asked."""
    collected: Answers = {}
    for name in names:
        problem = problem_of(name)
        for question, ask in QUESTIONS.items():
            if question in FISHER_QUESTIONS and name not in FISHER:
                continue
            if question in SQUARE_QUESTIONS and not isinstance(problem.loss_fn, nn.MSELoss):
                continue
            if question == "rows" and name in (
                "class weights",
                "ignored targets",
                "only ignored targets",
            ):
                continue
            generator = torch.Generator().manual_seed(5)
            collected |= {
                f"{name}, {question}{part}": value.detach().clone()
                for part, value in ask(
                    problem.objective(0.3, ranks=ranks, generator=generator, **options)
                ).items()
            }
    return collected


def _step(objective: Objective) -> Tensor:
    size = sum(p.numel() for p in objective.params)
    return torch.linspace(-0.3, 0.4, size, dtype=torch.float64)


def called(objective: Objective) -> Answers:
    loss = objective()
    return {" loss": loss, " gradient": objective.gradient()}


def valued(objective: Objective) -> Answers:
    return {"": objective.value(), " at a step": objective.value(_step(objective))}


def valued_with_gradient(objective: Objective) -> Answers:
    here, ahead = objective.value_and_gradient(), objective.value_and_gradient(_step(objective))
    return {
        " loss": here[0],
        " gradient": here[1],
        " loss at a step": ahead[0],
        " gradient at a step": ahead[1],
    }


def curved(objective: Objective) -> Answers:
    collected = {}
    for kind, matrix in {" of hessian": objective.hessian(), " of ggn": objective.ggn()}.items():
        collected |= {f" loss{kind}": matrix.loss, f" gradient{kind}": matrix.gradient}
        collected |= {f" product{kind}": matrix(_step(objective)), f" dense{kind}": matrix.dense()}
    return collected


def rows(objective: Objective) -> Answers:
    return {" of examples": objective.per_example_grads()}


def squares(objective: Objective) -> Answers:
    residuals, jacobian = objective.jacobian()
    return {
        " residuals": residuals,
        " jacobian": jacobian,
        " at a step": objective.residuals(_step(objective)),
    }


def sampled(objective: Objective) -> Answers:
    first, second = objective.sampled(), objective.sampled()
    collected = {
        " first": first(),
        " its gradient": first.gradient(),
        " again": first.value(),
        " second": second.value(),
    }
    part = second.subset(torch.arange(len(second.inputs)).flip(0)[: 1 + len(second.inputs) // 2])
    if len(part.inputs) >= SIZE:
        collected[" part"] = part.value()
    return collected | {" scale": torch.tensor(first.scale), " terms": torch.tensor(first.terms)}


def layers(objective: Objective) -> Answers:
    """Second moments of inputs and output gradients, summed over uses, ranks and layers."""
    collected = {}
    for fisher in ("sampled", "exact", "empirical"):
        for gradient in (True, False):
            loss, passes = objective.scores(fisher=fisher, gradient=gradient)
            seen = [
                pair
                for captured in passes
                for record in captured.values()
                for pair in record.uses()
            ]
            moments = torch.stack(
                [torch.stack([a.square().sum(), g.square().sum()]) for a, g in seen]
            ).sum(0)
            objective.ranks.all_reduce_([moments])
            collected |= {
                f" {fisher} {gradient} loss": loss,
                f" {fisher} {gradient} moments": moments,
            }
            if gradient:
                collected[f" {fisher} gradient"] = objective.gradient()
    return collected


QUESTIONS: dict[str, Callable[[Objective], Answers]] = {
    "called": called,
    "value": valued,
    "value_and_gradient": valued_with_gradient,
    "curvature": curved,
    "rows": rows,
    "jacobian": squares,
    "sampled": sampled,
    "scores": layers,
}
FISHER_QUESTIONS = ("sampled", "scores")
SQUARE_QUESTIONS = ("jacobian",)


# -- steps -----------------------------------------------------------------------------------------

METHODS: dict[str, tuple[Callable[[list[nn.Parameter]], Any], str]] = {
    "adamw": (lambda p: torch.optim.AdamW(p, lr=0.01), "mlp_ce"),
    "momentum": (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), "mlp_bce_sum"),
    "torch_lbfgs": (lambda p: torch.optim.LBFGS(p, max_iter=4), "mlp_mse"),
    "ggn_cg": (lambda p: GGNCG(p), "mlp_ce"),
    "hessian_free": (lambda p: HessianFree(p), "mlp_bce_example"),
    "lbfgs": (lambda p: LBFGS(p), "mlp_ce"),
    "newton_cg": (lambda p: NewtonCG(p), "mlp_mse_example"),
    "levenberg_marquardt": (lambda p: LevenbergMarquardt(p), "mlp_mse"),
    "subsampled_arc": (lambda p: SubsampledARC(p), "mlp_ce_sum"),
    "kbfgs": (lambda p: KBFGS(p, lr=0.1), "mlp_ce"),
    "singd": (lambda p: SINGD(p, lr=0.1, fisher="sampled", statistics_period=2), "mlp_bce_sum"),
    "tnt": (lambda p: TNT(p, statistics_period=2, period=4), "mlp_mse"),
}


def trained(ranks: SingleProcess, **options: Any) -> Answers:
    """Where ten steps on changing mini-batches of five lead, and what was counted."""
    collected: Answers = {}
    for name, (make, case) in METHODS.items():
        problem = LOSSES[case]()
        model = copy.deepcopy(problem.model)
        optimizer = make(list(model.parameters()))
        objective = Objective(
            model, problem.loss_fn, problem.inputs, problem.targets, l2=0.01, ranks=ranks, **options
        )
        losses = []
        for step in range(10):
            chosen = torch.arange(step, step + 5) % 6
            losses.append(
                optimizer.step(objective.on(problem.inputs[chosen], problem.targets[chosen]))
            )
        collected[f"{name} parameters"] = flatten(model.parameters()).detach()
        collected[f"{name} losses"] = torch.stack(losses).detach()
        collected[f"{name} counts"] = torch.tensor(
            [float(objective.counts[key]) for key in sorted(objective.counts)]
        )
    return collected


# -- the other process -----------------------------------------------------------------------------


class Unused(nn.Module):
    """A parameter that one rank's examples use alone, and one that nobody uses."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.sometimes, self.never = (
            nn.Parameter(torch.ones(2).double()) for _ in range(3)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = inputs * self.used
        return outputs * self.sometimes if bool((inputs > 2).any()) else outputs


def without_gradients(ranks: SingleProcess) -> Answers:
    model = Unused()
    inputs = torch.tensor([[1.0, 1.0], [3.0, 3.0]], dtype=torch.float64)
    Objective(model, nn.MSELoss(), inputs, torch.zeros_like(inputs), ranks=ranks)()
    assert model.sometimes.grad is not None
    return {
        "sometimes": model.sometimes.grad,
        "never is None": torch.tensor(model.never.grad is None),
    }


def exchanged(ranks: SingleProcess) -> Answers:
    """The group's own operations, where the ranks hold different things."""
    rank = ranks.rank
    mixed = [
        torch.full((2, 2), rank + 1.0),
        torch.tensor(rank + 1),
        torch.full((3,), rank + 1.0).double(),
    ]
    ranks.all_reduce_(mixed)
    second = [torch.tensor([rank]), torch.tensor([float(rank)])]
    ranks.broadcast_(second, source=1)
    return {
        "sums": torch.cat([part.double().flatten() for part in mixed]),
        "of the second": torch.cat([part.double() for part in second]),
        "all_gather": ranks.all_gather(torch.full((rank + 1, 2), float(rank))),
        "all_reduce_max": torch.tensor(ranks.all_reduce_max((rank, -rank))),
        "broadcast_object": torch.tensor(ranks.broadcast_object({"word": rank + 5})["word"]),
        "shares": ranks.all_gather(torch.tensor([[ranks.share(7).start, ranks.share(7).stop]])),
    }


def clipped(ranks: SingleProcess) -> Answers:
    objective = LOSSES["mlp_ce_sum"]().objective(0.3, ranks=ranks, clip=0.1)
    objective()
    first = objective.gradient()
    sampled = objective.sampled()
    sampled()
    return {"norm": first.norm(), "direction": first, "another's norm": sampled.gradient().norm()}


def refused(ranks: SingleProcess) -> str:
    objective = LOSSES["mlp_ce"]().objective(ranks=ranks)
    try:
        objective.subset(torch.tensor([2])).value()
    except UnsupportedError as error:
        return str(error)
    return ""


def work(ranks: ProcessGroup, progress: Progress) -> dict[str, Any]:
    """The results of one of the processes."""
    parts: dict[str, Callable[[], Any]] = {
        "answers": lambda: answers(ranks),
        "in parts": lambda: answers(ranks, IN_PARTS, parts=2),
        "trained": lambda: trained(ranks),
        "without gradients": lambda: without_gradients(ranks),
        "exchanged": lambda: exchanged(ranks),
        "clipped": lambda: clipped(ranks),
        "refused": lambda: refused(ranks),
    }
    results: dict[str, Any] = {}
    for name, part in parts.items():
        results[name] = part()
        progress()
    return results


def alone() -> dict[str, Any]:
    """The same of one process."""
    return {
        "answers": answers(SINGLE_PROCESS),
        "trained": trained(SINGLE_PROCESS),
        "clipped": clipped(SINGLE_PROCESS),
    }
