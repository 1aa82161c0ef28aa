"""`python -m suite.compare` from end to end.

What is printed, in every shape, and what is said to bad input.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suite.compare.__main__ import main

Sown = Callable[..., Any]
Compare = Callable[..., tuple[int, str, str]]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def compare(runs: Path, capsys: pytest.CaptureFixture[str]) -> Compare:
    """The command on the test's runs: exit code, standard output, standard error."""

    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code: Any
        try:
            code = main([*words, "--runs", str(runs)])
        except SystemExit as error:
            code = error.code
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def fill(sown: Sown, runs: Path) -> Callable[..., None]:
    """Three seeds of every method given with its cost on a task; failures are None."""

    def write(
        task: str = "mlp", steps: int = 400, config: Any = (), **methods: float | None
    ) -> None:
        for name, cost in methods.items():
            for seed in range(3):
                planted = (1.0, None) if cost is None else (0.2, cost + seed)
                run = sown(
                    name,
                    seed,
                    planted[1],
                    planted[0] + 0.01 * seed,
                    task=task,
                    steps=steps,
                    config=config,
                )
                run.write(runs)

    return write


def test_one_problem_is_a_sentence_with_its_reasons(fill: Any, compare: Compare) -> None:
    fill(kfac=60, adamw=200, sgd=300)
    code, out, err = compare("kfac", "adamw", "task=mlp")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert re.fullmatch(
        r"mlp: kfac needs 0\.30x the steps \[0\.\d\d, 0\.\d\d\], 0\.30x the seconds \[.*\], "
        r"0\.30x the gradient-"
        r"equivalents \[.*\], 1\.00x the memory; reaches the target in 3 of 3 seeds against 3 "
        r"of 3; faster at 95 %\.",
        lines[0],
    )
    assert (
        lines[1]
        == "  final error 0.2100 against 0.2100: no difference; which is better cannot be told at "
        "95 %"
    )
    assert all(line.startswith("  ") for line in lines[1:])
    assert any(line.startswith("  tuning: ") for line in lines)


def test_several_problems_end_in_a_summary(fill: Any, compare: Compare) -> None:
    fill("mlp", kfac=60, adamw=200)
    fill("cnn", kfac=200, adamw=60)
    fill("rnn", kfac=80, adamw=80)
    code, out, _ = compare("kfac", "adamw")
    verdicts = [line for line in out.splitlines() if not line.startswith("  ")]
    assert code == 0
    assert [line.partition(":")[0] for line in verdicts[:3]] == ["cnn", "mlp", "rnn"]
    assert verdicts[3].startswith(
        "Over 3 problems: kfac better on 1, worse on 1, cannot be told on 1; P(kfac beats adamw) "
        "0.5"
    )
    assert out.count("seconds: by the runs' own clock") == 1  # said once for all of them


def test_a_test_function_is_shown_and_not_counted(fill: Any, compare: Compare) -> None:
    fill("mlp", kfac=60, adamw=200)
    fill("bowl", kfac=60, adamw=200, config=(("task", {"_target_": "tasks.functions.bowl.Bowl"}),))
    _, out, _ = compare("kfac", "adamw")
    assert "bowl: kfac needs" in out
    assert "Over 1 problem (test functions left out: 1): kfac better on 1, worse on 0" in out


def test_json_has_the_numbers(fill: Any, compare: Compare) -> None:
    fill(kfac=60, adamw=None)
    _, out, _ = compare("kfac", "adamw", "--json")
    (verdict,) = json.loads(out)["verdicts"]
    assert verdict["reached"] == [3, 0]
    assert verdict["ratios"]["steps"]["bound"] == "at most"
    assert verdict["ratios"]["steps"]["low"] == 0.0
    assert verdict["ratios"]["steps"]["value"] == pytest.approx((60 * 61 * 62) ** (1 / 3) / 400)
    assert (verdict["a"], verdict["outcome"], verdict["decided_by"]) == ("kfac", "a", "seconds")


