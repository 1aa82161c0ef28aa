"""A mini-batch evaluated in parts is the mini-batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from optimizers import Objective
from tests.optimizers import two_ranks
from tests.optimizers.cases import CASES, Problem, close, mlp


@pytest.mark.parametrize("parts", [2, 3, 9])
@pytest.mark.parametrize("name", two_ranks.PROBLEMS)
def test_every_answer_is_that_of_the_whole(name: str, parts: int) -> None:
    expected = two_ranks.answers(two_ranks.SINGLE_PROCESS, [name])
    answers = two_ranks.answers(two_ranks.SINGLE_PROCESS, [name], parts=parts)
    assert answers.keys() == expected.keys()
    for key, value in expected.items():
        close(answers[key], value, 1e-12)


@pytest.mark.parametrize("name", ["adamw", "ggn_cg", "lbfgs"])
def test_ten_steps_are_those_of_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_ranks, "METHODS", {name: two_ranks.METHODS[name]})
    expected, sequence = (
        two_ranks.trained(two_ranks.SINGLE_PROCESS),
        two_ranks.trained(two_ranks.SINGLE_PROCESS, parts=2),
    )
    close(sequence[f"{name} parameters"], expected[f"{name} parameters"], 1e-6)
    close(sequence[f"{name} losses"], expected[f"{name} losses"], 1e-6)


def test_masks_are_drawn_part_by_part_and_are_the_same_in_every_evaluation() -> None:
    """Dropout takes the numbers that a loop over the parts takes, whoever asks, whichever graph is
    kept."""
    problem = CASES["dropout"]()
    torch.manual_seed(3)
    outputs = torch.cat([problem.model(part) for part in problem.inputs.split(2)])
    expected = problem.loss_fn(outputs, problem.targets)
    after = torch.get_rng_state()
    gradients = torch.autograd.grad(expected, problem.params)

    torch.manual_seed(3)
    objective = problem.objective(parts=3)
    for _ in range(2):
        close(objective(), expected.detach())
        close(objective.gradient(), torch.cat([part.flatten() for part in gradients]))
        close(objective.value(), expected.detach())
        close(objective.hessian().loss, expected.detach())
        close(objective.ggn().gradient, objective.gradient())
        close(objective.scores()[0], expected.detach())
    assert torch.equal(torch.get_rng_state(), after)


def test_batch_normalisation_sees_a_part_at_a_time_and_moves_once_for_each() -> None:
    whole, parted = CASES["conv_bn"](), CASES["conv_bn"]()
    losses = [whole.loss_fn(whole.model(x), t) for x, t in _halves(whole)]
    expected = (3 * losses[0] + 2 * losses[1]) / 5
    objective = parted.objective(parts=2)
    for _ in range(2):
        close(objective(), expected.detach())
        close(objective.value(), expected.detach())
        close(objective.ggn().loss, expected.detach())
    for (name, one), other in zip(parted.model.named_buffers(), whole.model.buffers(), strict=True):
        assert torch.equal(one, other), name


def _halves(problem: Problem) -> list[tuple[Tensor, Tensor]]:
    return [(problem.inputs[:3], problem.targets[:3]), (problem.inputs[3:], problem.targets[3:])]


class Held(nn.Module):
    """The identity, which notes the most numbers that the graphs behind it hold at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.most = 0

    def forward(self, inputs: Tensor) -> Tensor:
        return _Noted.apply(inputs, self) if torch.is_grad_enabled() else inputs


class _Noted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, inputs: Tensor, holder: Held) -> Tensor:
        ctx.holder, ctx.size = holder, inputs.numel()  # type: ignore[attr-defined]
        holder.held += inputs.numel()
        holder.most = max(holder.most, holder.held)
        return inputs.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        ctx.holder.held -= ctx.size  # type: ignore[attr-defined]
        return gradient, None


@pytest.mark.parametrize(
    "ask",
    [lambda objective: objective(), lambda objective: objective.value_and_gradient()],
    ids=["call", "gradient"],
)
def test_the_graph_of_one_part_is_alive_at_a_time(ask: Callable[[Objective], object]) -> None:
    held = Held()
    model = nn.Sequential(nn.Linear(4, 8), held, nn.Linear(8, 3))
    inputs, targets = torch.randn(12, 4), torch.randint(3, (12,))
    for parts, expected in ((1, 96), (3, 32), (12, 8), (50, 8)):
        held.most = 0
        ask(Objective(model, nn.CrossEntropyLoss(), inputs, targets, parts=parts))
        assert (held.most, held.held) == (expected, 0)


def test_calls_are_counted_as_one() -> None:
    objective = CASES["mlp_ce"]().objective(parts=3)
    objective()
    objective.value()
    objective.scores()
    assert dict(objective.counts) == {"value": 3, "grad": 3}


def test_parts_are_at_least_one() -> None:
    with pytest.raises(ValueError, match="parts must be at least 1, got 0"):
        Objective(mlp(), nn.MSELoss(), torch.zeros(2, 4), torch.zeros(2, 3), parts=0)
