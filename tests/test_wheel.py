"""The wheel carries configurations, templates and small data, and runs from any folder.

It is built from a copy of the sources, so that a checkout's build folder plays no part.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("suite", "optimizers", "tasks", "configs", "examples")
FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "CITATION.cff")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def run(command: list[str], folder: Path, **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in FILES:
        shutil.copy(ROOT / name, source / name)
    words = ["wheel", "--no-build-isolation", "--no-deps", "--no-index", "-w", "out", "./source"]
    run([*PIP, *words], folder)
    (built,) = (folder / "out").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path) -> Path:
    """The wheel in a folder of its own; dependencies are those of this environment."""
    folder = wheel.parents[1] / "site"
    run(
        [*PIP, "install", "--no-deps", "--no-index", "--target", str(folder), str(wheel)],
        folder.parent,
    )
    return folder


def test_every_file_that_is_read_when_running_travels(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    carried = {"configs": "suite/configs", "examples": "tasks/examples"}
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                inside = path.relative_to(ROOT / folder).as_posix()
                assert f"{carried.get(folder, folder)}/{inside}" in names
    assert not {name for name in names if name.startswith(("tests/", "scripts/", "benchmarks/"))}
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_an_installed_copy_runs_lists_and_reports_from_another_folder(
    site: Path, tmp_path: Path
) -> None:
    mine = {"PYTHONPATH": str(site), "SUITE_RESULTS": "", "OMP_NUM_THREADS": "1"}
    script = (
        "import suite, optimizers, tasks\nfor one in suite, optimizers, tasks: print(one.__file__)"
    )
    imported = run([sys.executable, "-c", script], tmp_path, **mine).split()
    assert all(Path(path).is_relative_to(site) for path in imported)

    words = ["optimizer=sgd", "task=quadratic", "scale=quick", "threads=1", "wandb.mode=disabled"]
    run([sys.executable, str(site / "bin" / "suite"), *words], tmp_path, **mine)
    (record,) = (tmp_path / "results" / "runs").glob("quadratic/sgd/*")
    assert json.loads((record / "summary.json").read_text())["status"] == "done"
    assert json.loads((record / "environment.json").read_text())["git_commit"] is None

    listed = run([sys.executable, "-m", "suite.list"], tmp_path, **mine)
    assert "kfac" in listed
    run([sys.executable, "-m", "suite.report"], tmp_path, **mine)
    assert "quadratic" in (tmp_path / "results" / "report" / "index.html").read_text()


def test_an_installed_copy_makes_methods_by_name_and_has_the_example(
    site: Path, tmp_path: Path
) -> None:
    script = (
        "import torch; from optimizers import minimize; from tasks.custom.custom import Custom\n"
        "start = torch.zeros(2, dtype=torch.float64)\n"
        "print(minimize(lambda x: ((x - 1) ** 2).sum(), start, method='bfgs').status)\n"
        "print(Custom().metric)"
    )
    printed = run([sys.executable, "-c", script], tmp_path, PYTHONPATH=str(site))
    assert printed.split() == ["converged", "accuracy"]
