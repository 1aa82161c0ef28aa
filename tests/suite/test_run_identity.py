"""The run's id: the same for the same result, another one for another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from suite.config.plan import Plan
from suite.errors import ConfigError

Planned = Callable[..., Plan]


@pytest.fixture
def base(planned: Planned) -> Plan:
    return planned("optimizer=sgd", "task=quadratic")


def changed(plan: Plan, path: str, value: Any) -> Plan:
    """The plan with one value of its configuration, `a.b`, replaced or added."""

    def put(node: Any, keys: list[str]) -> Any:
        return value if not keys else {**node, keys[0]: put(node.get(keys[0], {}), keys[1:])}

    return replace(plan, config=put(plan.config, path.split(".")))


def test_the_id_is_a_function_of_the_configuration(planned: Planned, base: Plan) -> None:
    assert planned("optimizer=sgd", "task=quadratic").run_id == base.run_id
    assert planned("task=quadratic", "optimizer=sgd").run_id == base.run_id
    assert (
        planned("optimizer=sgd", "task=quadratic", "seed=0", "task.dimension=100").run_id
        == base.run_id
    )
    assert replace(base, config=dict(reversed(list(base.config.items())))).run_id == base.run_id


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("optimizer.lr", 0.123),
        ("optimizer._target_", "torch.optim.Adam"),
        ("optimizer.momentum", 0.9),
        ("task.condition", 7),
        ("task.eval_every", 7),
        ("schedule._target_", "torch.optim.lr_scheduler.ExponentialLR"),
        ("seed", 1),
        ("steps", 7),
        ("max_seconds", 1.0),
        ("max_grad_equivalents", 10),
        ("target", 0.5),
        ("stop_at_target", True),
        ("precision", "float32"),
        ("compile", True),
    ],
)
def test_what_changes_the_result_changes_the_id(base: Plan, path: str, value: Any) -> None:
    assert changed(base, path, value).run_id != base.run_id


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("force", True),
        ("threads", 2),
        ("wandb.mode", "offline"),
        ("wandb.project", "another"),
        ("wandb.job_type", "tune"),
        ("optimizer.search", {"lr": {"low": 1, "high": 2}}),
        ("log_every", 3),
        ("scale", "full"),
        ("allow", ["mine"]),
        ("device", "auto"),
    ],
)
def test_what_does_not_change_the_result_keeps_the_id(
    base: Plan, path: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert changed(base, path, value).run_id == base.run_id


def test_circumstances_keep_the_id(base: Plan) -> None:
    others = replace(base, workers=4, experiment="mine", number=3, total=9, command="else")
    assert others.run_id == base.run_id


def test_another_kind_of_device_has_another_id(base: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    on_cuda = changed(base, "device", "cuda")
    assert on_cuda.run_id != base.run_id
    assert (
        on_cuda.run_id
        == changed(base, "device", "cuda:1").run_id
        == changed(base, "device", "auto").run_id
    )


def test_ids_do_not_collide_over_seeds_and_rates(base: Plan) -> None:
    ids = {
        changed(changed(base, "seed", s), "optimizer.lr", 10.0**-k).run_id
        for s in range(10)
        for k in range(10)
    }
    assert len(ids) == 100


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("steps", 0),
        ("steps", None),
        ("steps", 2.5),
        ("steps", "ten"),
        ("steps", True),
        ("log_every", -1),
        ("log_every", 0.5),
        ("max_seconds", 0),
        ("max_seconds", "long"),
        ("max_grad_equivalents", 0),
        ("seed", 1.5),
        ("seed", "one"),
        ("target", "high"),
        ("precision", "float23"),
        ("allow", "mine"),
        ("stop_at_target", "maybe"),
        ("compile", 1),
        ("force", "maybe"),
        ("wandb.mode", "offlin"),
        ("device", "banana"),
        ("device", "meta"),
        ("device", "cuda"),
    ],
)
def test_a_plan_refuses_values_that_make_no_sense(
    base: Plan, path: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match=path) as refused:
        _ = changed(base, path, value).run_id
    assert str(value) in str(refused.value)
