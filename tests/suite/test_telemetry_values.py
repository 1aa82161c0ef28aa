"""Telemetry: the run's id and settings, and numbers against dense matrices and plain loops."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian

from optimizers.linalg.flat import flatten
from suite.training.measures.step_diagnostics import LAYERS, largest_tensors, spread, step_facts
from suite.training.measures.telemetry import Telemetry
from tests.suite.telemetry_cases import LENGTH, ON, Small, Train, telemetry

# -- the id and the settings -----------------------------------------------------------------------


def test_the_id_changes_only_where_telemetry_is_on(planned: Train) -> None:
    pair = ("optimizer=sgd", "task=quadratic")
    plain = planned(*pair).run_id
    assert planned(*pair, "telemetry_products=20").run_id == plain
    on = planned(*pair, "telemetry=true").run_id
    assert on != plain
    assert planned(*pair, "telemetry=true", "telemetry_products=20").run_id not in (plain, on)


@pytest.mark.parametrize(
    "setting", ["telemetry=1", "telemetry_products=9", "telemetry_products=20.5"]
)
def test_odd_settings_are_refused(planned: Train, setting: str) -> None:
    with pytest.raises(Exception, match=setting.partition("=")[0]):
        planned("optimizer=sgd", "task=quadratic", setting)


def test_wandb_gets_the_columns(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "suite.training.wandb_mirror.Tracker.log", lambda tracker, row: logged.append(dict(row))
    )
    train("optimizer=sgd", "task=quadratic", *LENGTH, *ON)
    assert any(row.get("telemetry/eigenvalue_1") for row in logged)


class Plain(Small):
    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def test_the_curvature_is_the_hessians(monkeypatch: pytest.MonkeyPatch) -> None:
    """All columns against the dense Hessian by torch.func, in float64, n products being enough for
    all eigenvalues."""
    task, model = Plain(), Plain().model(0)
    watch = telemetry(task, model, lr=0.5)
    start = flatten(model.parameters()).detach()
    watch.begin(*task.batch)
    step = (
        torch.randn(len(start), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        / 10
    )
    torch.nn.utils.vector_to_parameters(start + step, model.parameters())
    watch.end()
    row = {
        key.removeprefix("telemetry/"): value for key, value in watch.row(evaluated=True).items()
    }

    def loss(theta: Tensor) -> Tensor:
        parts, begin = {}, 0
        for name, p in model.named_parameters():
            parts[name] = theta[begin : begin + p.numel()].reshape(p.shape)
            begin += p.numel()
        value: Tensor = task.loss_fn(functional_call(model, parts, (task.batch[0],)), task.batch[1])
        return value + task.l2 / 2 * theta.square().sum()

    theta = start + step
    dense = hessian(loss)(theta)
    values = torch.linalg.eigvalsh(dense)
    gradient = torch.func.grad(loss)(theta)
    assert [row[f"eigenvalue_{rank}"] for rank in (1, 2, 3)] == pytest.approx(
        values.flip(0)[:3].tolist(), rel=1e-10
    )
    assert row["eigenvalue_min"] == pytest.approx(float(values[0]), rel=1e-10)
    assert row["trace"] == pytest.approx(float(dense.trace()), rel=1e-10)
    assert row["negative_share"] == pytest.approx(float((values < 0).double().mean()))
    assert row["negative_mass"] == pytest.approx(
        float(values[values < 0].abs().sum() / values.abs().sum()), rel=1e-9
    )
    assert row["gradient_curvature"] == pytest.approx(
        float(gradient @ dense @ gradient / gradient.square().sum())
    )
    assert row["update_curvature"] == pytest.approx(
        float(step @ dense @ step / step.square().sum())
    )
    assert row["lr_sharpness"] == pytest.approx(0.5 * float(values[-1]))

    first = torch.func.grad(loss)(start)
    assert row["cosine"] == pytest.approx(-float(first @ step / first.norm() / step.norm()))
    assert row["gradient_norm"] == pytest.approx(float(first.norm()))
    assert row["update_norm"] == pytest.approx(float(step.norm()))


def test_the_overshoot_of_a_quadratic_is_its_curvature_over_its_slope() -> None:
    matrix = torch.diag(torch.tensor([1.0, 10.0], dtype=torch.float64))
    theta = torch.tensor([3.0, 1.0], dtype=torch.float64)
    gradient = matrix @ theta

    def facts(step: Tensor) -> dict[str, float]:
        before, after = (float(x @ matrix @ x / 2) for x in (theta, theta + step))
        return step_facts(gradient, step, before, after)

    best = float(gradient @ gradient / (gradient @ matrix @ gradient))
    for share in (0.1, 1.0, 2.0, 3.0):
        diagnostics = facts(-share * best * gradient)
        assert diagnostics["overshoot"] == pytest.approx(share)
        assert diagnostics["cosine"] == pytest.approx(1)
    assert facts(-theta)["overshoot"] == pytest.approx(1)  # Newton's step
    assert "overshoot" not in facts(0.1 * gradient)  # uphill
    assert facts(0.1 * gradient)["cosine"] == pytest.approx(-1)
    assert "overshoot" not in facts(-1e-18 * gradient)  # lost in round-off
    assert math.isnan(facts(0 * gradient)["cosine"])


def test_the_masks_of_a_step_are_those_that_the_optimizer_sees() -> None:
    """With dropout the gradient that the update is compared with is the one it was computed
    from."""
    task, model = Small(), Small().model(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = Telemetry(model, task, optimizer, 0, products=12)
    from optimizers import Objective

    watch.begin(*task.batch)
    optimizer.step(Objective(model, task.loss_fn, *task.batch, l2=task.l2))  # type: ignore[arg-type]
    watch.end()
    row = watch.row(evaluated=False)
    assert row["telemetry/cosine"] == pytest.approx(1, abs=1e-12)
    assert row["telemetry/update_norm"] == pytest.approx(
        0.1 * row["telemetry/gradient_norm"], rel=1e-12
    )


def test_the_curvature_is_of_one_function_along_the_run() -> None:
    watch = telemetry(Small(), Small().model(0))
    first = watch.row(evaluated=True)
    torch.rand(3)
    assert watch.row(evaluated=True) == first


def test_helpers() -> None:
    assert spread([3.0, math.nan, 1.0, 2.0]) == {"min": 1, "median": 2, "max": 3}
    assert spread([math.nan]) == {}
    sizes = [torch.zeros(size) for size in (1, 5, 3, 5)]
    assert largest_tensors(sizes, 2) == {1, 3}
    assert largest_tensors(sizes) == {0, 1, 2, 3}
    assert len(largest_tensors([torch.zeros(1)] * 100)) == LAYERS


def test_the_summary_is_json(train: Train) -> None:
    done = train("optimizer=sgd", "task=quadratic", *LENGTH, *ON)
    content = json.loads((done.directory / "summary.json").read_text())
    assert content["telemetry_seconds"] > 0
    assert list(content)[-1] == "message"
