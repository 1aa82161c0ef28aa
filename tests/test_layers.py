"""Who may import whom: a room imports rooms below it, never one on its own floor."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PACKAGES = ("suite", "optimizers", "tasks")
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
TOP = 10  # the face of the package, whose names open rooms of every floor
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


def imported(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, str]]:
    """Each imported module with the imported name; a relative module begins with a dot."""
    for node in nodes:
        match node:
            case ast.Import(names=aliases):
                yield from ((alias.name, "") for alias in aliases)
            case ast.ImportFrom(module=module, names=aliases, level=level):
                yield from (("." * level + (module or ""), alias.name) for alias in aliases)
            case ast.Call(
                func=ast.Name(id="import_module") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield name, ""


def imports_of(path: Path) -> Iterator[tuple[str, str]]:
    """The imports wherever in the file."""
    return imported(ast.walk(ast.parse(path.read_text())))


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """What is executed when the module is imported."""
    for child in ast.iter_child_nodes(node):
        is_for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not is_for_types and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
            yield from at_import(child)


def rooms_used(path: Path) -> set[str]:
    """The rooms that a file imports; a name that the face of the package offers is a room above."""
    dotted = (f"{module}.{name}".split(".") for module, name in imports_of(path))
    return {parts[1] for parts in dotted if parts[0] == "suite"}


def test_every_room_has_a_floor() -> None:
    assert {room_of(path) for path in sources()} == set(FLOORS) | DOORS


def test_the_scan_sees_imports_of_every_form(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "from suite import list\ndef f():\n  import suite.app\n  from suite.report.a import b\n"
        "from suite import run\nimport suite.time as t\nimport_module('suite.tune')\n"
    )
    assert rooms_used(path) == {"list", "app", "report", "run", "time", "tune"}
    path.write_text("import suite\n")
    assert rooms_used(path) == {""}


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_rooms_below_it_only(path: Path) -> None:
    room = room_of(path)
    if room in DOORS:
        return
    above = {used for used in rooms_used(path) - {room} if FLOORS.get(used, TOP) >= FLOORS[room]}
    assert not above, f"{room} imports {above}"
    packages = {module.split(".")[0] for module, _ in imports_of(path)}
    assert not {one for one, homes in HOMES.items() if one in packages and room not in homes}
    assert not (packages & {"torch", "optimizers", "tasks"} and room in TORCHLESS)


def private_names(path: Path) -> set[str]:
    """Names with a leading underscore that a file takes from modules of the project."""
    tree = ast.parse(path.read_text())
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    own = [alias for node in froms if is_own(str(node.module)) for alias in node.names]
    bound = {alias.asname or alias.name for alias in own}
    taken = {alias.name for alias in own} | {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in bound
    }
    return {name for name in taken if name.startswith("_") and not name.startswith("__")}


def is_own(module: str) -> bool:
    return module.split(".")[0] in PACKAGES


def test_private_names_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("from suite.a import _b\nfrom suite import c as d\nd._e()\nself._f = d.__g__\n")
    assert private_names(path) == {"_b", "_e"}


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_share_public_names_by_absolute_imports(package: str) -> None:
    for path in sources(package):
        assert not private_names(path), path
        assert not [module for module, _ in imports_of(path) if module.startswith(".")], path


def circle(uses: dict[str, set[str]]) -> list[str]:
    """A circle of modules that import each other, empty if none does."""
    try:
        TopologicalSorter(uses).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def module_uses(package: str) -> dict[str, set[str]]:
    """What each module of a package imports of the package when it is itself imported."""
    names = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sources(package)
    }
    uses: dict[str, set[str]] = {name: set() for name in names}
    for name, path in names.items():
        for module, member in imported(at_import(ast.parse(path.read_text()))):
            used = {f"{module}.{member}", module} & set(names)
            uses[name] |= {max(used, key=len)} - {name} if used else set()
    return uses


def folder_uses(uses: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same between the folders and files that lie directly in the package."""
    folders: dict[str, set[str]] = {}
    for name, used in uses.items():
        folder, *others = (".".join(one.split(".")[:2]) for one in (name, *used))
        folders.setdefault(folder, set()).update(
            other for other in others if other != folder and "." in other
        )
    return folders


def test_a_circle_is_seen() -> None:
    uses = {"a.b.c": {"a.d"}, "a.d": {"a.b.e"}, "a.b.e": set[str]()}
    assert not circle(uses)
    assert set(circle(folder_uses(uses))) == {"a.b", "a.d"}
    tree = ast.parse("import a\ntry:\n  import b\nfinally: pass\ndef f():\n  import c\n")
    assert set(imported(at_import(tree))) == {("a", ""), ("b", "")}


@pytest.mark.parametrize("package", PACKAGES)
def test_neither_modules_nor_folders_import_in_circles(package: str) -> None:
    uses = module_uses(package)
    assert any(uses.values())
    assert not circle(uses)
    assert not circle(folder_uses(uses))


@pytest.mark.parametrize("package", PACKAGES)
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
