"""What every optimizer keeps: torch's own through the objective, and those written here."""

from __future__ import annotations

import copy
import inspect
import io
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimizers import Objective
from optimizers.least_squares.ggn_cg import GGNCG
from optimizers.matrix.by_role import ByRole
from optimizers.method import Method, require_range
from optimizers.natural_gradient.kfac import KFAC
from optimizers.newton.newton import Newton
from tests.optimizers.cases import Problem, Residuals, mlp

Builder = Callable[[Iterable[Any]], torch.optim.Optimizer]

TORCH: dict[str, Builder] = {
    "sgd": partial(torch.optim.SGD, lr=0.05),
    "momentum": partial(torch.optim.SGD, lr=0.05, momentum=0.9),
    "nesterov": partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True),
    "adagrad": partial(torch.optim.Adagrad, lr=0.05),
    "rmsprop": partial(torch.optim.RMSprop, lr=0.01),
    "adam": partial(torch.optim.Adam, lr=0.01),
    "adamw": partial(torch.optim.AdamW, lr=0.01),
    "nadam": partial(torch.optim.NAdam, lr=0.01),
    "radam": partial(torch.optim.RAdam, lr=0.01),
    "adafactor": partial(torch.optim.Adafactor, lr=0.01),
    "lbfgs": partial(torch.optim.LBFGS, lr=1.0, max_iter=4, line_search_fn="strong_wolfe"),
}
OURS: dict[str, Builder] = {
    "newton": partial(Newton, damping=1e-2),
    "newton_plain": partial(Newton, damping=1.0, saddle_free=False, adaptive=False, lr=0.5),
    "ggn_cg": partial(GGNCG, max_iterations=8),
    "kfac": partial(KFAC, statistics_period=2, inverse_period=3),
    "kfac_exact": partial(KFAC, fisher="exact", fallback="sgd"),
    "kfac_empirical": partial(KFAC, fisher="empirical", weight_decay=0.01, kl_clip=None),
    "muon": partial(ByRole, hidden=partial(torch.optim.Muon, lr=0.02), rest=partial(torch.optim.AdamW, lr=0.01)),
}
ALL = TORCH | OURS
WHOLE = {"newton", "newton_plain", "ggn_cg", "lbfgs", "muon"}  # take all parameters in one group

every = pytest.mark.parametrize("name", ALL)
own = pytest.mark.parametrize("name", OURS)


class Assorted(nn.Module):
    """Parameters with 0, 1, 2 and 4 dimensions, one of size one, and one that the loss does not use."""

    def __init__(self, unused: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 2)
        self.hidden = nn.Linear(8, 4)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.shift = nn.Parameter(torch.zeros(1))
        if unused:
            self.unused = nn.Parameter(torch.ones(3, 2))
        self.out = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.hidden(torch.tanh(self.conv(inputs)).flatten(1))
        return self.out(torch.tanh(hidden) * self.scale + self.shift)


def small(dtype: torch.dtype = torch.float32, dropout: bool = False) -> Problem:
    torch.manual_seed(0)
    model = mlp((4, 6, 5, 3))
    if dropout:
        model.insert(2, nn.Dropout(0.2))
    return Problem(model.to(dtype), nn.CrossEntropyLoss(), torch.randn(32, 4, dtype=dtype), torch.randint(3, (32,)))


def assorted() -> Problem:
    torch.manual_seed(0)
    return Problem(Assorted(), nn.MSELoss(), torch.randn(6, 1, 3, 3), torch.randn(6, 2))


def batches(problem: Problem, steps: int, size: int = 12) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    chosen = [torch.randperm(len(problem.inputs), generator=generator)[:size] for _ in range(steps)]
    return [(problem.inputs[index], problem.targets[index]) for index in chosen]


def train(
    problem: Problem, optimizer: torch.optim.Optimizer, data: list[tuple[Tensor, Tensor]], seed: int = 0
) -> list[Tensor]:
    objective = problem.objective(generator=torch.Generator().manual_seed(seed))
    return [optimizer.step(objective.on(*batch)) for batch in data]  # type: ignore[arg-type,misc]


