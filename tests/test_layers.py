"""Who may import whom: a room imports rooms below it, never one on its own floor."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FLOORS = {
    "reference": 9,
    "report": 8,
    **dict.fromkeys(("tune", "app", "api", "target"), 7),
    **dict.fromkeys(("time", "multirun"), 6),
    **dict.fromkeys(("training", "compare", "importers", "archive"), 5),
    "results": 4,
    **dict.fromkeys(("tables", "list"), 3),
    "config": 2,
    "stats": 1,
    **dict.fromkeys(("errors", "paths", "files"), 0),
}
DOORS = {"__init__", "__main__"}  # the package's face and its command may open any room

HOMES = {
    "pandas": {
        "stats",
        "tables",
        "results",
        "compare",
        "report",
        "tune",
        "importers",
        "archive",
        "api",
    },
    "hydra": {"config", "app", "multirun"},
    "omegaconf": {"config", "app", "multirun"},
    "matplotlib": {"report"},
    "seaborn": {"report"},
    "wandb": {"training", "importers"},
}
TORCHLESS = {"stats", "tables", "results", "errors", "paths", "files", "compare", "list"}


def sources(package: str = "suite") -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[1].removesuffix(".py")


def imports_of(path: Path) -> Iterator[tuple[str, str]]:
    """Each imported module with the imported name, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((str(node.module), alias.name) for alias in node.names)


def rooms_used(path: Path) -> set[str]:
    dotted = (f"{module}.{name}".split(".") for module, name in imports_of(path))
    return {parts[1] for parts in dotted if parts[0] == "suite" and parts[1] in FLOORS}


def test_every_room_has_a_floor() -> None:
    assert {room_of(path) for path in sources()} == set(FLOORS) | DOORS


def test_the_scan_sees_imports_of_every_form(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "from suite import list\ndef f():\n  import suite.app\n  from suite.report.a import b\n"
    )
    assert rooms_used(path) == {"list", "app", "report"}


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_rooms_below_it_only(path: Path) -> None:
    room = room_of(path)
    if room in DOORS:
        return
    above = {used for used in rooms_used(path) - {room} if FLOORS[used] >= FLOORS[room]}
    assert not above, f"{room} imports {above}"
    packages = {module.split(".")[0] for module, _ in imports_of(path)}
    assert not {one for one, homes in HOMES.items() if one in packages and room not in homes}
    assert not (packages & {"torch"} and room in TORCHLESS)


@pytest.mark.parametrize("package", ["suite", "optimizers", "tasks"])
def test_no_private_name_is_imported_from_another_module(package: str) -> None:
    for path in sources(package):
        for module, name in imports_of(path):
            own = module.split(".")[0] in {"suite", "optimizers", "tasks"}
            assert not (own and name.startswith("_") and not name.startswith("__")), (
                f"{path}: {module}.{name}"
            )


@pytest.mark.parametrize("package", ["suite", "optimizers", "tasks"])
def test_no_folder_has_more_than_twenty_modules(package: str) -> None:
    folders = {path.parent for path in sources(package)}
    assert not {
        str(folder) for folder in folders if len(list(folder.glob("*.py"))) > 21
    }  # with __init__


def test_the_report_takes_the_trials_from_tuning_and_nothing_else() -> None:
    taken = {
        (module, name)
        for path in sources()
        if room_of(path) == "report"
        for module, name in imports_of(path)
        if module.startswith("suite.tune")
    }
    assert taken == {("suite.tune", "load_trials")}
