"""Levels: shares of an improvement, where they are stored, and which runs they hold for."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from suite import paths
from suite.config import targets
from suite.config.plan import Plan
from suite.errors import ConfigError

Planned = Callable[..., Plan]
COMMITTED = sorted((paths.CONFIGS / "targets").glob("*.yaml"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where targets are stored in this test, and where runs look for them."""
    monkeypatch.setattr(targets, "FOLDER", tmp_path / "targets")
    (tmp_path / "targets").mkdir()
    return tmp_path / "targets"


def entry_for(plan: Plan, **others: Any) -> dict[str, Any]:
    values = {50: 0.5, 80: 0.25, 95: 0.125, 100: 0.0625}
    return {
        "target": 0.0625,
        "levels": values,
        "setting": targets.setting(plan.config["task"]),
        **others,
    }


# -- shares ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("untrained", "final", "direction", "expected"),
    [
        (0.1, 0.9, "max", {50: 0.5, 80: 0.74, 95: 0.86, 100: 0.9}),
        (6.0, 3.0, "min", {50: 4.5, 80: 3.6, 95: 3.15, 100: 3.0}),
        (-2.0, -6.0, "min", {50: -4.0, 80: -5.2, 95: -5.8, 100: -6.0}),
        (1.0, -1.0, "min", {50: 0.0, 80: -0.6, 95: -0.9, 100: -1.0}),
        (1.0, 0.01, "min", {50: 0.505, 80: 0.208, 95: 0.0595, 100: 0.01}),  # two decades, not more
    ],
)
def test_levels_are_shares_of_the_difference(
    untrained: float, final: float, direction: str, expected: dict[int, float]
) -> None:
    levels = targets.ladder(untrained, final, direction)
    assert levels.scale == "linear"
    assert levels.values == pytest.approx(expected, abs=1e-12)


def test_a_fall_by_decades_is_shared_out_on_a_log_scale() -> None:
    levels = targets.ladder(100.0, 1e-8, "min")  # ten decades
    assert levels.scale == "log"
    assert levels.values == pytest.approx({50: 1e-3, 80: 1e-6, 95: 10**-7.5, 100: 1e-8}, rel=1e-3)
    assert targets.ladder(1e-8, 100.0, "max").scale == "linear"


@pytest.mark.parametrize("final", [0.0, -1e-17, 1e-20])
def test_a_gap_below_round_off_counts_as_round_off(final: float) -> None:
    levels = targets.ladder(4.0, final, "min")
    assert levels.scale == "log"
    assert levels.values[100] == pytest.approx(4 * 2.0**-52, rel=1e-3)
    assert levels.values[50] == pytest.approx(4 * 2.0**-26, rel=1e-3)


@pytest.mark.parametrize("direction", ["max", "min"])
@pytest.mark.parametrize("scale", [1e-9, 1.0, 12345.678])
def test_rounding_never_asks_for_more_than_was_reached(direction: str, scale: float) -> None:
    untrained, final = (0.1 * scale, 0.7123456 * scale)[:: 1 if direction == "max" else -1]
    sign = 1 if direction == "max" else -1
    for share, value in targets.ladder(untrained, final, direction).values.items():
        exact = untrained + share / 100 * (final - untrained)
        assert 0 <= sign * (exact - value) <= 1e-3 * abs(final - untrained), share


def test_what_has_four_digits_already_keeps_them() -> None:
    assert targets.ladder(0.1, 0.3, "max").values == {
        50: 0.2,
        80: 0.26,
        95: 0.29,
        100: 0.3,
    }  # 0.1 + 0.2 is above 0.3
    # digits of its own, not of the improvement
    assert targets.ladder(17.4, 1.7434985, "min").values[100] == 1.744


@pytest.mark.parametrize(
    ("untrained", "final", "direction", "message"),
    [
        (0.5, 0.5, "max", "no improvement"),
        (0.5, 0.4, "max", "from 0.5 to 0.4, which is no improvement"),
        (0.5, 0.6, "min", "no improvement"),
        (math.nan, 0.6, "min", "finite"),
        (math.inf, 0.6, "min", "from inf to 0.6"),
        (1.0, math.nan, "max", "finite"),
    ],
)
def test_where_nothing_improves_there_are_no_levels(
    untrained: float, final: float, direction: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        targets.ladder(untrained, final, direction)


# -- which runs they hold for ----------------------------------------------------------------------


def write(folder: Path, name: str, **entries: Any) -> None:
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(entries))


def test_a_run_carries_the_levels_of_its_task_and_scale(folder: Path, planned: Planned) -> None:
    before = planned("task=vit", "seed=11")
    assert before.config["levels"] is None
    write(folder, "any_name", quick=entry_for(before))

    assert planned("task=vit", "seed=12").config["levels"] == {
        50: 0.5,
        80: 0.25,
        95: 0.125,
        100: 0.0625,
    }
    assert planned("task=vit", "scale=small", "seed=12").config["levels"] is None
    assert planned("task=cnn", "seed=12").config["levels"] is None
    assert targets.of(before.config) == {
        50: 0.5,
        80: 0.25,
        95: 0.125,
        100: 0.0625,
    }  # of a run older than they are


def test_levels_of_another_scale_are_not_taken_though_the_problem_is_the_same(
    folder: Path, planned: Planned
) -> None:
    words = ("task=quadratic", "task.dimension=9", "task.condition=7")
    write(folder, "quadratic", quick=entry_for(planned(*words, "seed=13")))
    assert planned(*words, "seed=14").config["levels"] is not None
    assert planned(*words, "seed=14", "scale=small").config["levels"] is None


