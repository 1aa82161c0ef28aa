"""K-FAC's step: dense preconditioning, clip, momentum, fallback, failures."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimizers import Objective
from optimizers.natural_gradient.kfac import KFAC
from tests.optimizers.cases import CASES, Problem, close, mlp

PLAIN: dict[str, object] = {
    "kl_clip": None,
    "momentum": 0.0,
    "statistics_period": 1,
    "inverse_period": 1,
}


def flat(problem: Problem) -> Tensor:
    return torch.cat([p.detach().flatten() for p in problem.params])


def moved(layer: nn.Linear | nn.Conv2d, before: Tensor) -> Tensor:
    """The change of weight and bias as one matrix, `before` the same matrix earlier."""
    return matrix(layer) - before


def matrix(layer: nn.Linear | nn.Conv2d) -> Tensor:
    weight = layer.weight.detach().flatten(1)
    return (
        weight.clone()
        if layer.bias is None
        else torch.cat([weight, layer.bias.detach()[:, None]], dim=1)
    )


def layers_of(problem: Problem) -> list[nn.Linear | nn.Conv2d]:
    return [m for m in problem.model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]


def weight_gradient(layer: nn.Linear | nn.Conv2d) -> Tensor:
    """The gradient of weight and bias as one matrix."""
    gradient = layer.weight.grad.flatten(1)
    return (
        gradient.clone()
        if layer.bias is None
        else torch.cat([gradient, layer.bias.grad[:, None]], dim=1)
    )


@pytest.mark.parametrize(
    "name", ["mlp_ce", "mlp_ce_sum", "mlp_mse", "mlp_mse_sum", "mlp_bce_example", "conv", "conv_bn"]
)
@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_a_step_is_the_dense_damped_solve(name: str, l2: float) -> None:
    problem = CASES[name]()
    objective = problem.objective(l2)
    objective()
    gradients = [weight_gradient(layer).clone() for layer in layers_of(problem)]
    before = [matrix(layer) for layer in layers_of(problem)]
    optimizer = KFAC(problem.model.named_parameters(), lr=0.5, damping=0.2, fisher="exact", **PLAIN)
    optimizer.step(objective)
    damping = 0.2 + l2 / objective.scale
    for layer, gradient, start in zip(layers_of(problem), gradients, before, strict=True):
        a, g = (optimizer.state[layer.weight][key] for key in ("a", "g"))
        pi = ((a.trace() / len(a)) / (g.trace() / len(g))) ** 0.5
        dense = torch.kron(
            g + damping**0.5 / pi * torch.eye(len(g)).double(),
            a + pi * damping**0.5 * torch.eye(len(a)).double(),
        )
        expected = -0.5 * torch.linalg.solve(dense, (gradient / objective.scale).flatten())
        close(moved(layer, start).flatten(), expected)


@pytest.mark.parametrize("family", ["mse", "bce"])
@pytest.mark.parametrize("fisher", ["sampled", "exact", "empirical"])
def test_same_trajectory_whatever_the_reduction(family: str, fisher: str) -> None:
    ends = []
    for reduction in ("", "_sum", "_example"):
        problem = CASES[f"mlp_{family}{reduction}"]()
        optimizer = KFAC(
            problem.model.named_parameters(),
            lr=0.3,
            fisher=fisher,
            statistics_period=2,
            inverse_period=4,
        )
        objective = problem.objective(generator=torch.Generator().manual_seed(0))
        for _ in range(10):
            optimizer.step(objective.on(problem.inputs, problem.targets))
        ends.append(flat(problem))
    close(ends[1], ends[0], 1e-9)
    close(ends[2], ends[0], 1e-9)


def test_huge_damping_is_sgd_with_momentum() -> None:
    """(G + l I)^-1 g (A + l I)^-1 -> g / damping, so the method contains heavy-ball SGD."""
    damping = 1e14
    problem = CASES["mlp_ce"]()
    twin = copy.deepcopy(problem)
    ours = KFAC(
        problem.model.named_parameters(),
        lr=0.2 * damping,
        damping=damping,
        kl_clip=None,
        momentum=0.8,
    )
    theirs = torch.optim.SGD(twin.model.parameters(), lr=0.2, momentum=0.8)
    objective, other = problem.objective(), twin.objective()
    for _ in range(10):
        ours.step(objective.on(problem.inputs, problem.targets))
        theirs.step(other.on(problem.inputs, problem.targets))
    close(flat(problem), flat(twin), 1e-5)


def test_clip_bounds_the_predicted_change() -> None:
    problem = CASES["mlp_ce"]()
    free, clipped = copy.deepcopy(problem), copy.deepcopy(problem)
    options = {**PLAIN, "fisher": "exact", "damping": 1e-3, "lr": 0.5}
    KFAC(free.model.named_parameters(), **options).step(free.objective())
    KFAC(clipped.model.named_parameters(), **{**options, "kl_clip": 1e-3}).step(clipped.objective())
    problem.objective()()
    gradient = problem.objective()
    gradient()
    step = flat(free) - flat(problem)
    predicted = float(-0.5 * step @ gradient.gradient())  # lr^2 sum U.W'
    assert predicted > 1e-3
    close(flat(clipped) - flat(problem), (1e-3 / predicted) ** 0.5 * step)
    loose = copy.deepcopy(problem)
    KFAC(loose.model.named_parameters(), **{**options, "kl_clip": 2 * predicted}).step(
        loose.objective()
    )
    close(flat(loose), flat(free))


def test_momentum_is_heavy_ball_on_the_preconditioned_gradient() -> None:
    problem = CASES["mlp_mse"]()
    optimizer = KFAC(
        problem.model.named_parameters(),
        lr=0.1,
        momentum=0.9,
        kl_clip=None,
        fisher="exact",
        inverse_period=100,
        weight_decay=0.01,
    )
    layer = problem.model[0]
    buffer = torch.zeros(5, 5).double()
    for _ in range(4):
        start = matrix(layer)
        optimizer.step(problem.objective())
        state = optimizer.state[layer.weight]
        scale = 1 / 3  # of the mean over three outputs
        buffer = (
            0.9 * buffer
            + state["g_inverse"] @ (weight_gradient(layer) / scale) @ state["a_inverse"]
        )
        close(matrix(layer), (1 - 0.1 * 0.01) * start - 0.1 * buffer)


def test_momentum_of_the_gradient_is_its_average() -> None:
    problem = CASES["mlp_mse"]()
    optimizer = KFAC(
        problem.model.named_parameters(),
        lr=0.1,
        momentum=0.9,
        momentum_of="gradient",
        kl_clip=1e-4,
        fisher="exact",
        statistics_period=1,
        inverse_period=1,
    )
    layers = [module for module in problem.model if hasattr(module, "weight")]
    averages = [torch.zeros_like(matrix(layer)) for layer in layers]
    for _ in range(4):
        starts = [matrix(layer) for layer in layers]
        optimizer.step(problem.objective())
        steps, predicted = [], 0.0
        for layer, average in zip(layers, averages, strict=True):
            state = optimizer.state[layer.weight]
            average.mul_(0.9).add_(0.1 * weight_gradient(layer))
            whole = average * 3  # of the mean over three outputs
            steps.append(
                state["g_inverse"] @ whole @ state["a_inverse"]
            )  # those of this step's inverses
            predicted += float(0.1**2 * (steps[-1] * whole).sum())
        assert predicted > 1e-4
        for layer, start, step in zip(layers, starts, steps, strict=True):
            close(matrix(layer), start - 0.1 * (1e-4 / predicted) ** 0.5 * step)


def test_an_exact_step_has_no_other_momentum() -> None:
    with pytest.raises(ValueError, match="momentum_of=direction"):
        KFAC(CASES["mlp_mse"]().model.named_parameters(), step_rule="exact", momentum_of="gradient")


def test_periods() -> None:
    problem = CASES["mlp_ce"]()
    optimizer = KFAC(problem.model.named_parameters(), statistics_period=2, inverse_period=3)
    objective = problem.objective()
    weight = problem.model[0].weight
    passes, updates, inverses = [], [], []
    for _ in range(7):
        before = objective.counts["grad"]
        optimizer.step(objective.on(problem.inputs, problem.targets))
        passes.append(objective.counts["grad"] - before)
        updates.append(optimizer.state[weight]["updates"])
        inverses.append(optimizer.state[weight]["a_inverse"])
    assert passes == [2, 1, 2, 1, 2, 1, 2]
    assert objective.counts["value"] == 7  # the targets of the statistics share the forward pass
    assert updates == [1, 1, 2, 2, 3, 3, 4]
    assert [inverses[i] is inverses[i + 1] for i in range(6)] == [
        True,
        True,
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(("fisher", "gradients"), [("sampled", 2), ("exact", 4), ("empirical", 1)])
def test_cost_of_a_step_with_statistics(fisher: str, gradients: int) -> None:
    problem = CASES["mlp_ce"]()
    objective = problem.objective()
    KFAC(problem.model.named_parameters(), fisher=fisher).step(objective)
    assert objective.counts == {"grad": gradients, "value": 1}
    assert KFAC.needs == {"layers", "sampled"}


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
    kept = {key: state[key].clone() for key in ("a", "g", "a_inverse", "g_inverse")}
    before = flat(problem).clone()
    broken = copy.copy(problem)
    broken.inputs = torch.full_like(problem.inputs, float("nan"))
    loss = optimizer.step(broken.objective())
    assert not bool(loss.isfinite())
    assert torch.equal(flat(problem), before)
    assert optimizer.failures == {"non_finite": 1}
    for key, value in kept.items():
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
    kept = {key: state[key].clone() for key in ("a", "g")}
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
    for key, value in kept.items():
        assert torch.equal(state[key], value)


def test_a_factor_without_an_inverse_keeps_the_last_one() -> None:
    problem = CASES["mlp_ce"]()
    optimizer = KFAC(problem.model.named_parameters(), statistics_period=100, inverse_period=1)
    optimizer.step(problem.objective())
    state = optimizer.state[problem.model[0].weight]
    kept = state["g_inverse"].clone()
    state["g"] = -1e3 * torch.eye(5).double()
    optimizer.step(problem.objective())
    assert optimizer.failures == {"inverse": 1}
    assert torch.equal(state["g_inverse"], kept)
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