def test_markdown_is_a_list(fill: Any, compare: Compare) -> None:
    fill(kfac=60, adamw=200)
    _, out, _ = compare("kfac", "adamw", "--markdown")
    assert out.startswith("- mlp: kfac needs")
    assert out.splitlines()[1].startswith("  - final error")


def test_levels_are_chosen_by_their_share(fill: Any, compare: Compare) -> None:
    fill(kfac=60, adamw=200, config=(("levels", {80: 0.9, 100: 0.5}),))
    assert "reaches the 80 % level" in compare("kfac", "adamw", "level=80")[1]
    assert "reaches the 100 % level" in compare("kfac", "adamw", "level=100 %")[1]
    code, _, err = compare("kfac", "adamw", "level=70")
    assert code == 2
    assert "mlp has no level 70" in err
    assert "It has: 80 %, 100 %, target" in err


def test_settings_choose_runs(fill: Any, compare: Compare) -> None:
    fill(kfac=60, adamw=200)
    fill(kfac=160, adamw=200, config=(("scale", "full"),))
    code, out, _ = compare("kfac", "adamw", "scale=full")
    assert out.startswith("mlp: kfac needs 0.80x the steps")
    # task.data, and both scales
    assert compare("kfac", "adamw", "data=digits")[1].count(": kfac needs") == 2
    code, _, err = compare("kfac", "adamw", "scale=ful")
    assert code == 2
    assert "no run has scale=ful. Did you mean full? There are: full, quick" in err
    code, _, err = compare("kfac", "adamw", "scal=full")
    assert (code, "no run has a setting 'scal'. Did you mean scale?" in err) == (2, True)


def test_an_experiment_is_a_filter(fill: Any, compare: Compare) -> None:
    fill(kfac=60, adamw=200, config=(("experiment", "one"),))
    assert compare("kfac", "adamw", "--experiment", "one")[0] == 0
    code, _, err = compare("kfac", "adamw", "--experiment", "two")
    assert (code, "no run has experiment=two" in err) == (2, True)


def test_a_method_without_runs_gets_the_command_that_makes_some(
    fill: Any, compare: Compare
) -> None:
    fill(sgd=60, adamw=200)
    code, _, err = compare("kfac", "adamw", "task=mlp")
    assert code == 2
    assert "there is no run of kfac. There are runs of: adamw, sgd" in err
    assert "python -m suite -m optimizer=kfac task=mlp scale=quick seed=0,1,2" in err


def test_a_misspelt_method_is_guessed(fill: Any, compare: Compare) -> None:
    fill(kfac=60, adamw=200)
    code, _, err = compare("kfca", "adamw")
    assert code == 2
    assert "there is no run of kfca. Did you mean kfac?" in err
    assert "suite -m" not in err  # there is no such optimizer


def test_no_runs_at_all(compare: Compare, runs: Path) -> None:
    code, _, err = compare("kfac", "adamw")
    assert code == 2
    assert f"no runs in {runs}" in err


@pytest.mark.parametrize("words", [(), ("kfac",), ("kfac", "adamw", "sgd")])
def test_two_methods_make_a_pair(fill: Any, compare: Compare, words: tuple[str, ...]) -> None:
    fill(kfac=60, adamw=200)
    code, _, err = compare(*words)
    assert code == 2
    assert (
        f"two methods are compared, got {len(words)}: python -m suite.compare kfac adamw task=mlp"
        in err
    )


def test_a_method_is_not_compared_with_itself(fill: Any, compare: Compare) -> None:
    fill(kfac=60, adamw=200)
    assert "kfac and kfac are the same runs; name two methods" in compare("kfac", "kfac")[2]


def test_budgets_are_never_mixed_unless_it_is_typed(fill: Any, compare: Compare) -> None:
    fill(kfac=60, steps=200)
    fill(adamw=300, steps=400)
    code, _, err = compare("kfac", "adamw")
    assert code == 2
    assert "kfac and adamw have no problem in common, and problems are never mixed silently." in err
    assert "  kfac: mlp (steps=200)\n  adamw: mlp (steps=400)" in err
    assert (
        "They differ in steps=200 against 400. To set them against each other all the same: "
        "--across steps" in err
    )
    assert "python -m suite -m optimizer=adamw task=mlp scale=quick seed=0,1,2" in err
    code, out, _ = compare("kfac", "adamw", "--across", "steps")
    assert code == 0
    assert out.startswith("mlp (steps=200): kfac needs 0.20x the steps")
    assert "  not the same problem: steps=200 against 400\n" in out


