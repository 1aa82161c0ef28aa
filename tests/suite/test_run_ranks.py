"""One run by two processes.

The record of one process, and an end with a message whatever happens to either of them.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from suite.config import torchrun
from suite.config.plan import Plan
from tests.suite.ranks_cases import CNN, MLP, Train, agree

Command = Callable[..., Any]


# -- in this process -------------------------------------------------------------------------------


def test_a_run_by_several_processes_has_an_id_of_its_own(planned: Train) -> None:
    base: Plan = planned("optimizer=sgd", "task=quadratic")
    assert replace(base, world_size=1).run_id == base.run_id
    assert (
        len({base.run_id, replace(base, world_size=2).run_id, replace(base, world_size=3).run_id})
        == 3
    )
    assert replace(base, world_size=2).title.endswith("2 ranks")


@pytest.mark.parametrize(
    ("key", "usual", "other"), [("accumulate", 1, 2), ("clip_grad_norm", None, 1.0)]
)
def test_what_a_gradient_is_made_of_is_part_of_the_id_where_it_is_unusual(
    planned: Train, key: str, usual: Any, other: Any
) -> None:
    base: Plan = planned("optimizer=sgd", "task=quadratic")
    assert base.config[key] == usual
    assert planned("optimizer=sgd", "task=quadratic", f"{key}={other}").run_id != base.run_id
    assert planned("optimizer=sgd", "task=quadratic", "timeout=7").run_id == base.run_id


@pytest.mark.parametrize(
    "wrong", ["accumulate=0", "accumulate=1.5", "clip_grad_norm=0", "timeout=soon", "timeout=-1"]
)
def test_settings_that_make_no_sense_are_refused(command: Command, wrong: str) -> None:
    output = command("optimizer=sgd", "task=quadratic", wrong)
    assert output.code == 2
    assert wrong.partition("=")[0] in output.err


def test_a_batch_in_parts_is_the_batch_and_needs_less_memory(train: Train) -> None:
    whole = train("optimizer=adamw", *CNN)
    parts = train("optimizer=adamw", *CNN, "accumulate=8")
    agree(whole.rows, parts.rows, 1e-9)
    assert parts.summary["peak_memory_bytes"] < 0.7 * whole.summary["peak_memory_bytes"]
    assert whole.config["accumulate"] == 1
    assert parts.config["accumulate"] == 8


def test_a_clipped_gradient_makes_no_longer_step(train: Train) -> None:
    words = ("optimizer=sgd", "optimizer.lr=1", *MLP, "steps=1", "task.eval_every=1")
    free, short, long = (
        train(*words),
        train(*words, "clip_grad_norm=0.01"),
        train(*words, "clip_grad_norm=1000"),
    )
    start = train(*words, "optimizer.lr=0").checkpoint["model"]

    def length(done: Any) -> float:
        return float(
            torch.cat([(done.checkpoint["model"][k] - start[k]).flatten() for k in start]).norm()
        )

    assert length(short) == pytest.approx(0.01, rel=1e-3)
    assert length(free) == pytest.approx(length(long))
    assert length(free) > 0.1


AVERAGED = """
import torch

class Averaged(torch.optim.SGD):
    # trains at one point and is judged at the mean of all points so far
    modes = []

    def __init__(self, params, lr=0.1, weight_decay=0.0):
        super().__init__(params, lr=lr)
        self.training, self.count, self.seen = False, 0, []

    def train(self):
        assert not self.training
        self.training = True
        self.modes.append("train")
        for p in self._all():
            if "point" in self.state[p]:
                p.data.copy_(self.state[p].pop("point"))

    def eval(self):
        assert self.training
        self.training = False
        self.modes.append("eval")
        for p in self._all():
            self.state[p]["point"] = p.detach().clone()
            p.data.copy_(self.state[p].get("mean", p.detach()))

    def _all(self):
        return [p for group in self.param_groups for p in group["params"]]

    def step(self, closure):
        assert self.training
        loss = super().step(closure)
        self.count += 1
        for p in self._all():
            mean = self.state[p].setdefault("mean", torch.zeros_like(p))
            mean.add_(p.detach() - mean, alpha=1 / self.count)
        return loss
"""


def test_an_optimizer_that_averages_is_judged_and_saved_at_its_average(
    train: Train, module: Callable[[str, str], str]
) -> None:
    name = module("averaged", AVERAGED)
    words = (
        "task=quadratic",
        "task.dimension=2",
        "task.condition=2",
        "steps=6",
        "task.eval_every=3",
        "seed=1",
    )
    plain = train("optimizer=sgd", "optimizer.lr=0.1", *words)
    done = train(
        "optimizer=sgd",
        "optimizer.lr=0.1",
        f"optimizer._target_={name}.Averaged",
        f"allow=[{name}]",
        *words,
    )

    assert done.column("loss") == plain.column("loss")  # the steps themselves are those of SGD
    path = [
        (float(row["x"]), float(row["y"]))
        for row in csv.DictReader((plain.directory / "path.csv").open())
    ]
    mean = [sum(values) / 6 for values in zip(*path[1:], strict=True)]
    (saved,) = done.checkpoint["model"].values()
    assert saved.tolist() == pytest.approx(mean, rel=1e-12)
    assert done.summary["final_gap"] != plain.summary["final_gap"]
    modes = sys.modules[name].Averaged.modes
    # once more for each of the two that were built
    assert modes.count("train") == modes.count("eval") + 2


def test_a_sweep_by_several_processes_is_refused(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(key, value)
    output = command("-m", "optimizer=sgd", "task=quadratic", "seed=0,1")
    assert output.code == 2
    assert "-m asks for a sweep" in output.err


def test_the_launchers_words_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(key, raising=False)
    assert (
        torchrun.world_size(),
        torchrun.rank(),
        torchrun.local_size(),
        torchrun.local_rank(),
    ) == (1, 0, 1, 0)
    for key, value in {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "4",
    }.items():
        monkeypatch.setenv(key, value)
    assert (
        torchrun.world_size(),
        torchrun.rank(),
        torchrun.local_size(),
        torchrun.local_rank(),
    ) == (8, 5, 4, 1)
