"""Who imports whom, and that no name of an optimizer or a task decides anything."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from suite import paths
from suite.config import registry

HEAVY = (
    "hydra",
    "omegaconf",
    "wandb",
    "pandas",
    "optuna",
    "matplotlib",
    "seaborn",
    "rich",
    "jinja2",
    "joblib",
)
ALLOWED_EVERYWHERE = set(sys.stdlib_module_names) | {"torch", "__future__"}


def sources(package: str) -> list[Path]:
    files = sorted((paths.ROOT / package).rglob("*.py"))
    assert files
    return files


def imported(path: Path) -> set[str]:
    """The top-level packages a file imports, wherever in the file."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules.add(str(node.module).split(".")[0])
    return modules


def test_optimizers_import_torch_and_nothing_else_of_weight() -> None:
    for path in sources("optimizers"):
        assert imported(path) <= ALLOWED_EVERYWHERE | {"optimizers"}, path


def test_tasks_import_neither_optimizers_nor_the_suite() -> None:
    for path in sources("tasks"):
        assert not imported(path) & {"optimizers", "suite", "tests", *HEAVY}, path


def strings_that_decide(tree: ast.Module) -> Iterator[str]:
    """Every string that a comparison, a `match` or a key of a literal dictionary looks for."""
    for node in ast.walk(tree):
        decided: list[ast.expr | None] = []
        if isinstance(node, ast.Compare):
            decided = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            decided = [node.value]
        elif isinstance(node, ast.Dict):
            decided = list(node.keys)
        for expression in decided:
            for part in ast.walk(expression) if expression is not None else ():
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value


def test_the_scan_sees_every_way_to_branch_on_a_name() -> None:
    tree = ast.parse(
        "if o == 'a' or 'b' in o or o in ('c', 'd'):\n  pass\nmatch o:\n  case 'e': pass\nx = "
        "{'f': 1}['g']"
    )
    assert set(strings_that_decide(tree)) == set("abcdef")


@pytest.mark.parametrize("package", ["suite", "tasks", "optimizers"])
def test_nothing_branches_on_the_name_of_an_optimizer_or_a_task(package: str) -> None:
    names = {*registry.names("optimizer"), *registry.names("task")}
    if package == "optimizers":
        # the words for a fallback, for whose step length Shampoo borrows, and a hyperparameter
        names -= {"sgd", "adamw", "adam", "adagrad", "momentum"}
    for path in sources(package):
        if "report" in path.parts:  # colours by name, for whoever has one
            continue
        assert not names & set(strings_that_decide(ast.parse(path.read_text()))), path


def test_there_is_no_init_file_among_the_tests() -> None:
    # it would shadow the packages of the same name
    assert not list((paths.ROOT / "tests").rglob("__init__.py"))


def test_importing_the_packages_brings_in_nothing_that_is_not_needed() -> None:
    """In a fresh process.

    What each package adds to `import torch`, and that --help need not wait for torch.
    """
    script = """
import json, sys
import suite.app
found = {"suite.app": sorted({name.split(".")[0] for name in sys.modules})}
import torch
before = set(sys.modules)
import optimizers, optimizers.natural_gradient, optimizers.newton
import optimizers.least_squares, optimizers.matrix
found["optimizers"] = sorted({name.split(".")[0] for name in set(sys.modules) - before})
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=paths.ROOT, capture_output=True, text=True, check=True
    )
    stored = {package: set(names) for package, names in json.loads(done.stdout).items()}

    assert not stored["suite.app"] & {
        "torch",
        "torchvision",
        "wandb",
        "pandas",
        "matplotlib",
        "sklearn",
        "optuna",
    }
    assert not stored["optimizers"] & {"tasks", "suite", "torchvision", "sklearn", "scipy", *HEAVY}