def values(problem: Problem) -> list[Tensor]:
    return [p.detach().clone() for p in problem.params]


def scheduled(name: str, problem: Problem) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimizer = ALL[name](problem.model.named_parameters())
    return optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)


def assert_equal(first: list[Tensor], second: list[Tensor]) -> None:
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


# -- the loop ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize("dropout", [False, True])
def test_torch_optimizers_run_as_in_a_plain_loop(name: str, dropout: bool) -> None:
    problem = small(dropout=dropout)
    twin = copy.deepcopy(problem)
    data = batches(problem, 8)
    torch.manual_seed(7)
    ours = train(problem, TORCH[name](problem.model.parameters()), data)

    optimizer = TORCH[name](twin.model.parameters())
    torch.manual_seed(7)
    theirs = []
    for inputs, targets in data:
        masks = torch.get_rng_state()

        def closure(inputs: Tensor = inputs, targets: Tensor = targets, masks: Tensor = masks) -> Tensor:
            after = torch.get_rng_state()
            torch.set_rng_state(masks)  # one function per step, also for the line search
            optimizer.zero_grad()
            loss = twin.loss_fn(twin.model(inputs), targets)
            loss.backward()
            if not torch.equal(after, masks):
                torch.set_rng_state(after)
            return loss

        theirs.append(optimizer.step(closure).detach())  # type: ignore[arg-type]
    assert_equal(ours, theirs)
    assert_equal(values(problem), values(twin))


@every
def test_step_returns_the_detached_loss_before_it(name: str) -> None:
    problem = small()
    optimizer = ALL[name](problem.model.named_parameters())
    for _ in range(3):
        before = problem.objective().value()
        loss = optimizer.step(problem.objective())  # type: ignore[arg-type]
        assert isinstance(loss, Tensor)
        assert loss.shape == ()
        assert not loss.requires_grad
        torch.testing.assert_close(loss, before, rtol=1e-6, atol=0)
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()


@every
def test_the_loss_falls(name: str) -> None:
    problem = small()
    optimizer = ALL[name](problem.model.named_parameters())
    losses = train(problem, optimizer, [(problem.inputs, problem.targets)] * 60)
    assert float(losses[-1]) < 0.95 * float(losses[0])


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_is_kept(name: str, dtype: torch.dtype) -> None:
    problem = small(dtype)
    optimizer = ALL[name](problem.model.named_parameters())
    loss = train(problem, optimizer, batches(problem, 3))[-1]
    assert loss.dtype == dtype
    assert all(p.dtype == dtype and bool(p.isfinite().all()) for p in problem.params)


# -- resuming ----------------------------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("make", [small, assorted], ids=["mlp", "assorted"])
def test_saved_in_mid_run_it_continues_bit_equal(name: str, make: Callable[[], Problem]) -> None:
    problem, other = make(), make()
    data = batches(problem, 12, size=5)
    generator = torch.Generator().manual_seed(0)
    optimizer, schedule = scheduled(name, problem)
    objective = problem.objective(generator=generator)
    for batch in data[:7]:
        optimizer.step(objective.on(*batch))  # type: ignore[arg-type]
        schedule.step()
    file = io.BytesIO()
    parts = {"model": problem.model, "optimizer": optimizer, "schedule": schedule}
    torch.save({key: part.state_dict() for key, part in parts.items()} | {"rng": generator.get_state()}, file)

    with torch.no_grad():
        for parameter in other.params:
            parameter.zero_()
    resumed, resumed_schedule = scheduled(name, other)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    other.model.load_state_dict(loaded["model"])
    resumed.load_state_dict(loaded["optimizer"])
    resumed_schedule.load_state_dict(loaded["schedule"])
    other_objective = other.objective(generator=torch.Generator().set_state(loaded["rng"]))
    for batch in data[7:]:
        one = optimizer.step(objective.on(*batch))  # type: ignore[arg-type]
        two = resumed.step(other_objective.on(*batch))  # type: ignore[arg-type]
        schedule.step()
        resumed_schedule.step()
        assert torch.equal(one, two)  # type: ignore[arg-type]
        assert_equal(values(problem), values(other))
    assert [group["lr"] for group in resumed.param_groups] == [group["lr"] for group in optimizer.param_groups]


