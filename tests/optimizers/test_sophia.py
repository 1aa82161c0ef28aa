"""Sophia against pytorch_optimizer's, BackPACK's diagonal and the true one.

Reductions, clipping, bad input.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimizers import Objective, UnsupportedError
from optimizers.diagonal import SophiaG, SophiaH
from optimizers.diagonal.probes import probe
from optimizers.linalg.flat import flatten, unflatten
from optimizers.method import Method
from tests.optimizers.cases import CASES, Identity, Problem, Reference, Scalar, mlp


def classifier(reduction: str = "mean") -> Problem:
    torch.manual_seed(0)
    inputs, targets = torch.randn(40, 4, dtype=torch.float64), torch.randint(3, (40,))
    return Problem(
        mlp((4, 6, 5, 3)).double(), nn.CrossEntropyLoss(reduction=reduction), inputs, targets
    )


def objectives(problem: Problem, steps: int, **options: Any) -> list[Objective]:
    options["generator"] = torch.Generator().manual_seed(1)
    objective = problem.objective(**options)
    indices = ((torch.arange(8) + 5 * step) % len(problem.inputs) for step in range(steps))
    return [objective.on(problem.inputs[index], problem.targets[index]) for index in indices]


def train(problem: Problem, optimizer: Method, steps: int, **options: Any) -> None:
    for objective in objectives(problem, steps, **options):
        optimizer.step(objective)


def theta(problem: Problem) -> Tensor:
    return flatten(problem.params).detach()


def distance(one: Problem, other: Problem) -> float:
    return float((theta(one) - theta(other)).norm() / theta(other).norm())


# -- the trajectories ------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Using backward")
@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_sophia_h_is_pytorch_optimizers_with_the_same_probes(
    distribution: str, decay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer's p is our rho and its lr our lr / rho.

    Its decay is lr times the factor, so that one is divided too.
    """
    peers = pytest.importorskip("pytorch_optimizer")
    problem, twin = classifier(), classifier()
    lr, rho, eps = 0.01, 0.3, 1e-9
    ours = SophiaH(
        problem.params,
        lr=lr,
        rho=rho,
        eps=eps,
        period=3,
        distribution=distribution,
        weight_decay=decay,
        seed=5,
    )
    train(problem, ours, 30)
    peer = peers.SophiaH(
        twin.params,
        lr=lr / rho,
        betas=(0.96, 0.99),
        p=rho,
        eps=eps / rho,
        update_period=3,
        hessian_distribution=distribution,
        weight_decay=decay * rho,
    )
    seeds = itertools.count(5)
    drawn: list[Tensor] = []

    def same(like: Tensor, *_: object, **__: object) -> Tensor:
        if not drawn:
            drawn.extend(unflatten(probe(theta(twin), distribution, next(seeds)), twin.params))
        estimate = drawn.pop(0)
        assert estimate.shape == like.shape
        return estimate if distribution == "gaussian" else (estimate + 1) / 2

    monkeypatch.setattr(torch, "randint_like", same)
    monkeypatch.setattr(torch, "randn_like", same)
    for step in range(30):
        index = (torch.arange(8) + 5 * step) % len(twin.inputs)
        peer.zero_grad()
        twin.loss_fn(twin.model(twin.inputs[index]), twin.targets[index]).backward(
            create_graph=True
        )
        peer.step()
    assert distance(problem, twin) < 1e-14
    telemetry = ours.telemetry()
    assert 0.1 < telemetry["clipped"] < 1
    assert 0 < telemetry["without_curvature"] < telemetry["clipped"]


class Recording(SophiaG):
    """Keeps the gradient and the estimate of every refresh."""

    seen: list[tuple[Tensor, Tensor]]

    def estimate(self, objective: Objective) -> tuple[Tensor, Tensor]:
        loss, diagonal = super().estimate(objective)
        self.seen.append((objective.gradient().clone(), diagonal.clone()))
        return loss, diagonal


