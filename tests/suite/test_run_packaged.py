"""Optimizers of other packages as runs.

What they are judged by, what that costs, and any of them by its name.
"""

from __future__ import annotations

import itertools
import json
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.swa_utils import update_bn

from suite.config import device
from suite.config.instantiate import RESERVED
from suite.config.overrides import opened
from suite.training.averaged_weights import STATISTICS_BATCHES
from suite.training.runner import build_task
from suite.training.seeds import stream

schedulefree = pytest.importorskip("schedulefree")
pytest.importorskip("pytorch_optimizer")

Train = Callable[..., Any]
Command = Callable[..., Any]

MLP = (
    "task=mlp",
    "task.hidden=[4]",
    "task.val_size=50",
    "task.test_size=50",
    "task.batch_size=16",
    "~tuned",
)
NORMED = (
    "task=cnn",
    "task.channels=[2,4]",
    "task.batch_norm=true",
    "task.batch_size=16",
    "task.val_size=50",
    "~tuned",
)
AVERAGED = ("optimizer=schedule_free", "optimizer.lr=0.02")
LENGTH = ("steps=8", "task.eval_every=4", "log_every=1")


class Plain:
    """The run as a loop that anybody would write.

    The task, the model at the average, the losses on the way.
    """

    def __init__(self, plan: Any, steps: int) -> None:
        self.task = build_task(plan, torch.device("cpu"))
        self.model = self.task.model(stream(plan.seed, "model"))
        settings = {
            key: value for key, value in plan.config["optimizer"].items() if key not in RESERVED
        }
        optimizer = schedulefree.AdamWScheduleFree(self.model.parameters(), **settings)
        optimizer.train()
        self.losses = []
        for inputs, targets in itertools.islice(self.batches(plan, "data"), steps):
            optimizer.zero_grad()
            loss = self.task.loss_fn(self.model(inputs), targets)
            loss.backward()
            optimizer.step()
            self.losses.append(float(loss.detach()))
        self.trained = {name: value.clone() for name, value in self.model.state_dict().items()}
        optimizer.eval()

    def batches(self, plan: Any, purpose: str) -> Any:
        return self.task.batches("train", stream(plan.seed, purpose))


def buffers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if "running" in name}


@pytest.mark.parametrize("pair", [MLP, NORMED], ids=["mlp", "batch norm"])
def test_a_schedule_free_run_is_the_plain_loop_judged_at_its_average(
    train: Train, pair: tuple[str, ...]
) -> None:
    done = train(*AVERAGED, *pair, *LENGTH)
    plain = Plain(done.plan, 8)

    assert done.status == "done"
    assert done.column("loss") == plain.losses  # evaluations in between leave no trace
    saved = done.checkpoint["model"]
    for name, parameter in plain.model.named_parameters():
        torch.testing.assert_close(saved[name], parameter.detach(), rtol=0, atol=0)
    update_bn(
        [inputs for inputs, _ in itertools.islice(plain.batches(done.plan, "statistics"), 10)],
        plain.model,
    )
    for name, value in buffers(plain.model.state_dict()).items():
        assert torch.equal(saved[name], value)
        assert not torch.equal(plain.trained[name], value)
    judged = plain.task.evaluate(plain.model, "val")
    assert done.summary["final_accuracy"] == judged["accuracy"]
    assert float(done.rows[-1]["val/loss"]) == judged["loss"]


@pytest.mark.parametrize("pair", [MLP, NORMED], ids=["mlp", "batch norm"])
def test_how_often_it_is_judged_changes_nothing(train: Train, pair: tuple[str, ...]) -> None:
    often, once = (
        train(*AVERAGED, *pair, "steps=8", f"task.eval_every={n}", "log_every=1") for n in (1, 8)
    )
    assert often.column("loss") == once.column("loss")
    assert often.rows[-1]["val/loss"] == once.rows[-1]["val/loss"]
    assert often.checkpoint["model"].keys() == once.checkpoint["model"].keys()
    assert all(
        torch.equal(value, once.checkpoint["model"][name])
        for name, value in often.checkpoint["model"].items()
    )


@pytest.mark.parametrize(
    ("optimizer", "pair", "seconds", "values"),
    [
        (("optimizer=adam",), MLP, 8, 8),
        (
            AVERAGED,
            MLP,
            8 + 2 * 3,
            8,
        ),  # two evaluations, each a way there, new statistics, and a way back
        (AVERAGED, NORMED, 8 + 2 * 3, 8 + 2 * STATISTICS_BATCHES),
        (("optimizer=kfac",), NORMED, 8 + 2 * 3, 8),  # it averages only if asked to
        (("optimizer=pytorch_optimizer", "optimizer.name=ScheduleFreeSGD"), MLP, 8 + 2 * 3, 8),
    ],
)
def test_the_way_to_the_judged_weights_is_on_the_clock(
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
    optimizer: tuple[str, ...],
    pair: tuple[str, ...],
    seconds: int,
    values: int,
) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(device, "clock", lambda place: lambda: float(next(ticks)))
    done = train(*optimizer, *pair, *LENGTH)
    assert done.summary["seconds"] == seconds
    assert done.summary["counts"]["value"] == values
    assert done.rows[0]["seconds"] == "0.0"


