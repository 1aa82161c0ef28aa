"""The word a run ends with, for everything that can happen to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from suite.config import registry
from suite.config.instantiate import locate
from suite.results.status import Status

Train = Callable[..., Any]
Module = Callable[[str, str], str]

FAILING = """
import torch
from optimizers import UnsupportedError

class Failing(torch.optim.SGD):
    def __init__(self, params, kind, lr=0.1):
        super().__init__(params, lr=lr)
        self.kind, self.calls = kind, 0

    def step(self, closure):
        self.calls += 1
        if self.calls == 3:  # the warm-up's own instance takes two steps
            raise {
                "runtime": RuntimeError("the second line\\nof a long story"),
                "key": KeyError("name"),
                "cuda": torch.OutOfMemoryError("CUDA out of memory.\\nTried to allocate 20 GiB"),
                "cpu": RuntimeError(
                    "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
                ),
                "host": MemoryError("no more"),
                "unsupported": UnsupportedError("needs a rest"),
            }[self.kind]
        if self.kind == "lost":
            return torch.tensor(float("nan"))
        return super().step(closure)
"""

FADING = """
from tasks.functions.quadratic import Quadratic

class Fading(Quadratic):
    def evaluate(self, model, split):
        self.looks = getattr(self, "looks", 0) + 1
        metrics = super().evaluate(model, split)
        return metrics if self.looks < 3 else {**metrics, "gap": float("nan")}