def test_sophia_g_is_its_formula_written_out() -> None:
    problem = classifier()
    optimizer = Recording(
        problem.params, lr=0.02, rho=0.6, beta1=0.8, beta2=0.7, period=1, weight_decay=0.1, eps=1e-6
    )
    optimizer.seen = []
    expected = theta(problem).tolist()
    train(problem, optimizer, 12)
    momentum, diagonal = [0.0] * len(expected), [0.0] * len(expected)
    for gradient, estimate in optimizer.seen:
        for i, (g, h) in enumerate(zip(gradient.tolist(), estimate.tolist(), strict=True)):
            momentum[i] = 0.8 * momentum[i] + 0.2 * g
            diagonal[i] = 0.7 * diagonal[i] + 0.3 * h
            quotient = momentum[i] / max(0.6 * diagonal[i], 1e-6)
            expected[i] = expected[i] * (1 - 0.02 * 0.1) - 0.02 * min(max(quotient, -1), 1)
    torch.testing.assert_close(
        theta(problem), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-14
    )
    assert 0.2 < optimizer.telemetry()["clipped"] < 0.95


# -- what the estimate of Sophia-G means -----------------------------------------------------------


def estimates(problem: Problem, count: int, l2: float = 0.0) -> Tensor:
    """(count, n) estimates, each with targets of its own."""
    optimizer = SophiaG(problem.params)
    objective = problem.objective(l2=l2, generator=torch.Generator().manual_seed(0))
    return torch.stack([optimizer.estimate(objective)[1] for _ in range(count)])


def assert_mean(samples: Tensor, expected: Tensor) -> None:
    """Within five standard errors each, and in sum within five per cent."""
    error = (samples.mean(0) - expected).abs()
    assert bool((error <= 5 * samples.std(0) / len(samples) ** 0.5 + 1e-12).all())
    assert float(samples.mean(0).sum() / expected.sum()) == pytest.approx(1, rel=0.08)


@pytest.mark.parametrize(
    "name", ["mlp_ce", "mlp_ce_sum", "mlp_bce", "mlp_mse_sum", "mlp_mse_example", "lstm"]
)
def test_the_mean_over_sampled_targets_is_the_diagonal_of_the_gauss_newton_matrix(
    name: str,
) -> None:
    """Of the loss as it is; the LSTM's terms are positions, not sequences."""
    problem = CASES[name]()
    assert_mean(estimates(problem, 500), Reference(problem).ggn().diagonal())


@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_that_diagonal_is_backpacks() -> None:
    backpack = pytest.importorskip("backpack")
    extensions = pytest.importorskip("backpack.extensions")
    problem, twin = classifier(), classifier()
    samples = estimates(problem, 500)
    model, loss_fn = backpack.extend(twin.model), backpack.extend(twin.loss_fn)
    with backpack.backpack(extensions.DiagGGNExact()):
        loss_fn(model(twin.inputs), twin.targets).backward()
    assert_mean(samples, flatten(p.diag_ggn_exact for p in twin.params))


def test_twice_the_examples_give_the_same_estimate_in_the_mean() -> None:
    """Without the factor B it would be half of it."""
    problem = CASES["mlp_ce"]()
    twice = Problem(
        problem.model, problem.loss_fn, problem.inputs.repeat(2, 1), problem.targets.repeat(2)
    )
    expected = Reference(problem).ggn().diagonal()
    for each in (problem, twice):
        assert_mean(estimates(each, 500), expected)


def test_a_regulariser_of_the_task_is_curvature_and_no_noise() -> None:
    problem = CASES["mlp_ce"]()
    plain, regularised = estimates(problem, 5), estimates(problem, 5, l2=0.3)
    torch.testing.assert_close(regularised, plain + 0.3, rtol=1e-10, atol=1e-12)


def test_a_sum_over_the_batch_makes_the_steps_of_the_mean() -> None:
    problem, twin = classifier("mean"), classifier("sum")
    for each in (problem, twin):
        train(each, SophiaG(each.params, lr=0.02, rho=0.5, period=2), 12)
    assert distance(problem, twin) < 1e-11


# -- clipping --------------------------------------------------------------------------------------


def valley() -> Problem:
    bends = torch.tensor([4.0, 1.0, 0.01, -1.0], dtype=torch.float64)
    model = Scalar([1.0, 1.0, 1.0, 1.0], lambda x: (bends * x.square()).sum() / 2)
    return Problem(model, Identity(), torch.zeros(1, 1), torch.zeros(1))


