"""The examples of README and docs are complete.

Their files are written, their commands typed, their scripts run, in an empty folder.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EXTENDING = (ROOT / "docs" / "guide" / "your-optimizer.md").read_text()
OBJECTIVE = (ROOT / "docs" / "reference" / "objective.md").read_text()
FILE = re.compile(r"`(mine/[\w./]+)`:\n\n```\w+\n(.*?)```", re.DOTALL)
COMMAND = re.compile(r"^PYTHONPATH=mine (python .*)$", re.MULTILINE)
DIRECT = re.compile(
    r"## Functions and least squares, without a model\n\n```python\n(.*?)```", re.DOTALL
)
SCRIPTS = re.compile(r"## As a library\n\n```python\n(.*?)```\n\n```python\n(.*?)```", re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = FILE.findall(EXTENDING)
    assert len(files) == 4
    for name, content in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path


def test_an_optimizer_and_a_task_of_ones_own_run_as_the_guide_says(folder: Path) -> None:
    commands = COMMAND.findall(EXTENDING)
    assert len(commands) == 2
    environment = {**os.environ, "PYTHONPATH": "mine", "SUITE_RESULTS": str(folder / "results")}
    for command in commands:
        words = [*shlex.split(command)[1:], "scale=quick", "threads=1", "wandb.mode=disabled"]
        done = subprocess.run(
            [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "done" in done.stdout
    runs = {
        str(path.parent.relative_to(folder))
        for path in (folder / "results/runs").glob("*/*/*/summary.json")
    }
    pairs = {tuple(run.split("/")[2:4]) for run in runs}
    assert pairs == {("mlp", "sign_descent"), ("sine", "adam"), ("sine", "kfac")}


def test_the_script_runs(tmp_path: Path) -> None:
    ((code, _),) = SCRIPTS.findall(README)
    script = tmp_path / "script.py"
    script.write_text("import torch\ntorch.manual_seed(0)\ntorch.set_num_threads(1)\n" + code)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loss = float(done.stdout.split()[0])
    assert loss < 1.0  # log(3) = 1.0986 before the first step


def test_the_suite_from_python_trains_compares_and_loads(tmp_path: Path) -> None:
    ((_, code),) = SCRIPTS.findall(README)
    small = 'seeds=3, scale="quick", threads=1, wandb={"mode": "disabled"}'
    code = code.replace('seeds=3, scale="quick"', small)
    environment = {**os.environ, "SUITE_RESULTS": str(tmp_path / "results")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "[6/6] kfac on mlp, seed 2: done" in done.stdout
    assert "mlp: kfac needs" in done.stdout
    assert re.search(r"^kfac +0\.\d+$", done.stdout, re.MULTILINE)


def test_the_direct_use_does_what_its_comments_say(tmp_path: Path) -> None:
    (code,) = DIRECT.findall(OBJECTIVE)
    script = tmp_path / "script.py"
    script.write_text("import torch\ntorch.set_num_threads(1)\n" + code)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("converged tensor([1.0000, 1.0000]")
    assert second.startswith("converged tensor([ 3.0000, -2.0000]")


def test_readme_is_short_enough_to_be_read() -> None:
    assert len(README.splitlines()) <= 120
