"""What a study found.

The file says what was tried, what it cost, and where its values may not be the best.
"""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from suite.tune.study import Request, Study
from suite.tune.trial import Trial
from suite.tune.winner import compared, conclude

SPACE = {
    "lr": {"low": 1e-2, "high": 1.0, "log": True},
    "damping": {"low": 1e-3, "high": 1.0, "log": True},
    "kl_clip": {"choices": [0.001, 0.01, 0.1]},
}


def study_of(
    out: Path, optimizer: str = "kfac", space: dict[str, Any] | None = None, trials: int = 3
) -> Study:
    request = Request(
        ["sgd", optimizer], ["mlp"], trials=trials, jobs=1, overrides=["scale=quick"], out=out
    )
    plan: Any = SimpleNamespace(
        optimizer=optimizer, task="mlp", run_id="01234567", config={"optimizer": {}}
    )
    return Study(optimizer, "mlp", plan, SPACE if space is None else space, request)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return study_of(tmp_path / "tuned")


def finished(number: int, value: float | None, settings: dict[str, Any], **others: Any) -> Trial:
    arguments = {
        "status": "done",
        "metric": "accuracy",
        "sign": 1.0,
        "seconds": 2.5,
        "grad_equivalents": 400.0,
        **others,
    }
    return Trial(number, settings, value=value, **arguments)


def written(study: Study, name: str = "mlp_kfac") -> tuple[str, dict[str, Any]]:
    text = (study.request.out / f"{name}.yaml").read_text()
    return text, yaml.safe_load(text)


def test_the_best_setting_is_written_with_where_it_came_from(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = [
        finished(1, 0.75, {"lr": 0.05, "damping": 0.1, "kl_clip": 0.01}),
        finished(0, 0.5, {}),
        finished(
            2,
            None,
            {"lr": 0.9, "damping": 0.1, "kl_clip": 0.01},
            status="diverged",
            grad_equivalents=2300.0,
        ),
    ]
    assert conclude(study, trials) == study.request.out / "mlp_kfac.yaml"
    text, values = written(study)
    cost = "3 trials, 1 diverged, 7.5 s of steps, 3.1e+03 gradient-equivalents"

    assert values == {"optimizer": {"lr": 0.05, "damping": 0.1, "kl_clip": 0.01}}
    assert text.splitlines()[:4] == [
        "# @package _global_",
        "# Found by: python -m suite.tune optimizer=sgd,kfac task=mlp trials=3 scale=quick",
        "# Trial 1 of 3: final validation accuracy 0.75 (trial 0, the default setting: 0.5).",
        f"# Study {study.name}: sampler quasi, pruner none, seed 1000; {cost}.",
    ]
    assert "edge" not in text
    assert f"tuning kfac on mlp: {cost}\n" in capsys.readouterr().out


def test_for_an_error_the_smaller_value_is_better(study: Study) -> None:
    trials = [
        finished(n, v, {"lr": 0.1 * (n + 1)}, sign=-1.0) for n, v in enumerate([0.5, 0.25, 0.75])
    ]
    conclude(study, trials)
    assert written(study)[1] == {"optimizer": {"lr": 0.2}}


def test_the_default_wins_a_tie_and_then_nothing_is_set(study: Study) -> None:
    conclude(study, [finished(1, 0.5, {"lr": 0.3}), finished(0, 0.5, {})])
    text, values = written(study)
    assert values == {"optimizer": {}}
    assert (
        "# Trial 0 of 2: final validation accuracy 0.5 (trial 0, the default setting: 0.5)." in text
    )


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_failure_is_worse_than_the_worst_value(study: Study, sign: float) -> None:
    lost = finished(0, None, {}, sign=sign, status="timeout")
    assert lost.score == -math.inf
    conclude(study, [lost, finished(1, -1e300 * sign, {"lr": 0.05}, sign=sign)])
    assert "(trial 0, the default setting: timeout)" in written(study)[0]


def test_a_trial_that_was_stopped_early_does_not_win_by_its_value_there(study: Study) -> None:
    conclude(study, [finished(0, 0.5, {}), finished(1, 0.9, {"lr": 0.3}, status="pruned")])
    text, values = written(study)
    assert values == {"optimizer": {}}
    assert "2 trials, 1 pruned" in text


def test_a_pair_in_which_nothing_ended_well_gets_no_file(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    assert conclude(study, [finished(n, None, {}, status="unsupported") for n in range(3)]) is None
    assert not study.request.out.exists()
    assert (
        "kfac on mlp: no trial of 3 ended well (3 unsupported); nothing is written"
        in capsys.readouterr().out
    )


def test_the_file_and_the_terminal_say_so_when_a_value_lies_at_the_edge(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    conclude(study, [finished(0, 0.1, {}), finished(1, 0.5, {"lr": 1.0, "damping": 0.1})])
    warning = "lr lies at the edge of its search space (1 of 0.01 to 1)."
    assert f"# {warning}" in written(study)[0].splitlines()
    assert f"kfac on mlp: {warning}" in capsys.readouterr().out


def test_settings_of_inner_optimizers_are_nested(tmp_path: Path) -> None:
    settings = {"hidden.lr": 0.05, "rest.lr": 1e-05}
    study = study_of(tmp_path, "muon", {key: {"low": 1e-06, "high": 1.0} for key in settings})
    conclude(study, [finished(0, 0.1, {}), finished(1, 0.5, settings)])
    assert written(study, "mlp_muon")[1] == {
        "optimizer": {"hidden": {"lr": 0.05}, "rest": {"lr": 1e-05}}
    }


def test_values_of_every_kind_come_back_as_they_were(tmp_path: Path) -> None:
    settings = {"a": 1e-05, "b": True, "c": None, "d": "strong_wolfe", "e": 10}
    study = study_of(
        tmp_path, space={name: {"choices": [value]} for name, value in settings.items()}
    )
    conclude(study, [finished(0, 0.1, {}), finished(1, 0.5, settings)])
    assert written(study)[1] == {"optimizer": settings}


def test_several_seeds_are_named(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    study = Study(
        study.optimizer,
        study.task,
        study.plan,
        study.space,
        Request(["kfac"], ["mlp"], seeds=2, out=tmp_path),
    )
    conclude(study, [finished(0, 0.1, {})])
    assert "seeds 1000, 1001; 1 trial, " in written(study)[0]


def test_studies_that_are_not_equal_are_said_to_be_so(tmp_path: Path) -> None:
    ours, none = study_of(tmp_path, trials=12), study_of(tmp_path, "plain", {}, trials=12)
    assert compared([ours, study_of(tmp_path, "adamw", trials=12)], [0, 0]) == []
    assert compared([ours, none], [0, 0]) == [
        "not equally tuned on mlp; trials: kfac 12, plain 1 (nothing to search is one trial, the "
        "default)"
    ]
    (sentence,) = compared([ours], [8])
    assert sentence.startswith(
        "kfac on mlp: the study has 8 trials more, of a larger request; the best of the first"
    )
