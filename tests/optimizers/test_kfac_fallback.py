"""K-FAC: parameters without a block, and steps that fail."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimizers import Objective
from optimizers.natural_gradient.kfac import KFAC
from tests.optimizers.cases import CASES, Problem, close, mlp
from tests.optimizers.kfac_step_cases import PLAIN, flat, matrix, moved

# -- coverage and fallback -------------------------------------------------------------------------


class Everything(nn.Module):
    """One of each: what K-FAC preconditions and what it must leave to the fallback."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding="same")
        self.norm = nn.BatchNorm2d(4)
        self.grouped = nn.Conv2d(4, 4, 3, groups=2)
        self.embedding = nn.Embedding(6, 4)
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.scale = nn.Parameter(torch.ones(()))
        self.mix = nn.Parameter(torch.eye(4) + 0.1)
        self.hidden = nn.Linear(4, 4, bias=False)
        self.tied = nn.Linear(4, 6, bias=False)
        self.tied.weight = self.embedding.weight
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.out = nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        pixels = (
            self.grouped(torch.relu(self.norm(self.conv(inputs[:, None]))))
            .flatten(2)
            .transpose(1, 2)
        )
        tokens = self.embedding((inputs[:, 0] > 0).long())
        mixed, _ = self.lstm(pixels + tokens[:, :1] * self.scale)
        mixed, _ = self.attention(mixed, mixed, mixed, need_weights=False)
        return self.out(self.frozen(self.tied(torch.tanh(self.hidden(mixed[:, -1] @ self.mix)))))


REST = {"scale", "mix"}  # parameters of no layer


def everything() -> Problem:
    torch.manual_seed(0)
    return Problem(
        Everything().double(),
        nn.CrossEntropyLoss(),
        torch.randn(5, 6, 6).double(),
        torch.randint(3, (5,)),
    )


@pytest.mark.parametrize("fallback", ["adamw", "sgd"])
def test_layer_coverage(fallback: str) -> None:
    problem = everything()
    trainable = [(name, p) for name, p in problem.model.named_parameters() if p.requires_grad]
    optimizer = KFAC(trainable, fallback=fallback)
    assert set(optimizer.layer_coverage().values()) == {fallback}  # nothing is known yet
    optimizer.step(problem.objective())
    coverage = optimizer.layer_coverage()
    assert list(coverage) == [name for name, _ in trainable]
    assert {name for name, rule in coverage.items() if rule == "kfac"} == set(coverage) - REST
    assert {coverage[name] for name in REST} == {fallback}


@pytest.mark.parametrize("fallback", ["adamw", "sgd"])
def test_fallback_equals_torch(fallback: str) -> None:
    problem = everything()
    trainable = [(name, p) for name, p in problem.model.named_parameters() if p.requires_grad]
    optimizer = KFAC(trainable, fallback=fallback, fallback_lr=0.01, weight_decay=0.1, lr=0.2)
    twins = {name: p.detach().clone().requires_grad_() for name, p in trainable if name in REST}
    if fallback == "adamw":
        other: torch.optim.Optimizer = torch.optim.AdamW(
            twins.values(), lr=0.01, weight_decay=0.1, foreach=False
        )
    else:
        other = torch.optim.SGD(twins.values(), lr=0.01, momentum=0.9, foreach=False)
    schedules = [torch.optim.lr_scheduler.ExponentialLR(o, 0.7) for o in (optimizer, other)]
    objective = problem.objective()
    for _ in range(4):
        optimizer.step(objective.on(problem.inputs, problem.targets))
        for name, parameter in trainable:
            if name in twins:
                twins[name].grad = parameter.grad
        if fallback == "sgd":  # torch's decay is coupled, ours is not
            with torch.no_grad():
                for twin in twins.values():
                    twin.mul_(1 - other.param_groups[0]["lr"] * 0.1)
        other.step()
        for schedule in schedules:
            schedule.step()
    for name, parameter in trainable:
        if name in twins:
            close(parameter.detach(), twins[name].detach(), 1e-14)


def test_two_groups_have_their_own_settings() -> None:
    problem = CASES["mlp_mse"]()
    first, _, second = problem.model
    one = copy.deepcopy(problem)
    KFAC(one.model.named_parameters(), lr=0.1, fisher="exact", **PLAIN).step(one.objective())
    groups = [
        {"params": list(first.parameters())},
        {"params": list(second.parameters()), "lr": 0.3},
    ]
    before = [matrix(first), matrix(second)]
    optimizer = KFAC(groups, lr=0.1, fisher="exact", **PLAIN)
    optimizer.step(problem.objective())
    assert optimizer.layer_coverage() == dict.fromkeys("0123", "kfac")
    close(moved(first, before[0]), moved(one.model[0], before[0]))
    close(moved(second, before[1]), 3 * moved(one.model[2], before[1]))


@pytest.mark.parametrize("missing", [False, True])
def test_a_layer_that_is_split_between_groups_or_half_managed_has_two_blocks_or_half_of_one(
    missing: bool,
) -> None:
    problem = CASES["mlp_mse"]()
    first, _, second = problem.model
    biases = [] if missing else [{"params": [("0.bias", first.bias)]}]
    groups = [
        {
            "params": [
                ("0.weight", first.weight),
                *((f"2.{n}", p) for n, p in second.named_parameters()),
            ]
        },
        *biases,
    ]
    optimizer = KFAC(groups, fisher="exact", **PLAIN)
    start = first.bias.detach().clone()
    optimizer.step(problem.objective())
    expected = {"0.weight": "kfac", "2.weight": "kfac", "2.bias": "kfac"}
    assert optimizer.layer_coverage() == (expected if missing else {**expected, "0.bias": "kfac"})
    assert torch.equal(first.bias, start) is missing
    assert optimizer.state[first.weight]["a"].shape == (4, 4)  # without the bias's column
    if not missing:
        assert optimizer.state[first.bias]["a"].shape == (1, 1)
        close(optimizer.state[first.bias]["g"], optimizer.state[first.weight]["g"])