def test_a_step_is_newtons_where_short_and_a_sign_where_long_or_curvature_is_negative() -> None:
    problem = valley()
    optimizer = SophiaH(
        problem.params, lr=0.1, beta1=0.0, beta2=0.0, rho=2.0, distribution="rademacher", eps=0.05
    )
    optimizer.step(problem.objective())
    # m = a x and h = a: m / max(2 a, 0.05) is 1/2, 1/2, 0.2, -20
    expected = 1 - 0.1 * torch.tensor([0.5, 0.5, 0.2, -1.0], dtype=torch.float64)
    torch.testing.assert_close(problem.params[0].detach(), expected, rtol=1e-14, atol=0)
    telemetry = optimizer.telemetry()
    assert (telemetry["clipped"], telemetry["without_curvature"], telemetry["age"]) == (
        0.25,
        0.5,
        1.0,
    )


@pytest.mark.parametrize("kind", [SophiaG, SophiaH])
def test_rho_moves_the_method_from_signs_to_a_scaled_newton_step(kind: type[Method]) -> None:
    shares = []
    for rho in (1e-12, 0.5, 1e9):
        problem = classifier()
        optimizer = kind(problem.params, lr=0.01, rho=rho)
        before = theta(problem)
        train(problem, optimizer, 1)
        assert float((theta(problem) - before).abs().max()) <= 0.01 * (1 + 1e-12)
        telemetry = optimizer.telemetry()
        shares.append(telemetry["clipped"] - (telemetry["without_curvature"] if rho > 1 else 0))
    assert shares[0] == 1
    assert shares[1] > 0.2
    assert shares[2] == 0


# -- the lazy estimate -----------------------------------------------------------------------------


def test_a_refresh_costs_a_product_or_a_gradient() -> None:
    problem = classifier()
    for kind, expected in ((SophiaH, {"grad": 11, "hvp": 2}), (SophiaG, {"grad": 13})):
        steps = objectives(problem, 11)
        optimizer = kind(problem.params)
        for objective in steps:
            optimizer.step(objective)
        counts = steps[0].counts
        assert {name: counts[name] for name in expected} == expected
        assert counts["ggnvp"] == 0


def test_sophia_g_leaves_the_gradient_of_the_loss_behind() -> None:
    problem = classifier()
    optimizer = SophiaG(problem.params, period=1, lr=0.0)
    optimizer.step(problem.objective())
    torch.testing.assert_close(problem.objective().gradient(), Reference(problem).gradient())


def test_a_sampled_gradient_that_is_not_finite_leaves_out_the_refresh() -> None:
    class Broken(SophiaG):
        broken = False

        def estimate(self, objective: Objective) -> tuple[Tensor, Tensor]:
            loss, diagonal = super().estimate(objective)
            return loss, diagonal * float("nan") if self.broken else diagonal

    problem = classifier()
    optimizer = Broken(problem.params, period=2)
    optimizer.broken = True
    before = theta(problem)
    train(problem, optimizer, 1)
    assert torch.equal(theta(problem), before)
    assert not optimizer.state
    optimizer.broken = False
    train(problem, optimizer, 2)
    saved = optimizer.diagonal()
    assert saved is not None
    saved = saved.clone()
    optimizer.broken = True
    before = theta(problem)
    train(problem, optimizer, 2)  # asked for again in every step
    assert optimizer.failures["curvature"] == 3
    assert not torch.equal(theta(problem), before)
    again = optimizer.diagonal()
    assert again is not None
    assert torch.equal(again, saved)


def test_a_loss_without_a_distribution_is_refused() -> None:
    problem = valley()
    with pytest.raises(
        UnsupportedError, match="sampled needs a loss with a known predictive distribution"
    ):
        SophiaG(problem.params).step(problem.objective())


@pytest.mark.parametrize("kind", [partial(SophiaH, period=1), SophiaG])
def test_a_module_in_training_mode_is_left_as_a_gradient_leaves_it(kind: Any) -> None:
    """Running statistics move once a step, and the sampled targets see the same dropout mask."""
    problem, twin = CASES["conv_bn"](), CASES["conv_bn"]()
    kind(problem.params, lr=0.0).step(problem.objective())
    twin.objective()()
    for mine, theirs in zip(problem.model.buffers(), twin.model.buffers(), strict=True):
        assert torch.equal(mine, theirs)
