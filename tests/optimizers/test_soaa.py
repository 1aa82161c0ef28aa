"""SOAA against its equations in numpy, and against torch's AdamW with the same step factor."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from optimizers.diagonal import SOAA
from tests.optimizers.cases import Problem, close, mlp

STEPS = 40


def problem(scale: float = 1.0) -> Problem:
    """A classification whose loss, and so its gradients, can be scaled."""

    class Scaled(nn.CrossEntropyLoss):
        def forward(self, input: Tensor, target: Tensor) -> Tensor:
            return scale * super().forward(input, target)

    torch.manual_seed(0)
    inputs = torch.randn(200, 6).double()
    return Problem(
        mlp((6, 8, 4)).double(), Scaled(), inputs, (inputs @ torch.randn(6, 4).double()).argmax(1)
    )


def batches(of: Problem, steps: int = STEPS) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    chosen = [torch.randperm(len(of.inputs), generator=generator)[:32] for _ in range(steps)]
    return [(of.inputs[index], of.targets[index]) for index in chosen]


def trained(of: Problem, **options: Any) -> tuple[SOAA, list[float]]:
    """The method after its steps, and the d of each."""
    method, factors = SOAA(of.model.named_parameters(), total_steps=STEPS, **options), []
    objective = of.objective()
    for batch in batches(of):
        method.step(objective.on(*batch))
        factors.append(method.telemetry()["d"])
    return method, factors


def by_hand(of: Problem, o: dict[str, Any]) -> list[np.ndarray]:
    """The published recursion, tensor by tensor, in numpy."""
    params, objective = of.params, of.objective()
    first = [np.zeros(p.shape) for p in params]
    second = [np.zeros(p.shape) for p in params]
    d, average, predicted = 1.0, 0.0, 0.0
    for t, batch in enumerate(batches(of), start=1):
        loss = float(objective.on(*batch)())
        gradients = [p.grad.numpy().copy() for p in params]
        average = o["loss_decay"] * average + (1 - o["loss_decay"]) * loss
        mean = average / (1 - o["loss_decay"] ** t)
        s = (t - 1) / STEPS
        bounds = (1 - o["gamma"]) ** s, 1 + o["gamma"] ** s
        new = float(np.clip(d * (mean - loss) / max(predicted, 1e-8), *bounds))
        used, d = (d, new) if o["delay"] else (new, new)
        for i, g in enumerate(gradients):
            first[i] = 0.9 * first[i] + 0.1 * g
            second[i] = 0.999 * second[i] + 0.001 * g**2
        m, v = [x / (1 - 0.9**t) for x in first], [x / (1 - 0.999**t) for x in second]
        above, below = [(x**2).sum() for x in m], [(x + 1e-8).sum() for x in v]
        if o["scope"] == "all":
            above, below = [sum(above)] * len(m), [sum(below)] * len(m)
        predicted = 0.0
        for p, mi, vi, a, b in zip(params, m, v, above, below, strict=True):
            fisher = (1 + a / b) * vi
            u = used * mi / (np.maximum(used * fisher, np.sqrt(vi)) + 1e-8)
            bend = {"linear": 0 * vi, "diagonal": vi, "model": o["lr"] * fisher}[o["prediction"]]
            predicted += o["lr"] * ((mi * u).sum() - (bend * u**2).sum() / 2)
            p.data -= o["lr"] * (torch.from_numpy(u) + o["weight_decay"] * p.data)
    return [p.detach().numpy() for p in params]


@pytest.mark.parametrize("scale", [1.0, 60.0])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prediction": "model", "gamma": 0.5, "weight_decay": 0.1},
        {"prediction": "linear", "scope": "tensor", "loss_decay": 0.5},
        {"delay": True, "scope": "tensor"},
    ],
)
def test_it_is_the_published_recursion(options: dict[str, Any], scale: float) -> None:
    default = {
        "lr": 0.01,
        "weight_decay": 0.0,
        "gamma": 0.1,
        "loss_decay": 0.9,
        "prediction": "diagonal",
        "scope": "all",
        "delay": False,
    }
    settings = {**default, **options}
    ours = problem(scale)
    twin = copy.deepcopy(ours)
    method, _ = trained(ours, **settings)
    for one, other in zip(ours.params, by_hand(twin, settings), strict=True):
        close(one.detach(), torch.from_numpy(other), 1e-11)
    assert (method.telemetry()["differs_share"] > 0.2) is (scale > 1)


def test_where_the_share_is_zero_it_is_adamw_with_the_same_factor() -> None:
    """The decisive one: d's schedule as AdamW's learning rate gives the same trajectory."""
    ours = problem()
    twin = copy.deepcopy(ours)
    method, factors = trained(ours, lr=0.01, weight_decay=0.05)
    assert method.telemetry()["differs_share"] == 0
    adamw = torch.optim.AdamW(twin.model.parameters())
    objective = twin.objective()
    for batch, d in zip(batches(twin), factors, strict=True):
        adamw.param_groups[0].update(lr=0.01 * d, weight_decay=0.05 / d)
        adamw.step(objective.on(*batch))
    assert len(set(factors)) > 10
    for one, other in zip(ours.params, twin.params, strict=True):
        close(one.detach(), other.detach(), 1e-12)


def test_the_share_counts_just_those_coordinates_that_move_otherwise() -> None:
    """One step from the same point and moments: they move less than AdamW's, all others the
    same."""
    ours = problem(scale=20.0)
    twin = copy.deepcopy(ours)
    method = SOAA(ours.model.parameters(), lr=0.01, total_steps=10)
    adamw = torch.optim.AdamW(twin.model.parameters(), lr=0.01, weight_decay=0.0)
    before = torch.cat([p.detach().flatten() for p in ours.params])
    method.step(ours.objective())
    adamw.step(twin.objective())
    assert method.telemetry()["d"] == 1
    one, other = (
        torch.cat([p.detach().flatten() for p in each.params]) - before for each in (ours, twin)
    )
    less = one.abs() < (1 - 1e-9) * other.abs()
    same = (one - other).abs() <= 1e-12 * other.abs().max()
    assert bool((less ^ same).all())
    share = float(less.double().mean())
    assert 0.1 < share < 0.9
    assert method.telemetry()["differs_share"] == pytest.approx(share, abs=1e-12)


def test_a_scaled_loss_is_another_problem() -> None:
    """AdamW does not mind it; here the share of coordinates that differ grows from none to all."""
    shares = [
        trained(problem(scale), lr=0.01)[0].telemetry()["differs_share"]
        for scale in (0.1, 1.0, 10.0, 1e3)
    ]
    assert shares[0] == shares[1] == 0
    assert shares[1] < shares[2] < shares[3]
    assert shares[3] > 0.99


@pytest.mark.parametrize("gamma", [0.1, 0.5])
def test_the_factor_stays_within_its_bounds_and_mostly_at_them(gamma: float) -> None:
    """From [1, 2] to [1 - gamma, 1 + gamma]; the quotient is hardly ever between them."""
    method, factors = trained(problem(), lr=0.01, gamma=gamma)
    for t, d in enumerate(factors):
        assert (1 - gamma) ** (t / STEPS) <= d <= 1 + gamma ** (t / STEPS)
    assert factors[0] == 1
    assert method.telemetry()["bounded_share"] > 0.75


def test_the_horizon_is_the_one_given_else_the_one_told() -> None:
    informed, known, unknown = problem(), problem(), problem()
    methods = [
        SOAA(each.model.parameters(), total_steps=n)
        for each, n in ((informed, None), (known, 7), (unknown, None))
    ]
    methods[0].expect(7, 1.0)
    methods[1].expect(1000, 1.0)
    for step in range(9):  # beyond the last one the bounds stay
        for method, each in zip(methods[:2], (informed, known), strict=True):
            method.step(each.objective())
        assert methods[0].telemetry() == methods[1].telemetry()
        if step >= 7:
            assert 0.9 <= methods[0].telemetry()["d"] <= 1.1
    for one, other in zip(informed.params, known.params, strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="pass total_steps="):
        methods[2].step(unknown.objective())


def test_a_step_that_is_refused_leaves_moments_and_factor() -> None:
    ours = problem()
    method, _ = trained(ours, lr=0.01)
    before = copy.deepcopy(method.state_dict())
    telemetry = method.telemetry()
    loss = method.step(ours.objective().on(ours.inputs * float("nan"), ours.targets))
    assert bool(loss.isnan())
    after = method.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for number, state in before["state"].items():
        assert all(torch.equal(value, after["state"][number][key]) for key, value in state.items())
    assert method.telemetry() == {**telemetry, "failures/non_finite": 1.0}
