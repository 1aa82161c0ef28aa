"""Optimizers of other packages.

Their trajectories against the papers' equations, and any of them by its name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.optimizers.packaged_cases import batches, far, named, po, problem, train

schedulefree = pytest.importorskip("schedulefree")


prodigyopt = pytest.importorskip("prodigyopt")


Params = list[Tensor]


Rule = Callable[[Params], Callable[[Params], None]]


# -- the papers' equations -------------------------------------------------------------------------


def zeros(params: Params) -> Params:
    return [torch.zeros_like(p) for p in params]


def lion(
    params: Params, lr: float = 1e-3, b1: float = 0.9, b2: float = 0.99, decay: float = 0.1
) -> Any:
    momenta = zeros(params)

    def step(gradients: Params) -> None:
        for p, g, m in zip(params, gradients, momenta, strict=True):
            p.mul_(1 - lr * decay).sub_(lr * torch.sign(b1 * m + (1 - b1) * g))
            m.copy_(b2 * m + (1 - b2) * g)

    return step


def adabelief(
    params: Params, lr: float = 1e-2, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> Any:
    first, second, t = zeros(params), zeros(params), [0]

    def step(gradients: Params) -> None:
        t[0] += 1
        for p, g, m, s in zip(params, gradients, first, second, strict=True):
            m.copy_(b1 * m + (1 - b1) * g)
            s.copy_(b2 * s + (1 - b2) * (g - m) ** 2 + eps)
            p.sub_(lr * m / (1 - b1 ** t[0]) / ((s / (1 - b2 ** t[0])).sqrt() + eps))

    return step


def adopt(
    params: Params, lr: float = 1e-2, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-6
) -> Any:
    first, second, t = zeros(params), zeros(params), [0]

    def step(gradients: Params) -> None:
        for p, g, m, v in zip(params, gradients, first, second, strict=True):
            if t[0] == 0:
                v.copy_(g**2)
                continue
            limit = (
                t[0] + 1
            ) ** 0.25  # the paper's is t ** 0.25; the package counts the step that only measures
            m.copy_(b1 * m + (1 - b1) * (g / v.sqrt().clamp(min=eps)).clamp(-limit, limit))
            p.sub_(lr * m)
            v.copy_(b2 * v + (1 - b2) * g**2)
        t[0] += 1

    return step


def ademamix(params: Params, lr: float = 1e-2, alpha: float = 5.0, eps: float = 1e-8) -> Any:
    b1, b2, b3 = 0.9, 0.999, 0.9999
    fast, slow, second, t = zeros(params), zeros(params), zeros(params), [0]

    def step(gradients: Params) -> None:
        t[0] += 1
        for p, g, m1, m2, v in zip(params, gradients, fast, slow, second, strict=True):
            m1.copy_(b1 * m1 + (1 - b1) * g)
            m2.copy_(b3 * m2 + (1 - b3) * g)
            v.copy_(b2 * v + (1 - b2) * g**2)
            p.sub_(
                lr * (m1 / (1 - b1 ** t[0]) + alpha * m2) / ((v / (1 - b2 ** t[0])).sqrt() + eps)
            )

    return step


def adan(params: Params, lr: float = 1e-2, decay: float = 0.1, eps: float = 1e-8) -> Any:
    b1, b2, b3 = 0.98, 0.92, 0.99
    first, change, second, t = zeros(params), zeros(params), zeros(params), [0]
    before: Params = []

    def step(gradients: Params) -> None:
        t[0] += 1
        last = list(before) or [g.clone() for g in gradients]
        before[:] = [g.clone() for g in gradients]
        for p, g, old, m, v, n in zip(params, gradients, last, first, change, second, strict=True):
            m.copy_(b1 * m + (1 - b1) * g)
            v.copy_(b2 * v + (1 - b2) * (g - old))
            n.copy_(b3 * n + (1 - b3) * (g + b2 * (g - old)) ** 2)
            scale = (n / (1 - b3 ** t[0])).sqrt() + eps
            p.sub_(lr * (m / (1 - b1 ** t[0]) + b2 * v / (1 - b2 ** t[0])) / scale).div_(
                1 + lr * decay
            )

    return step


def lamb(
    params: Params, lr: float = 1e-2, b1: float = 0.9, b2: float = 0.999, decay: float = 0.1
) -> Any:
    """The third version of the paper: no bias correction; phi(z) = min(z, 10)."""
    first, second, eps = zeros(params), zeros(params), 1e-6

    def step(gradients: Params) -> None:
        for p, g, m, v in zip(params, gradients, first, second, strict=True):
            m.copy_(b1 * m + (1 - b1) * g)
            v.copy_(b2 * v + (1 - b2) * g**2)
            direction = m / (v.sqrt() + eps) + decay * p
            p.sub_(lr * p.norm().clamp(max=10) / direction.norm() * direction)

    return step


def lars(
    params: Params, lr: float = 0.5, mu: float = 0.9, trust: float = 1e-2, decay: float = 1e-2
) -> Any:
    momenta = zeros(params)

    def step(gradients: Params) -> None:
        for p, g, m in zip(params, gradients, momenta, strict=True):
            ratio = trust * p.norm() / (g.norm() + decay * p.norm()) if p.ndim > 1 else 1.0
            slope = ratio * (g + decay * p) if p.ndim > 1 else g
            m.copy_(mu * m + slope)
            p.sub_(lr * m)

    return step


def mars(
    params: Params, lr: float = 3e-3, gamma: float = 0.025, decay: float = 0.1, eps: float = 1e-8
) -> Any:
    """Matrices by corrected gradients of norm one at most, vectors by AdamW."""
    first, second, t = zeros(params), zeros(params), [0]
    before = zeros(params)

    def step(gradients: Params) -> None:
        t[0] += 1
        for p, g, old, m, v in zip(params, gradients, before, first, second, strict=True):
            b1, b2 = (0.95, 0.99) if p.ndim > 1 else (0.9, 0.95)
            c = g
            if p.ndim > 1:
                c = g + gamma * b1 / (1 - b1) * (g - old)
                c = c / c.norm().clamp(min=1)
            old.copy_(g)
            m.copy_(b1 * m + (1 - b1) * c)
            v.copy_(b2 * v + (1 - b2) * c**2)
            scale = (v / (1 - b2 ** t[0])).sqrt() + eps
            p.mul_(1 - lr * decay).sub_(lr * m / (1 - b1 ** t[0]) / scale)

    return step


def schedule_free(
    params: Params, lr: float = 0.01, b1: float = 0.9, b2: float = 0.999, decay: float = 0.01
) -> Any:
    """Both sequences written out; the parameters are the interpolation y, `averages` is x."""
    base, average, second = [p.clone() for p in params], [p.clone() for p in params], zeros(params)
    t = [0]

    def step(gradients: Params) -> None:
        t[0] += 1
        for y, g, z, x, v in zip(params, gradients, base, average, second, strict=True):
            v.copy_(b2 * v + (1 - b2) * g**2)
            slope = g / ((v / (1 - b2 ** t[0])).sqrt() + 1e-8) + decay * y
            z.sub_(lr * slope)
            x.copy_(x + (z - x) / t[0])  # with a constant lr all steps weigh the same
            y.copy_((1 - b1) * z + b1 * x)

    step.averages = average  # type: ignore[attr-defined]
    return step


TOLERANCES = {
    "Lamb": 1e-6,  # adds its eps of 1e-6 to the direction's norm
    "MARS": 1e-6,  # adds its eps of 1e-8 before the bias is corrected
}


WRITTEN: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "Lion": (lion, lambda p: po.Lion(p, lr=1e-3, weight_decay=0.1)),
    "AdaBelief": (adabelief, lambda p: po.AdaBelief(p, lr=1e-2, eps=1e-8)),
    "ADOPT": (adopt, lambda p: po.ADOPT(p, lr=1e-2, betas=(0.9, 0.999))),
    "AdEMAMix": (ademamix, lambda p: po.AdEMAMix(p, lr=1e-2)),
    "Adan": (adan, lambda p: po.Adan(p, lr=1e-2, weight_decay=0.1)),
    "Lamb": (
        lamb,
        lambda p: po.Lamb(p, lr=1e-2, weight_decay=0.1, weight_decouple=False, adam_debias=True),
    ),
    "LARS": (lars, lambda p: po.LARS(p, lr=0.5, trust_coefficient=1e-2, weight_decay=1e-2)),
    "MARS": (mars, lambda p: po.MARS(p, lr=3e-3, weight_decay=0.1, weight_decay_1d=0.1)),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_the_packages_trajectory_is_that_of_the_papers_equations(name: str) -> None:
    rule, build = WRITTEN[name]
    case, twin = problem(), problem()
    train(case, build(case.model.parameters()))

    params = [p.detach() for p in twin.params]
    step = rule(params)
    objective = twin.objective()
    for batch in batches(twin, 50):
        objective.on(*batch)()
        step([p.grad.clone() for p in twin.params])  # type: ignore[union-attr]
    assert far(case, twin) < TOLERANCES.get(name, 1e-12)


def test_schedule_free_trains_at_the_interpolation_and_is_judged_by_the_average() -> None:
    case, twin = problem(), problem()
    optimizer = schedulefree.AdamWScheduleFree(case.model.parameters(), lr=0.01, weight_decay=0.01)
    optimizer.train()
    train(case, optimizer)

    params = [p.detach() for p in twin.params]
    step = schedule_free(params)
    objective = twin.objective()
    for batch in batches(twin, 50):
        objective.on(*batch)()
        step([p.grad.clone() for p in twin.params])  # type: ignore[union-attr]
    assert far(case, twin) < 1e-12
    optimizer.eval()
    for p, average in zip(case.params, step.averages, strict=True):
        torch.testing.assert_close(p.detach(), average, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "settings", "other", "bound"),
    [
        (
            "ScheduleFreeAdamW",
            {"lr": 0.01, "weight_decay": 0.01},
            lambda p: schedulefree.AdamWScheduleFree(p, lr=0.01, weight_decay=0.01),
            5e-9,
        ),
        ("ScheduleFreeSGD", {"lr": 0.5}, lambda p: schedulefree.SGDScheduleFree(p, lr=0.5), 1e-12),
        ("Prodigy", {"lr": 1.0}, lambda p: prodigyopt.Prodigy(p, lr=1.0), 1e-6),
    ],
)
def test_two_packages_take_the_same_steps(
    name: str, settings: dict[str, Any], other: Callable[[Any], Any], bound: float
) -> None:
    case, twin = problem(), problem()
    ours, theirs = named(case, name, **settings), other(twin.model.parameters())
    for optimizer in (ours, theirs):
        getattr(optimizer, "train", lambda: None)()
    losses = train(case, ours)
    assert train(twin, theirs) == pytest.approx(losses, abs=10 * bound)
    assert far(case, twin) < bound