@every
def test_a_schedule_of_torch_acts_on_the_steps(name: str) -> None:
    """A learning rate of zero from the second step on."""
    if name == "lbfgs":
        pytest.skip("torch's line search divides by its first step length")
    problem = small()
    optimizer = ALL[name](problem.model.named_parameters())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 if step == 0 else 0.0)
    before = values(problem)
    train(problem, optimizer, batches(problem, 1))
    assert any(not torch.equal(a, b) for a, b in zip(before, values(problem), strict=True))
    schedule.step()
    after = values(problem)
    train(problem, optimizer, batches(problem, 2))
    assert_equal(after, values(problem))


# -- awkward parameters and gradients ----------------------------------------------------------------------------------


@every
def test_parameters_of_every_shape_and_unused_ones(name: str) -> None:
    problem = assorted()
    optimizer = ALL[name](problem.model.named_parameters())
    before = {n: p.detach().clone() for n, p in problem.model.named_parameters()}
    train(problem, optimizer, [(problem.inputs, problem.targets)] * 5)
    for key, parameter in problem.model.named_parameters():
        assert bool(parameter.isfinite().all()), key
        if key == "unused":
            torch.testing.assert_close(parameter.detach(), before[key], rtol=0.01, atol=0)  # decay at most
        else:
            assert not torch.equal(parameter, before[key]), key


@every
def test_zero_gradients_are_harmless(name: str) -> None:
    class Plateau(nn.MSELoss):
        def forward(self, input: Tensor, target: Tensor) -> Tensor:
            return 0 * super().forward(input, target) + 1

    problem = small()
    problem.loss_fn, problem.targets = Plateau(), torch.randn(32, 3)
    before = values(problem)
    losses = train(problem, ALL[name](problem.model.named_parameters()), [(problem.inputs, problem.targets)] * 3)
    assert [float(loss) for loss in losses] == [1, 1, 1]
    for a, b in zip(before, values(problem), strict=True):
        torch.testing.assert_close(b, a, rtol=0.01, atol=0)  # decay at most


@every
def test_two_groups(name: str) -> None:
    problem = small()
    named = list(problem.model.named_parameters())
    groups = [{"params": named[:2]}, {"params": named[2:], "lr": 0.0}]
    if name in WHOLE:
        with pytest.raises(ValueError, match=r"group|options"):
            ALL[name](groups).step(problem.objective())  # type: ignore[arg-type]
        return
    if name.startswith("kfac"):
        groups[1]["fallback_lr"] = 0.0
    before = values(problem)
    train(problem, ALL[name](groups), batches(problem, 3))
    after = values(problem)
    assert not torch.equal(before[0], after[0])
    assert_equal(before[2:], after[2:])


@own
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("first", [True, False])
def test_a_loss_or_gradient_that_is_not_finite_leaves_the_parameters(name: str, bad: float, first: bool) -> None:
    """An infinite input saturates the first layer: the loss stays finite, the gradient does not."""
    problem = small()
    optimizer = OURS[name](problem.model.named_parameters())
    if not first:
        train(problem, optimizer, batches(problem, 2))
    before = values(problem)
    broken = problem.inputs.clone()
    broken[3, 1] = bad
    (loss,) = train(problem, optimizer, [(broken, problem.targets)])
    assert bool(loss.isfinite()) is (bad == float("inf"))
    assert_equal(values(problem), before)
    train(problem, optimizer, batches(problem, 2))
    assert all(bool(value.isfinite().all()) for value in values(problem))
    assert any(not torch.equal(a, b) for a, b in zip(before, values(problem), strict=True))


@own
def test_weights_that_are_not_finite_do_not_raise(name: str) -> None:
    problem = small()
    optimizer = OURS[name](problem.model.named_parameters())
    with torch.no_grad():
        problem.params[0][0, 0] = float("nan")
    (loss,) = train(problem, optimizer, batches(problem, 1))
    assert bool(loss.isnan())


