"""What the command line says.

Outcomes on standard output, refusals on standard error with exit code 2.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from suite.config import overrides, registry

Command = Callable[..., Any]
Module = Callable[[str, str], str]

SGD = ("optimizer=sgd", "task=quadratic", "steps=3")


@pytest.mark.parametrize(
    ("group", "typo", "meant"),
    [
        ("optimizer", "sdg", "sgd"),
        ("optimizer", "kfax", "kfac"),
        ("task", "quadratc", "quadratic"),
        ("schedule", "cosin", "cosine"),
        ("experiment", "quik", "quick"),
    ],
)
def test_an_unknown_name_is_refused_with_the_closest_and_all_names(
    command: Command, group: str, typo: str, meant: str
) -> None:
    output = command(f"{group}={typo}")

    assert (output.code, output.out) == (2, "")
    assert f"There is no {group} {typo!r}. Did you mean {meant}" in output.err
    assert f"Known: {', '.join(registry.names(group))}\n" in output.err
    assert "Traceback" not in output.err


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("optimizer=Ranger21", "More: optimizer=pytorch_optimizer optimizer.name=..."),
        ("task=my_net.py", "A file of your own: task=custom task.file=my_net.py"),
        ("task=mine/my_net.py", "A file of your own: task=custom task.file=mine/my_net.py"),
        ("task.file=my (net).py", "quote it twice: 'task.file=\"my (net).py\"'"),
    ],
)
def test_what_stands_elsewhere_is_shown_the_way(
    command: Command, argument: str, message: str
) -> None:
    output = command(argument)

    assert (output.code, output.out) == (2, "")
    assert message in output.err


@pytest.mark.parametrize(
    ("argument", "instead"),
    [
        ("tuned=null", "for none type ~tuned"),
        ("experiment=null", "leave experiment= out for the default"),
    ],
)
def test_no_choice_is_typed_otherwise(command: Command, argument: str, instead: str) -> None:
    output = command("optimizer=adamw", "task=rosenbrock", argument)

    assert (output.code, output.out) == (2, "")
    assert output.err == f"{argument} is no choice: {instead}\n"


def test_a_name_of_a_sweeps_list_is_refused_before_any_run(command: Command, results: Path) -> None:
    output = command("-m", "optimizer=sgd,sdg", "task=quadratic", "steps=3")

    assert (output.code, output.out) == (2, "")
    assert "There is no optimizer 'sdg'. Did you mean sgd" in output.err
    assert not (results / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message", "known"),
    [
        (
            ("optimizer=adam", "optimizer.beta=1"),
            "optimizer adam has no 'beta'. Did you mean betas?",
            "lr, betas",
        ),
        (("optimizer.lrr=1",), "optimizer adamw has no 'lrr'. Did you mean lr?", "lr, betas"),
        (
            ("optimizer=muon", "optimizer.hidden.lr=1"),
            "optimizer muon has no 'hidden.lr'.",
            "lr, momentum",
        ),
        (
            ("optimizer=sgd", "+optimizer.lrr=1"),
            "torch.optim.SGD has no hyperparameter 'lrr'. Did you mean lr?",
            "lr,",
        ),
        (
            ("task=mlp", "task.hiden=[8]"),
            "task mlp has no 'hiden'. Did you mean hidden?",
            "data, hidden, ",
        ),
        (
            ("-m", "optimizer=adam,sgd", "optimizer.betas=[0,0]"),
            "optimizer sgd has no 'betas'.",
            "lr, weight_decay",
        ),
        (
            ("-m", "task=quadratic,mlp", "task.noise=1"),
            "task mlp has no 'noise'.",
            "data, hidden, ",
        ),
        (
            ("optimizer=pytorch_optimizer", "optimizer.beta=1"),
            "pytorch_optimizer has no 'beta'.",
            "settings.NAME",
        ),
        (
            ("schedule=cosine", "schedule.Tmax=3"),
            "schedule cosine has no 'Tmax'. Did you mean T_max?",
            "T_max",
        ),
        (
            ("wandb.modee=offline",),
            "wandb has no 'modee'. Did you mean mode?",
            "mode, project, job_type",
        ),
        (
            ("stepss=3",),
            "There is no setting 'stepss'. Did you mean steps?",
            "seed, steps, stop_at_target",
        ),
        (
            ("wandbb.mode=offline",),
            "There is no setting 'wandbb.mode'. Did you mean wandb?",
            "wandb",
        ),
        (
            ("task.path=x.txt",),
            "These have it: char_gru, char_rnn, char_transformer. Add task=NAME",
            "data, hidden, ",
        ),
        (
            ("experiment=quick", "task.path=x"),
            "task quadratic (of experiment=quick) has no 'path'.",
            "dimension, ",
        ),
        (
            ("experiment=quick", "optimizer.lrr=1"),
            "optimizer sgd (of experiment=quick) has no 'lrr'.",
            "lr, ",
        ),
        (
            ("experiment=nanogpt_char", "task.pth=x"),
            "task char_transformer (of experiment=nanogpt_char) has",
            "path, ",
        ),
        (
            ("experiment=nanogpt_char", "task=mlp", "task.path=x"),
            "task mlp has no 'path'.",
            "data, hidden, ",
        ),
        (
            ("experiment=nanogpt_char", "schedule.wormup=1"),
            "schedule warmup_cosine (of experiment",
            "warmup, ",
        ),
        (("~optimizer.rate",), "optimizer adamw has no 'rate'.", "lr, betas"),
    ],
)
def test_an_unknown_key_is_refused_with_the_closest_and_all_keys(
    command: Command, arguments: tuple[str, ...], message: str, known: str
) -> None:
    output = command(*arguments)

    assert (output.code, output.out) == (2, "")
    assert message in output.err
    assert known in re.split(r"It has: |Known: ", output.err)[1]
    assert "search" not in output.err
    assert "Traceback" not in output.err


def test_a_setting_that_only_the_swept_choices_have_reaches_their_runs(
    command: Command, results: Path
) -> None:
    """The default task has no `problem_seed`, the default optimizer no `momentum`."""
    swept = ("task=quadratic,noisy_quadratic", "optimizer=momentum,nesterov", "steps=2")
    output = command("-m", *swept, "task.problem_seed=7", "optimizer.momentum=0.5")

    assert output.code == 0, output.err
    configs = [
        yaml.safe_load(path.read_text()) for path in (results / "runs").glob("*/*/*/config.yaml")
    ]
    assert [(one["task"]["problem_seed"], one["optimizer"]["momentum"]) for one in configs] == [
        (7, 0.5)
    ] * 4
    assert all("task.problem_seed=7 optimizer.momentum=0.5" in one["command"] for one in configs)


@pytest.mark.parametrize(
    ("arguments", "after"),
    [
        (("-m", "task=char_rnn", "task.path=x"), "task.path=x"),  # Hydra knows the one task
        (("task=mlp", "task.path=x"), "task.path=x"),  # no sweep
        (("-m", "task=char_rnn,char_gru", "task.path=x"), "task.path=choice(x)"),
        (("-m", "task=char_rnn,char_gru", "task.path='a b,c'"), "task.path=choice('a b,c')"),
        (("-m", "task=char_rnn,char_gru", "task.path=x,y"), "task.path=x,y"),
        (("-m", "task=char_rnn,char_gru", "task.steps=9"), "task.steps=9"),
        (("experiment=nanogpt_char", "task.path=x"), "task.path=choice(x)"),
        (("experiment=nanogpt_char", "--cfg", "job", "task.path=x"), "task.path=x"),
        (("experiment=nanogpt_char", "hydra.mode=RUN", "task.path=x"), "task.path=x"),
        (("experiment=nanogpt_char", "schedule.warmup=5"), "schedule.warmup=5"),
    ],
)
def test_only_what_hydra_would_refuse_too_early_is_kept_for_the_runs(
    arguments: tuple[str, ...], after: str
) -> None:
    assert overrides.deferred(arguments) == [*arguments[:-1], after]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("scale=quik", "scale=quik is not one of quick, small, full. Did you mean quick?"),
        (
            "precision=float23",
            "precision=float23 is not one of auto, float32, float64, bf16. Did you mean",
        ),
        (
            "wandb.mode=offlin",
            "wandb.mode=offlin is not one of offline, online, disabled. Did you mean",
        ),
        ("device=banana", "device=banana is not a device; use auto, cpu or cuda"),
        ("steps=0", "steps must be a whole number above 0, got 0"),
        ("steps=2.5", "steps must be a whole number above 0, got 2.5"),
        ("seed=one", "seed must be a whole number, got 'one'"),
        ("target=high", "target must be a number or null, got 'high'"),
        ("threads=0", "threads must be auto or a whole number from 1 on, got 0"),
        ("force=maybe", "force must be true or false, got 'maybe'"),
        ("optimizer.lr=-1", "Invalid learning rate: -1"),
        ("optimizer.lr=fast", "torch.optim.SGD cannot be made from lr='fast'"),
        ("task.dimension=1", "dimension must be at least 2, got 1"),
        ("task.spectrum=lin", "spectrum must be one of log, linear, clustered, got 'lin'"),
        ("task.eval_every=0", "eval_every must be above 0, got 0"),
        (
            "optimizer._target_=os.system",
            "os.system is not on the allow-list (optimizers, tasks, torch.optim, ",
        ),
    ],
)
def test_a_value_out_of_range_is_refused_before_training(
    command: Command, results: Path, argument: str, message: str
) -> None:
    output = command(*SGD, argument)

    assert (output.code, output.out) == (2, "")
    assert message in output.err
    assert "Traceback" not in output.err
    assert not (results / "runs").exists()


def test_a_hyperparameter_of_our_own_methods_is_refused_by_name_and_value(command: Command) -> None:
    output = command("optimizer=kfac", "task=mlp", "optimizer.damping=-1")
    assert (output.code, output.err) == (2, "damping must be a number in (0, inf), got -1\n")


def test_an_absent_data_set_is_refused_with_the_command_that_brings_it(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUITE_DATA", str(tmp_path / "empty"))
    output = command("optimizer=sgd", "task=mlp", "task.data=mnist")

    assert (output.code, output.out) == (2, "")
    assert "python scripts/fetch_data.py mnist" in output.err
    assert str(tmp_path / "empty") in output.err


def test_a_run_says_how_it_went_and_where_its_record_is(command: Command, results: Path) -> None:
    output = command(*SGD)
    (directory,) = (results / "runs/quadratic/sgd").iterdir()

    assert (output.code, output.err) == (0, "")
    outcome, place = output.out.splitlines()
    assert re.fullmatch(r"sgd on quadratic, seed 0: done, gap [\d.]+, 0\.0 s of steps", outcome)
    assert place.strip() == str(directory)

    again = command(*SGD)
    assert again.code == 0
    assert "(done before, skipped; force=true repeats it)" in again.out
    assert "skipped" not in command(*SGD, "force=true").out


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (
            ("optimizer=kfac", "task=quadratic"),
            2,
            "unsupported: kfac needs layers, which quadratic does not offer",
        ),
        (("optimizer=sgd", "task=quadratic", "optimizer.lr=1e200"), 0, "diverged"),
        (("optimizer=sgd", "task=quadratic", "max_seconds=1e-9"), 0, "timeout"),
        (("optimizer=sgd", "task=quadratic", "target=100", "stop_at_target=true"), 0, "target"),
    ],
)
def test_the_exit_code_tells_whether_the_request_could_be_met(
    command: Command, arguments: tuple[str, ...], code: int, word: str
) -> None:
    output = command(*arguments)
    assert output.code == code
    assert f"seed 0: {word}" in output.out


def test_an_error_in_training_shows_its_traceback_and_exits_with_one(
    command: Command, module: Module
) -> None:
    source = (
        "import torch\nclass Broken(torch.optim.SGD):\n    def step(self, closure):\n"
        "        raise KeyError('gone')\n"
    )
    name = module("broken_optimizer", source)
    output = command(*SGD, f"optimizer._target_={name}.Broken", f"allow=[{name}]")

    assert output.code == 1
    assert "seed 0: error: KeyError: 'gone'" in output.out
    assert "Traceback" in output.err


def test_an_error_in_a_constructor_that_no_one_expects_is_not_hidden(
    command: Command, module: Module
) -> None:
    name = module(
        "broken_constructor",
        "def make(params, lr, weight_decay):\n    raise ZeroDivisionError('oh')\n",
    )
    with pytest.raises(ZeroDivisionError):
        command(*SGD, f"optimizer._target_={name}.make", f"allow=[{name}]")


def test_the_recorded_command_repeats_the_run(command: Command, results: Path) -> None:
    command(*SGD, "optimizer.lr=0.25")
    (directory,) = (results / "runs/quadratic/sgd").iterdir()
    words = shlex.split(yaml.safe_load((directory / "config.yaml").read_text())["command"])

    assert words[:3] == ["python", "-m", "suite"]
    assert "optimizer.lr=0.25" in words
    assert "skipped" in command(*words[3:]).out


def test_help_names_every_choice_and_setting(command: Command) -> None:
    output = command("--help")

    assert output.code == 0
    for name in (
        *registry.names("optimizer"),
        *registry.names("task"),
        *registry.names("schedule"),
    ):
        assert re.search(rf"\b{name}\b", output.out), name
    groups = output.out.partition("Settings")[0]
    offered = "optimizer task schedule experiment tuned published"
    assert re.findall(r"^(\w+): ", groups, re.M) == offered.split()
    assert not [name for name in registry.names("tuned") if re.search(rf"\b{name}\b", groups)]
    assert max(map(len, groups.splitlines())) <= 118
    assert all(
        setting in output.out
        for setting in ("seed:", "steps:", "stop_at_target:", "precision:", "Examples:")
    )