def test_devices_can_be_compared_across_by_name(fill: Any, compare: Compare) -> None:
    fill(kfac=60, config=(("device", "cuda"),))
    fill(adamw=200)
    assert "They differ in device=cuda against cpu" in compare("kfac", "adamw")[2]
    code, out, _ = compare("kfac", "adamw", "--mixed-devices")
    assert code == 0
    assert "seconds: measured on cpu, Some CPU, 1 thread and cuda" in out
    assert "  not the same problem: device=cuda against cpu\n" in out


def test_problems_of_one_side_only_are_named(fill: Any, compare: Compare) -> None:
    fill("mlp", kfac=60, adamw=200)
    fill("cnn", kfac=60)
    _, out, err = compare("kfac", "adamw")
    assert "cnn" not in out
    assert "not compared: cnn (no run of adamw)" in err


def test_one_of_several_configurations_has_to_be_named(
    sown: Sown, runs: Path, compare: Compare
) -> None:
    for seed in range(3):
        for rate, cost in ((0.1, 60), (0.2, 100)):
            sown("kfac", seed, cost + seed, hyper=(("lr", rate),)).write(runs)
        sown("adamw", seed, 200 + seed).write(runs)
    code, _, err = compare("kfac", "adamw")
    assert code == 2
    assert (
        "kfac has 2 configurations on mlp; name one of them:\n  'kfac [lr=0.1]'\n  'kfac [lr=0.2]'"
        in err
    )
    for typed in ("kfac [lr=0.2]", "kfac[lr=0.2]"):
        assert compare(typed, "adamw")[1].startswith("mlp: kfac [lr=0.2] needs 0.50x the steps")
    assert compare("kfac[lr=0.1]", "kfac[lr=0.2]")[1].startswith(
        "mlp: kfac [lr=0.1] needs 0.60x the steps"
    )
    assert (
        "no run of kfac has these settings: kfac[lr=0.3]\nThere are: kfac [lr=0.1]"
        in compare("kfac[lr=0.3]", "adamw")[2]
    )
    assert "'kfac[lr]' is no method" in compare("kfac[lr]", "adamw")[2]


def test_repeats_and_damage_are_said(sown: Sown, fill: Any, runs: Path, compare: Compare) -> None:
    fill(kfac=60, adamw=200)
    again = sown("kfac", 0, 60, 0.2, config=(("experiment", "again"),)).write(runs)
    (sown("kfac", 7, 60).write(runs) / "summary.json").write_text("{")
    _, out, err = compare("kfac", "adamw")
    assert "in 3 of 3 seeds" in out
    assert "warning: left out as repeats of a (configuration, seed): mlp/kfac/" in err
    assert "warning: skipped mlp/kfac/" in err
    assert again.exists()


def test_a_terminal_gets_bold_and_wrapped_lines(fill: Any, runs: Path, tmp_path: Path) -> None:
    fill(kfac=60, adamw=200)
    script = (
        "import sys; from pathlib import Path; from rich.console import Console;from suite.compare "
        "import output as o;from suite.results.load import load_runs; from suite.results.frame "
        "import build_records;from suite.compare.verdict import judge; from suite.compare.sides "
        "import CostTable, sides;r = build_records(*load_runs(Path(sys.argv[1]))); s = sides(r, "
        "'mlp'); l = CostTable(r);v = judge(l, s['kfac'], s['adamw']);o.show(l, [v], None, "
        "Console(force_terminal=True, width=60, highlight=False))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(runs)], capture_output=True, text=True, check=True
    )
    assert "\x1b[1m" in done.stdout
    assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in done.stdout.splitlines()) <= 60


def test_help_needs_neither_pandas_nor_torch() -> None:
    script = (
        "import sys, suite.compare; print(sorted({'pandas', 'torch', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