@own
def test_the_optimizer_leaves_no_graph_and_no_hook(name: str) -> None:
    problem = small()
    optimizer = OURS[name](problem.model.named_parameters())
    train(problem, optimizer, batches(problem, 2))
    assert not any(m._forward_hooks for m in problem.model.modules())
    tensors = [t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
    assert not any(t.requires_grad for t in tensors)
    assert all(p.grad is None or not p.grad.requires_grad for p in problem.params)


# -- declarations ------------------------------------------------------------------------------------------------------


@own
def test_needs_are_declared(name: str) -> None:
    kind = type(OURS[name](small().model.named_parameters()))
    assert issubclass(kind, Method)
    assert isinstance(kind.needs, frozenset)
    assert kind.needs <= {"hessian", "ggn", "jacobian", "sampled", "per_example", "layers", "matrices"}
    assert kind.needs
    assert Method.needs == frozenset()


RANGES: dict[type[Method], dict[str, list[Any]]] = {
    Newton: {
        "lr": [0.0, -1.0], "damping": [-1e-3], "max_trials": [0, 2.5], "max_parameters": [0],
    },
    GGNCG: {
        "lr": [0.0, -1.0], "damping": [-1.0], "max_iterations": [0, 1.5], "tolerance": [-1e-3, 1.1],
        "warm_start": [-0.1, 1.1], "max_trials": [0, True],
    },
    KFAC: {
        "lr": [-0.1], "momentum": [-0.1, 1.1], "damping": [0.0, -1.0], "kl_clip": [0.0, -1.0], "decay": [-0.1, 1.1],
        "statistics_period": [0, 1.5], "inverse_period": [0, 1.5], "weight_decay": [-0.1], "fallback_lr": [-1.0],
        "fisher": ["true", None], "fallback": ["lion", None],
    },
}  # fmt: skip
REJECTED = [
    (kind, name, value)
    for kind, ranges in RANGES.items()
    for name, bad in ranges.items()
    for value in [*bad, float("nan"), float("inf"), "0.1"]
]


@pytest.mark.parametrize(("kind", "name", "value"), REJECTED)
def test_a_hyperparameter_out_of_range_is_named(kind: type[Method], name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name) as refusal:
        kind(small().model.named_parameters(), **{name: value})
    assert repr(value) in str(refusal.value)


@pytest.mark.parametrize("kind", RANGES)
def test_every_numeric_hyperparameter_is_checked(kind: type[Method]) -> None:
    signature = inspect.signature(kind.__init__).parameters
    checked = {n for n, p in signature.items() if n not in ("self", "params") and not isinstance(p.default, bool)}
    assert checked == set(RANGES[kind])


def test_require_range() -> None:
    require_range("x", 0)
    require_range("x", 1.0, low=1, high=1)
    require_range("x", 3, whole=True)
    with pytest.raises(ValueError, match=r"x must be a number in \(0, 1\], got 0"):
        require_range("x", 0, high=1, open_low=True)
    with pytest.raises(ValueError, match=r"x must be an integer in \[1, inf\), got 2.0"):
        require_range("x", 2.0, low=1, whole=True)


def test_names_are_unique_also_without_names() -> None:
    params = list(mlp().parameters())
    assert Newton(params).names() == ["0", "1", "2", "3"]
    assert KFAC([{"params": params[:3]}, {"params": params[3:]}]).names() == ["0", "1", "2", "3"]
    assert KFAC(mlp().named_parameters()).names() == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_a_two_parameter_function() -> None:
    """The functions of the suite: the parameter vector is the model."""
    for name in ("newton", "ggn_cg", "lbfgs", "adam"):
        model = Residuals([-1.2, 1.0], lambda x: torch.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]]))
        problem = Problem(model, nn.MSELoss(reduction="sum"), torch.zeros(1, 1), torch.zeros(1, 2).double())
        optimizer = ALL[name](model.named_parameters())
        losses = [float(optimizer.step(problem.objective())) for _ in range(60)]  # type: ignore[arg-type]
        assert losses[-1] < 0.9 * losses[0]
        if name in WHOLE:
            assert losses[-1] < 1e-8


def test_a_constant_objective_type() -> None:
    assert isinstance(small().objective(), Objective)