# -- failures --------------------------------------------------------------------------------------


def test_inputs_that_are_not_finite_change_nothing_and_are_counted() -> None:
    problem = CASES["mlp_ce"]()
    optimizer = KFAC(problem.model.named_parameters(), statistics_period=1, inverse_period=1)
    optimizer.step(problem.objective())
    state = optimizer.state[problem.model[0].weight]
    saved = {key: state[key].clone() for key in ("a", "g", "a_inverse", "g_inverse")}
    before = flat(problem).clone()
    broken = copy.copy(problem)
    broken.inputs = torch.full_like(problem.inputs, float("nan"))
    loss = optimizer.step(broken.objective())
    assert not bool(loss.isfinite())
    assert torch.equal(flat(problem), before)
    assert optimizer.failures == {"non_finite": 1}
    for key, value in saved.items():
        assert torch.equal(state[key], value)
    optimizer.step(problem.objective())
    assert bool(flat(problem).isfinite().all())
    assert not torch.equal(flat(problem), before)


def test_statistics_that_are_not_finite_are_dropped_and_counted() -> None:
    """The gradient is fine, but an output gradient for the drawn targets is too large to be
    squared."""
    problem = CASES["mlp_ce"]()
    optimizer = KFAC(problem.model.named_parameters(), statistics_period=1, inverse_period=1)
    optimizer.step(problem.objective())
    state = optimizer.state[problem.model[2].weight]
    before = {key: state[key].clone() for key in ("a", "g")}
    objective = problem.objective()
    original = Objective.scores

    def broken(self: Objective, *args: Any, **options: Any) -> Any:
        loss, passes = original(self, *args, **options)
        passes[0][problem.model[2]].gradients[0] *= 1e200
        return loss, passes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Objective, "scores", broken)
        optimizer.step(objective)
    assert optimizer.failures == {"statistics": 1}
    for key, value in before.items():
        assert torch.equal(state[key], value)


def test_a_factor_without_an_inverse_keeps_the_last_one() -> None:
    problem = CASES["mlp_ce"]()
    optimizer = KFAC(problem.model.named_parameters(), statistics_period=100, inverse_period=1)
    optimizer.step(problem.objective())
    state = optimizer.state[problem.model[0].weight]
    saved = state["g_inverse"].clone()
    state["g"] = -1e3 * torch.eye(5).double()
    optimizer.step(problem.objective())
    assert optimizer.failures == {"inverse": 1}
    assert torch.equal(state["g_inverse"], saved)
    assert optimizer.layer_coverage()["0.weight"] == "kfac"


def test_first_statistics_fail_then_the_layer_joins() -> None:
    """Until then the fallback moves it, whose state must not get in the way."""
    problem = CASES["mlp_ce"]()
    optimizer = KFAC(
        problem.model.named_parameters(),
        statistics_period=2,
        inverse_period=2,
        fallback="sgd",
        momentum=0.0,
    )
    original, optimizer._update_statistics = optimizer._update_statistics, lambda *_: None  # type: ignore[method-assign]
    optimizer.step(problem.objective())
    assert set(optimizer.layer_coverage().values()) == {"sgd"}
    optimizer._update_statistics = original  # type: ignore[method-assign]
    for _ in range(2):
        optimizer.step(problem.objective())
    assert set(optimizer.layer_coverage().values()) == {"kfac"}


def test_gradient_that_is_not_finite_moves_nothing() -> None:
    problem = CASES["conv_bn"]()
    optimizer = KFAC(problem.model.named_parameters())
    optimizer.step(problem.objective())
    before = flat(problem).clone()
    norm = problem.model[1]  # a parameter of the fallback
    handle = norm.weight.register_hook(lambda grad: grad * float("nan"))
    loss = optimizer.step(problem.objective())
    handle.remove()
    assert bool(loss.isfinite())
    assert torch.equal(flat(problem), before)


def test_loading_an_earlier_state_forgets_the_layers_of_a_later_one() -> None:
    problem = CASES["mlp_ce"]()
    optimizer = KFAC(problem.model.named_parameters(), inverse_period=50)
    fresh = copy.deepcopy(optimizer.state_dict())
    optimizer.step(problem.objective())
    optimizer.load_state_dict(fresh)
    assert set(optimizer.layer_coverage().values()) == {"adamw"}
    optimizer.step(problem.objective())
    assert set(optimizer.layer_coverage().values()) == {"kfac"}


def test_one_step_solves_a_badly_scaled_linear_regression() -> None:
    """Inputs with scales from 0.01 to 100: one undamped step is Newton's."""
    torch.manual_seed(0)
    scales = torch.logspace(-2, 2, 6, dtype=torch.float64)
    inputs = torch.randn(200, 6, dtype=torch.float64) * scales
    targets = (inputs / scales) @ torch.randn(6, 2, dtype=torch.float64)
    problem = Problem(mlp((6, 2)).double(), nn.MSELoss(), inputs, targets)
    optimizer = KFAC(
        problem.model.named_parameters(), lr=1.0, damping=1e-16, fisher="exact", **PLAIN
    )
    first = optimizer.step(problem.objective())
    assert float(problem.objective().value()) < 1e-6 * float(first)