"""


@pytest.fixture
def failing(module: Module, train: Train) -> Callable[[str], Any]:
    """A run of six steps whose optimizer fails at the third in the way that is named."""
    name = module("failing_optimizer", FAILING)

    def run(kind: str) -> Any:
        return train(
            "optimizer=sgd",
            "task=quadratic",
            "steps=6",
            "task.eval_every=4",
            "~optimizer.weight_decay",
            f"optimizer._target_={name}.Failing",
            f"+optimizer.kind={kind}",
            f"allow=[{name}]",
        )

    return run


@pytest.mark.parametrize(
    ("kind", "status", "message"),
    [
        ("runtime", "error", "RuntimeError: the second line"),
        ("key", "error", "KeyError: 'name'"),
        ("cuda", "oom", "CUDA out of memory."),
        ("cpu", "oom", "RuntimeError: DefaultCPUAllocator: can't allocate memory"),
        ("host", "oom", "no more"),
        ("unsupported", "unsupported", "needs a rest"),
    ],
)
def test_a_failure_in_training_becomes_the_status(
    failing: Callable[[str], Any], kind: str, status: str, message: str
) -> None:
    failed = failing(kind)

    assert failed.status == status
    assert failed.summary["message"].startswith(message)
    assert (failed.summary["steps"], failed.summary["final_gap"]) == (2, None)
    assert json.loads((failed.directory / "summary.json").read_text()) == failed.summary
    # though no evaluation came after the first
    assert [int(row["step"]) for row in failed.rows] == [0, 1, 2]


def test_a_loss_that_is_not_a_number_is_a_divergence(failing: Callable[[str], Any]) -> None:
    failed = failing("lost")

    assert (failed.status, failed.summary["steps"]) == ("diverged", 1)
    assert json.loads((failed.directory / "summary.json").read_text())["final_loss"] is None
    assert failed.rows[-1]["loss"] == "nan"


@pytest.mark.parametrize("rate", ["30", "1e200"])
def test_an_exploding_loss_ends_the_run_as_diverged(train: Train, rate: str) -> None:
    done = train("optimizer=sgd", "task=quadratic", f"optimizer.lr={rate}", "steps=300")

    assert done.status == "diverged"
    assert 1 < done.summary["steps"] < 30
    assert done.summary["final_gap"] is None
    assert done.summary["best_gap"] == done.column("val/gap")[0]
    assert int(done.rows[-1]["step"]) == done.summary["steps"]
    assert not any(row["test/gap"] for row in done.rows)
    assert done.outcome.status.exit_code == 0
    assert train(
        "optimizer=sgd", "task=quadratic", f"optimizer.lr={rate}", "steps=300"
    ).outcome.skipped


def test_a_metric_that_is_not_a_number_at_an_evaluation_is_a_divergence(
    train: Train, module: Module
) -> None:
    name = module("fading_task", FADING)
    done = train(
        "optimizer=sgd",
        "task=quadratic",
        f"task._target_={name}.Fading",
        f"allow=[{name}]",
        "steps=20",
    )

    assert (done.status, done.summary["steps"]) == ("diverged", 20)
    assert done.summary["final_gap"] is None
    assert done.summary["best_gap"] == min(done.column("val/gap"))
    assert (done.rows[-1]["step"], done.rows[-1]["val/gap"], done.rows[-1]["test/gap"]) == (
        "20",
        "",
        "",
    )


def test_a_run_out_of_time_stops_with_an_evaluation(train: Train) -> None:
    done = train("optimizer=sgd", "task=quadratic", "max_seconds=1e-9", "steps=100")

    assert (done.status, done.summary["steps"]) == ("timeout", 1)
    assert done.summary["final_gap"] == float(done.rows[-1]["val/gap"])
    assert done.rows[-1]["test/gap"] != ""
    assert done.outcome.status.final


def test_a_run_out_of_oracle_calls_stops_with_an_evaluation(train: Train) -> None:
    done = train("optimizer=sgd", "task=quadratic", "max_grad_equivalents=3.5", "steps=100")

    assert (done.status, done.summary["steps"]) == ("timeout", 4)
    assert done.summary["final_gap"] == float(done.rows[-1]["val/gap"])


def test_a_run_that_ends_in_time_is_done(train: Train) -> None:
    done = train("optimizer=sgd", "task=quadratic", "max_seconds=1000", "steps=5")
    assert (done.status, done.summary["message"]) == ("done", "")
    assert train("optimizer=sgd", "task=quadratic", "max_seconds=1e-9", "steps=1").status == "done"


def test_a_pair_that_does_not_fit_is_unsupported_and_says_which_tasks_fit(train: Train) -> None:
    refused = train("optimizer=kfac", "task=quadratic")
    message = refused.summary["message"]
    fitting = [name for name in registry.names("task") if {"layers", "sampled"} <= offers(name)]

    assert refused.status == "unsupported"
    assert message.startswith("kfac needs layers, which quadratic does not offer")
    assert message.endswith("tasks that fit: " + ", ".join(fitting))
    assert 0 < len(fitting) < len(registry.names("task"))
    assert {path.name for path in refused.directory.iterdir()} == {
        "config.yaml",
        "environment.json",
        "summary.json",
    }
    assert (refused.summary["steps"], refused.summary["final_gap"], refused.summary["counts"]) == (
        0,
        None,
        {},
    )
    assert train("optimizer=kfac", "task=quadratic").outcome.skipped


def test_a_model_that_is_too_large_is_unsupported(train: Train) -> None:
    refused = train("optimizer=newton", "task=mlp")

    assert refused.status == "unsupported"
    assert "13,258 parameters" in refused.summary["message"]
    assert "max_parameters=5,000" in refused.summary["message"]


def test_compilation_is_refused_to_methods_that_differentiate_twice(train: Train) -> None:
    refused = train("optimizer=newton", "task=rosenbrock", "compile=true")

    assert refused.status == "unsupported"
    assert "compile=true is for first-order optimizers" in refused.summary["message"]


def test_the_words_have_the_exit_codes_of_their_meaning() -> None:
    codes = {status.value: status.exit_code for status in Status}
    assert codes == {
        **{"done": 0, "target": 0, "diverged": 0, "timeout": 0},
        **{"unsupported": 2, "oom": 1, "error": 1, "interrupted": 130},
    }


def offers(task: str) -> frozenset[str]:
    needs: frozenset[str] = getattr(
        locate(registry.read("task", task)["_target_"]), "offers", frozenset()
    )
    return needs
