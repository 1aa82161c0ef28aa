"""What is asked of the tuner, and the studies that a request comes to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suite.config import registry, targets
from suite.errors import ConfigError
from suite.tune import __main__ as tune
from suite.tune.study import TUNING_SEED, Request, studies

SMALL = ["task=quadratic", "scale=quick", "task.steps=5"]


# -- what is asked for -----------------------------------------------------------------------------


def test_a_command_line_is_a_request() -> None:
    request = tune.parse(
        ["optimizer=sgd,kfac", "task=mlp", "trials=5", "jobs=3", "scale=quick", "out=/x", "steps=7"]
    )

    assert (request.optimizers, request.tasks, request.trials, request.jobs) == (
        ["sgd", "kfac"],
        ["mlp"],
        5,
        3,
    )
    assert (list(request.overrides), request.out) == (["scale=quick", "steps=7"], Path("/x"))
    assert (request.sampler, request.pruner, request.seeds) == ("quasi", "none", 1)
    assert (
        request.command
        == "python -m suite.tune optimizer=sgd,kfac task=mlp trials=5 scale=quick steps=7"
    )


def test_options_of_the_study_are_part_of_the_command_that_repeats_it() -> None:
    request = tune.parse(["optimizer=sgd", "task=mlp", "sampler=tpe", "seeds=2", "storage=/shared"])
    assert (request.sampler, request.seeds, request.storage) == ("tpe", 2, Path("/shared"))
    assert (
        request.command
        == "python -m suite.tune optimizer=sgd task=mlp trials=12 sampler=tpe seeds=2"
    )


def test_help_is_printed_and_no_error(tune_command: Callable[..., Any]) -> None:
    code, out, _ = tune_command("--help")
    assert code == 0
    assert out.startswith("Equal-budget tuning.\n\n    python -m suite.tune")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["task=mlp"], "Equal-budget tuning.\n\n    python -m suite.tune"),
        (["optimizer=sgd"], "Missing: task=..."),
        (["optimizer=sdg", "task=mlp"], "optimizer=sdg is not one of "),
        (["optimizer=sgd", "task=mlp,mlq"], "task=mlq is not one of "),
        (
            ["optimizer=sgd", "task=mlp", "trials=0"],
            "trials must be a whole number from 1 on, got '0'",
        ),
        (
            ["optimizer=sgd", "task=mlp", "trials=many"],
            "trials must be a whole number from 1 on, got 'many'",
        ),
        (
            ["optimizer=sgd", "task=mlp", "trials="],
            "trials must be a whole number from 1 on, got ''",
        ),
        (
            ["optimizer=sgd", "task=mlp", "jobs=-1"],
            "jobs must be a whole number from 1 on, got '-1'",
        ),
        (
            ["optimizer=sgd", "task=mlp", "seeds=1.5"],
            "seeds must be a whole number from 1 on, got '1.5'",
        ),
        (
            ["optimizer=sgd", "task=mlp", "batched=32"],
            "a trial is a run by itself; jobs=2 runs two at a time",
        ),
        (
            ["optimizer=sgd", "task=mlp", "sampler=quasy"],
            "sampler=quasy is not one of quasi, random, tpe. Did you mean quasi?",
        ),
        (
            ["optimizer=sgd", "task=mlp", "pruner=hyperband"],
            "pruner=hyperband is not one of none, halving.",
        ),
        (
            ["optimizer=sgd", "task=mlp", "pruner=halving", "seeds=2"],
            "pruner=halving runs all trials side by side",
        ),
        (
            ["optimizer=sgd", "task=mlp", "pruner=halving", "sampler=tpe"],
            "pruner=halving runs all trials side by side",
        ),
        (
            ["optimizer=sgd", "task=mlp", "seed=3"],
            "seed= is not for this command: trials have seeds of their own",
        ),
        (
            ["optimizer=sgd", "task=mlp", "force=true"],
            "force= is not for this command: what is recorded is not tried again",
        ),
        (
            ["optimizer=sgd", "task=mlp", "tuned=mlp_sgd"],
            "tuned= is not for this command: tuning begins with the default settings",
        ),
        (["optimizer=sgd", "task=mlp", "quick"], "'quick' is not of the form key=value"),
        (["optimizer=sgd", "optimizer=kfac", "task=mlp"], "optimizer is given twice"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        tune.parse(arguments)
    assert message in str(refused.value)


def test_an_unknown_setting_is_refused_with_the_closest_before_anything_runs(
    tune_command: Callable[..., Any], home: Path
) -> None:
    code, _, err = tune_command(
        "optimizer=sgd", "task=quadratic", "trials=1", "jobs=1", "task.stepss=3"
    )
    assert code == 2
    assert "task quadratic has no 'stepss'. Did you mean steps?" in err
    assert not (home / "tune" / "runs").exists()
    assert not (home / "tune" / "studies").exists()


def test_a_storage_that_cannot_be_written_is_refused(
    tune_command: Callable[..., Any], home: Path
) -> None:
    (home / "file").write_text("")
    code, _, err = tune_command(
        "optimizer=sgd", *SMALL, "trials=1", "jobs=1", f"storage={home / 'file'}"
    )
    assert code == 2
    assert "the study cannot be kept in" in err
    assert "storage=PATH" in err


def test_a_search_space_that_makes_no_sense_is_refused(tune_command: Callable[..., Any]) -> None:
    code, _, err = tune_command(
        "optimizer=sgd", *SMALL, "trials=2", "jobs=1", "optimizer.search.lr.low=20"
    )
    assert code == 2
    assert err.startswith(
        "the search space of optimizer sgd: lr must have a low below its high, got 20 and 10.0"
    )


def test_a_space_that_names_no_setting_is_refused(tune_command: Callable[..., Any]) -> None:
    code, _, err = tune_command(
        "optimizer=sgd", *SMALL, "trials=2", "jobs=1", "+optimizer.search.rate={choices: [1]}"
    )
    assert code == 2
    assert "the search space names 'rate', which is no setting of torch.optim.SGD" in err


# -- studies ---------------------------------------------------------------------------------------


def request(*words: str) -> Request:
    return tune.parse([*words, "jobs=1", "out=/x"])


def test_what_the_command_line_sets_is_not_searched() -> None:
    (study,) = studies(
        request("optimizer=kfac", "task=mlp", "scale=quick", "optimizer.damping=0.1")
    )
    assert list(study.space) == ["lr", "kl_clip"]
    assert study.defaults == {"lr": 0.1, "kl_clip": 0.001}
    assert study.plan.config["optimizer"]["damping"] == 0.1


def test_a_space_may_be_changed_on_the_command_line_and_is_another_study() -> None:
    (study,) = studies(request("optimizer=sgd", *SMALL))
    (wider,) = studies(request("optimizer=sgd", *SMALL, "optimizer.search.lr.high=30"))
    assert (study.space["lr"]["high"], wider.space["lr"]["high"]) == (10.0, 30)
    assert study.name != wider.name


def test_the_same_runs_asked_for_in_other_words_are_the_same_study() -> None:
    names = [
        studies(request("optimizer=sgd", *words))[0].name
        for words in (SMALL, [*SMALL[::-1], "log_every=3"])
    ]
    assert names[0] == names[1]
    (longer,) = studies(request("optimizer=sgd", *SMALL[:-1], "task.steps=6"))
    assert longer.name != names[0]


def test_the_tuning_seeds_are_none_of_those_that_comparisons_use() -> None:
    experiment = registry.read("experiment", "quick")
    seeds = [int(word) for word in experiment["hydra"]["sweeper"]["params"]["seed"].split(",")]
    (study,) = studies(request("optimizer=sgd", *SMALL, "seeds=3"))
    assert study.seeds == [TUNING_SEED, TUNING_SEED + 1, TUNING_SEED + 2]
    assert study.plan.seed == TUNING_SEED
    assert not set(study.seeds) & set(seeds)


def test_a_stored_target_does_not_make_trials_other_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    (before,) = studies(request("optimizer=sgd", *SMALL, "task.target=null"))
    monkeypatch.setattr(
        targets, "find", lambda *given: {"target": 0.125, "levels": {50: 0.25, 100: 0.125}}
    )
    (after,) = studies(request("optimizer=sgd", *SMALL, "task.target=null"))
    assert after.plan.config["levels"] == {50: 0.25, 100: 0.125}
    assert after.plan.config["target"] is None
    assert (after.name, after.plan.run_id) == (before.name, before.plan.run_id)
