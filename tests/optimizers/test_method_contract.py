"""What every optimizer keeps: torch's own through the objective, and those written here."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from math import isinf, isnan

import pytest
import torch
from torch import Tensor, nn

from optimizers import Objective
from optimizers.method import Method, require_range
from optimizers.natural_gradient import KFAC
from optimizers.newton import Newton
from tests.optimizers.cases import Problem, Residuals, mlp
from tests.optimizers.contract import (
    ALL,
    OURS,
    SQUARES,
    TORCH,
    WHOLE,
    assert_equal,
    assorted,
    batches,
    small,
    train,
    values,
)

every = pytest.mark.parametrize("name", ALL)
own = pytest.mark.parametrize("name", OURS)


def scheduled(
    name: str, problem: Problem
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimizer = ALL[name](problem.model.named_parameters())
    return optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)


# -- the loop --------------------------------------------------------------------------------------


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

        def closure(
            inputs: Tensor = inputs, targets: Tensor = targets, masks: Tensor = masks
        ) -> Tensor:
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
    problem = small(name=name)
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
    problem = small(name=name)
    optimizer = ALL[name](problem.model.named_parameters())
    steps = 20 if name in WHOLE else 60
    losses = train(problem, optimizer, [(problem.inputs, problem.targets)] * steps)
    assert float(losses[-1]) < 0.95 * float(losses[0])


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_is_kept(name: str, dtype: torch.dtype) -> None:
    problem = small(dtype, name=name)
    optimizer = ALL[name](problem.model.named_parameters())
    loss = train(problem, optimizer, batches(problem, 3))[-1]
    assert loss.dtype == dtype
    assert all(p.dtype == dtype and bool(p.isfinite().all()) for p in problem.params)


# -- resuming --------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("make", [small, assorted], ids=["mlp", "assorted"])
def test_saved_in_mid_run_it_continues_bit_equal(name: str, make: Callable[..., Problem]) -> None:
    problem, other = make(name=name), make(name=name)
    data = batches(problem, 12, size=5)
    generator = torch.Generator().manual_seed(0)
    optimizer, schedule = scheduled(name, problem)
    objective = problem.objective(generator=generator)
    for batch in data[:7]:
        optimizer.step(objective.on(*batch))  # type: ignore[arg-type]
        schedule.step()
    file = io.BytesIO()
    parts = {"model": problem.model, "optimizer": optimizer, "schedule": schedule}
    torch.save(
        {key: part.state_dict() for key, part in parts.items()} | {"rng": generator.get_state()},
        file,
    )

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
    assert [group["lr"] for group in resumed.param_groups] == [
        group["lr"] for group in optimizer.param_groups
    ]


@every
def test_a_schedule_of_torch_acts_on_the_steps(name: str) -> None:
    """A learning rate of zero from the second step on."""
    if name == "torch_lbfgs":
        pytest.skip("torch's line search divides by its first step length")
    problem = small(name=name)
    optimizer = ALL[name](problem.model.named_parameters())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 if step == 0 else 0.0)
    before = values(problem)
    train(problem, optimizer, batches(problem, 1))
    assert any(not torch.equal(a, b) for a, b in zip(before, values(problem), strict=True))
    schedule.step()
    after = values(problem)
    train(problem, optimizer, batches(problem, 2))
    assert_equal(after, values(problem))


# -- awkward parameters and gradients --------------------------------------------------------------


@every
def test_parameters_of_every_shape_and_unused_ones(name: str) -> None:
    problem = assorted()
    optimizer = ALL[name](problem.model.named_parameters())
    before = {n: p.detach().clone() for n, p in problem.model.named_parameters()}
    train(problem, optimizer, [(problem.inputs, problem.targets)] * 5)
    for key, parameter in problem.model.named_parameters():
        assert bool(parameter.isfinite().all()), key
        if key == "unused":
            # decay at most
            torch.testing.assert_close(parameter.detach(), before[key], rtol=0.01, atol=0)
        else:
            assert not torch.equal(parameter, before[key]), key


@every
def test_zero_gradients_are_harmless(name: str) -> None:
    class Plateau(nn.Module):
        def forward(self, outputs: Tensor) -> Tensor:
            return 0 * outputs + 1

    problem = small(name=name)
    problem.model.append(Plateau())
    problem.loss_fn, problem.targets = nn.MSELoss(), torch.zeros(32, 3)
    before = values(problem)
    losses = train(
        problem,
        ALL[name](problem.model.named_parameters()),
        [(problem.inputs, problem.targets)] * 3,
    )
    assert [float(loss) for loss in losses] == pytest.approx([1, 1, 1], rel=1e-6)
    for a, b in zip(before, values(problem), strict=True):
        torch.testing.assert_close(b, a, rtol=0.01, atol=0)  # decay at most


@every
def test_two_groups(name: str) -> None:
    problem = small(name=name)
    named = list(problem.model.named_parameters())
    groups = [{"params": named[:2]}, {"params": named[2:], "lr": 0.0}]
    if name in WHOLE:
        with pytest.raises(ValueError, match=r"group|options"):
            ALL[name](groups).step(problem.objective())  # type: ignore[arg-type]
        return
    if "fallback_lr" in ALL[name](problem.model.named_parameters()).param_groups[0]:
        groups[1]["fallback_lr"] = 0.0
    before = values(problem)
    train(problem, ALL[name](groups), batches(problem, 3))
    after = values(problem)
    assert not torch.equal(before[0], after[0])
    assert_equal(before[2:], after[2:])


@own
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("first", [True, False])
def test_a_loss_or_gradient_that_is_not_finite_leaves_the_parameters(
    name: str, bad: float, first: bool
) -> None:
    """An infinite input saturates the first layer: the loss stays finite, the gradient does not."""
    problem = small(name=name)
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
    problem = small(name=name)
    optimizer = OURS[name](problem.model.named_parameters())
    with torch.no_grad():
        problem.params[0][0, 0] = float("nan")
    (loss,) = train(problem, optimizer, batches(problem, 1))
    assert bool(loss.isnan())


@own
def test_the_optimizer_leaves_no_graph_and_no_hook(name: str) -> None:
    problem = small(name=name)
    optimizer = OURS[name](problem.model.named_parameters())
    train(problem, optimizer, batches(problem, 2))
    assert not any(m._forward_hooks for m in problem.model.modules())
    tensors = [
        t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor)
    ]
    assert not any(t.requires_grad for t in tensors)
    assert all(p.grad is None or not p.grad.requires_grad for p in problem.params)


# -- declarations ----------------------------------------------------------------------------------


@own
def test_needs_are_declared(name: str) -> None:
    kind = type(OURS[name](small().model.named_parameters()))
    assert issubclass(kind, Method)
    assert isinstance(kind.needs, frozenset)
    assert kind.needs <= {
        "hessian",
        "ggn",
        "jacobian",
        "sampled",
        "per_example",
        "layers",
        "matrices",
    }
    assert Method.needs == frozenset()


TELLING = {
    "hessian_free": {"damping", "reduction_ratio", "cg_iterations", "step_length"},
    "ggn_cg": {"damping", "reduction_ratio", "cg_iterations", "step_length"},
    "levenberg_marquardt": {"damping", "reduction_ratio", "trials"},
    "saddle_free_newton": {"damping", "reduction_ratio", "smallest_eigenvalue"},
    "newton": {"damping"},
    "newton_eigen": {"negative_directions"},
    "newton_cg": {"cg_iterations", "negative_directions"},
    "trust_region": {"radius", "reduction_ratio", "trials"},
    "soaa": {"d", "differs_share", "bounded_share"},
    "adafisher": {"spread", "preconditioned", "age"},
    "sgd_ph_exact": {"off_diagonal", "ones_error", "negative_share"},
    "tron": {"radius", "reduction_ratio", "trials", "cg_iterations"},
    "arc": {"sigma", "reduction_ratio", "trials"},
}


@own
def test_telemetry_is_numbers_by_name(name: str) -> None:
    """Before the first step, after some, and after a refused mini-batch, which is counted. NaN.

    Not known yet.
    """
    problem = small(name=name)
    optimizer = OURS[name](problem.model.named_parameters())
    assert isinstance(optimizer, Method)

    def known_numbers() -> dict[str, float]:
        telemetry = optimizer.telemetry()
        assert all(
            isinstance(key, str) and type(value) is float for key, value in telemetry.items()
        ), telemetry
        assert not any(isinf(value) for value in telemetry.values()), telemetry
        return {key: value for key, value in telemetry.items() if not isnan(value)}

    known_numbers()
    train(problem, optimizer, batches(problem, 3))
    assert known_numbers().keys() >= TELLING.get(name, set())
    broken = torch.full_like(problem.inputs, float("nan"))
    train(problem, optimizer, [(broken, problem.targets)])
    last = known_numbers()
    if name in TELLING:
        assert last["failures/non_finite"] == 1


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
    second_order = (
        "newton",
        "newton_cg",
        "saddle_free_newton",
        "ggn_cg",
        *sorted(SQUARES),
        "bfgs",
        "sr1",
        "lbfgs",
    )
    for name in (*second_order, "torch_lbfgs", "adam"):
        model = Residuals([-1.2, 1.0], lambda x: torch.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]]))
        problem = Problem(
            model, nn.MSELoss(reduction="sum"), torch.zeros(1, 1), torch.zeros(1, 2).double()
        )
        optimizer = ALL[name](model.named_parameters())
        losses = [float(optimizer.step(problem.objective())) for _ in range(60)]  # type: ignore[arg-type]
        assert losses[-1] < 0.9 * losses[0]
        if name in WHOLE:
            assert losses[-1] < 1e-8


def test_a_constant_objective_type() -> None:
    assert isinstance(small().objective(), Objective)


def test_methods_on_layers_refuse_a_closure() -> None:
    model = mlp()
    optimizer = KFAC(model.named_parameters())
    with pytest.raises(TypeError, match=r"KFAC.step takes no closure of one's own, but Objective"):
        optimizer.step(lambda: torch.zeros(()))  # type: ignore[arg-type]