@pytest.mark.parametrize(
    "word", ["task.batch_size=7", "steps=3", "task.steps=3", "task.eval_every=3", "task.target=3"]
)
def test_how_a_task_is_trained_does_not_change_its_levels(
    folder: Path, planned: Planned, word: str
) -> None:
    write(folder, "vit", quick=entry_for(planned("task=vit", "seed=21")))
    assert planned("task=vit", word, "seed=22").config["levels"] is not None


@pytest.mark.parametrize("word", ["task.width=64", "task.val_size=400", "task.data=cifar10"])
def test_levels_of_another_model_or_other_data_are_not_taken(
    folder: Path, planned: Planned, word: str
) -> None:
    write(folder, "vit", quick=entry_for(planned("task=vit", "seed=31")))
    plan = planned("task=vit", word, "seed=32")
    assert plan.config["levels"] is None
    assert plan.config["target"] is None


def test_levels_are_no_part_of_a_runs_identity(folder: Path, planned: Planned) -> None:
    before = planned("task=mlp", "seed=41")
    write(folder, "mlp", quick=entry_for(before))
    after = planned("task=mlp", "seed=41", "log_every=7")  # log_every: composed anew
    assert before.config["levels"] is None
    assert after.config["levels"] is not None
    assert after.run_id == before.run_id


# -- the target ------------------------------------------------------------------------------------


def test_a_stored_target_is_that_of_a_task_without_one(folder: Path, planned: Planned) -> None:
    write(folder, "vit", quick=entry_for(planned("task=vit", "seed=51")))
    write(folder, "mlp", quick=entry_for(planned("task=mlp", "seed=51")))

    assert planned("task=vit", "seed=52").config["target"] == 0.0625
    assert planned("task=mlp", "seed=52").config["target"] == 0.822  # the task's own
    assert planned("task=vit", "task.target=0.5", "seed=52").config["target"] == 0.5
    assert planned("task=vit", "target=0.7", "seed=52").config["target"] == 0.7
    assert planned("task=vit", "target=null", "seed=52").config["target"] is None


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_what_is_stored_holds_for_the_task_as_it_is(path: Path, planned: Planned) -> None:
    """After a change of a task's defaults its levels are those of another problem: make them
    anew."""
    for scale, entry in targets.read(path).items():
        plan = planned(f"task={path.stem}", f"scale={scale}", "optimizer=adamw")
        assert plan.config["levels"] == entry["levels"], entry["origin"]["command"]
        assert tuple(entry["levels"]) == targets.SHARES
        assert entry["levels"][100] == entry["target"]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_what_is_stored_follows_from_the_runs_it_names(path: Path) -> None:
    for entry in targets.read(path).values():
        finals, starts = (
            [run[key] for run in entry["origin"]["runs"]] for key in ("final", "untrained")
        )
        assert len(finals) >= 3
        assert entry["final"] == sorted(finals)[len(finals) // 2]
        assert entry["untrained"] == sorted(starts)[len(starts) // 2]
        levels = targets.ladder(entry["untrained"], entry["final"], entry["direction"])
        assert (levels.scale, levels.values) == (entry["shared_out"], entry["levels"])


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_the_hundred_percent_level_is_the_target_where_a_task_has_it_from_its_baseline(
    path: Path, planned: Planned
) -> None:
    plan, entry = planned(f"task={path.stem}", "optimizer=adamw"), targets.read(path)["quick"]
    if "median final value" in (paths.CONFIGS / "task" / path.name).read_text():
        assert plan.config["task"]["target"] == entry["target"]
    else:
        assert entry["shared_out"] == "log"  # a gap, whose target is a precision
        assert plan.config["task"]["target"] < entry["target"]


@pytest.mark.parametrize(
    "content",
    [
        "quick: {levels: 3}",
        "quick: [",
        "- 1",
        "quick: {levels: {half: 1}, target: 1, setting: {}}",
        "quick: 7",
    ],
)
def test_a_damaged_file_is_named_with_what_makes_it_anew(folder: Path, content: str) -> None:
    (folder / "broken.yaml").write_text(content)
    with pytest.raises(
        ConfigError, match=r"targets/broken.yaml holds no levels.*python -m suite.target"
    ):
        targets.find({"_target_": "any"}, "quick")


def test_a_file_that_changes_is_read_again(folder: Path, planned: Planned) -> None:
    plan = planned("task=mlp", "seed=61")
    path = folder / "mlp.yaml"
    write(folder, "mlp", quick=entry_for(plan))
    assert targets.read(path)["quick"]["target"] == 0.0625
    write(folder, "mlp", quick=entry_for(plan, target=0.03125))
    assert targets.read(path)["quick"]["target"] == 0.03125
    assert targets.read(folder / "absent.yaml") == {}


def test_a_file_of_the_users_is_known_by_its_content(folder: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("x = 1\n")
    task = {"_target_": "tasks.custom.Custom", "file": str(mine), "digest": None, "steps": 5}
    stored = targets.setting(task)
    assert "file" not in stored
    write(folder, "mine", small={"target": 1.0, "levels": {50: 1.0}, "setting": stored})
    assert targets.find(task, "small") is not None
    mine.write_text("x = 2\n")
    assert targets.find(task, "small") is None


def test_levels_survive_the_record_of_a_run(
    folder: Path, planned: Planned, train: Callable[..., Any]
) -> None:
    words = ("optimizer=sgd", "task=quadratic", "steps=3", "task.dimension=7")
    write(folder, "quadratic", quick=entry_for(planned(*words)))
    done = train(*words, "log_every=1")
    assert done.config["levels"] == {50: 0.5, 80: 0.25, 95: 0.125, 100: 0.0625}