PAIRS = {
    "schedule-free with batch norm": (*AVERAGED, *NORMED),
    "schedule-free SGD": ("optimizer=schedule_free_sgd", *MLP),
    "prodigy, cosine": ("optimizer=prodigy", *MLP, "schedule=cosine"),
    "mars": ("optimizer=mars", *MLP),
    "AdaHessian": ("optimizer=pytorch_optimizer", "optimizer.name=AdaHessian", *MLP),
    "Ranger21": ("optimizer=pytorch_optimizer", "optimizer.name=Ranger21", *MLP),
    "BSAM": ("optimizer=pytorch_optimizer", "optimizer.name=BSAM", *MLP),
    "Kron": ("optimizer=pytorch_optimizer", "optimizer.name=Kron", *MLP),
    "SPlus, linear": (
        "optimizer=pytorch_optimizer",
        "optimizer.name=SPlus",
        *MLP,
        "schedule=linear",
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_resumed_run_equals_an_unbroken_one(
    train: Train, planned: Train, at_batch: Train, name: str
) -> None:
    pair = (*PAIRS[name], "steps=14", "task.eval_every=3", "log_every=1")
    with at_batch(planned(*pair), 11, lambda: signal.raise_signal(signal.SIGINT)):
        stopped = train(*pair)
    assert (stopped.status, stopped.summary["steps"]) == ("interrupted", 11)
    resumed = train(*pair)
    whole = train(*pair, "force=true")
    assert (resumed.status, whole.status) == ("done", "done")
    assert resumed.repeatable_rows == whole.repeatable_rows
    saved, other = (run.checkpoint["model"] for run in (resumed, whole))
    assert all(torch.equal(value, other[key]) for key, value in saved.items())


def test_telemetry_changes_no_step(train: Train) -> None:
    pair = (*AVERAGED, *NORMED, *LENGTH)
    watched, plain = train(*pair, "telemetry=true"), train(*pair, "telemetry=false", "force=true")
    assert watched.column("loss") == plain.column("loss")
    assert watched.rows[-1]["val/loss"] == plain.rows[-1]["val/loss"]


# -- any of them by its name -----------------------------------------------------------------------


def test_a_setting_that_the_yaml_leaves_open_needs_no_sign() -> None:
    words = [
        "optimizer=adam,pytorch_optimizer",
        "optimizer.settings.k=5",
        "optimizer.lr=1",
        "task.a.b=1",
        "-m",
    ]
    assert opened(words) == [words[0], "++optimizer.settings.k=5", *words[2:]]
    assert opened(["optimizer=adam", "optimizer.settings.k=5"]) == [
        "optimizer=adam",
        "optimizer.settings.k=5",
    ]
    assert opened(["optimizer.settings.k=5", "optimizer=nothing"]) == [
        "optimizer.settings.k=5",
        "optimizer=nothing",
    ]


def test_name_and_settings_come_from_the_command_line(command: Command, results: Any) -> None:
    settings = (
        "optimizer.name=lookahead",
        "optimizer.settings.optimizer=Lion",
        "optimizer.settings.k=3",
    )
    output = command("optimizer=pytorch_optimizer", *settings, "optimizer.lr=0.01", *MLP, *LENGTH)
    assert output.code == 0, output.err
    (directory,) = (results / "runs/mlp/pytorch_optimizer_lookahead").iterdir()
    summary = json.loads((directory / "summary.json").read_text())
    assert (summary["status"], summary["optimizer"]) == ("done", "pytorch_optimizer_lookahead")
    assert "++optimizer.settings.k=3" in (directory / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("optimizer.name=Ranger22",),
            "pytorch-optimizer has no optimizer 'Ranger22'. Did you mean Ranger21",
        ),
        (
            ("optimizer.name=Adan", "optimizer.settings.beta=3"),
            "Adan of pytorch-optimizer has no setting 'beta'. Did",
        ),
        (
            ("optimizer.name=SAM",),
            "SAM wraps another optimizer; name it: optimizer.settings.base_optimizer=SGD",
        ),
    ],
)
def test_what_is_not_there_ends_the_command_with_what_is_close(
    command: Command, results: Any, arguments: tuple[str, ...], message: str
) -> None:
    output = command("optimizer=pytorch_optimizer", *arguments, *MLP, *LENGTH)
    assert output.code == 2
    assert message in output.err
    assert not (results / "runs").exists()


def test_one_that_cannot_run_here_is_a_result(train: Train) -> None:
    done = train("optimizer=pytorch_optimizer", "optimizer.name=SpectralSphere", *MLP, *LENGTH)
    assert done.status == "unsupported"
    assert "only supports 2D parameters" in done.summary["message"]


def test_one_that_differentiates_its_gradient_needs_a_task_that_allows_it(train: Train) -> None:
    done = train("optimizer=pytorch_optimizer", "optimizer.name=AdaHessian", *MLP, *LENGTH)
    assert (done.status, done.summary["counts"]["hvp"], done.summary["counts"]["grad"]) == (
        "done",
        8,
        8,
    )
    compiled = train(
        "optimizer=pytorch_optimizer", "optimizer.name=AdaHessian", *MLP, *LENGTH, "compile=true"
    )
    assert compiled.status == "unsupported"
