"""Guards that no linter has: branches of a function, names that say nothing, skipped formatting."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MOST_BRANCHES = 10
# participles and pronouns: the noun behind them says what the value is
EMPTY_NAMES = {"found", "told", "said", "made", "kept", "there"}
EXEMPT = re.compile(r"#\s*fmt:\s*(skip|off)|noqa:.*(C901|PLR0915|E501)")
TABLES_OF_NUMBERS = {"tasks/functions/problems/data.py"}

FILES = [
    path
    for package in ("suite", "optimizers", "tasks", "scripts", "benchmarks")
    for path in sorted((ROOT / package).rglob("*.py"))
]
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def branches(function: ast.AST) -> int:
    """Ways that a function's code can part: statements, conditional expressions, and, or,
    filters."""
    count = 0
    for node in ast.walk(function):
        if isinstance(
            node,
            ast.If
            | ast.For
            | ast.AsyncFor
            | ast.While
            | ast.ExceptHandler
            | ast.IfExp
            | ast.match_case,
        ):
            count += 1
        elif isinstance(node, ast.comprehension):
            count += 1 + len(node.ifs)
        elif isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
    return count


def names_bound(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of every variable, parameter, attribute, function and class that is defined."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.arg(arg=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield node.lineno, name
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                yield node.lineno, name
            case ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                yield node.lineno, name
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                yield from ((node.lineno, alias.asname) for alias in aliases if alias.asname)


def test_the_guards_see() -> None:
    tree = ast.parse("def f(told):\n  self.found = [x for x in y if x and z] if a else b\n")
    assert branches(tree) == 4
    assert {name for _, name in names_bound(tree)} == {"f", "told", "found", "x"}


@pytest.mark.parametrize(
    "line",
    [
        "found, b = 1, 2",
        "a, *found = b",
        "found: int",
        "found += 1",
        "(found := 1)",
        "a = [found for found in b]",
        "for a, found in b: pass",
        "with a as (b, found): pass",
        "try: a\nexcept b as found: pass",
        "import a as found",
        "from a import b as found",
        "match a:\n  case [found]: pass",
        "match a:\n  case b() as found: pass",
        "match a:\n  case [*found]: pass",
        "match a:\n  case {**found}: pass",
        "lambda found: 1",
        "def a(*, found): pass",
        "def a(*found): pass",
        "def a(**found): pass",
        "async def found(): pass",
        "class found: pass",
    ],
)
def test_a_name_is_seen_wherever_it_is_bound(line: str) -> None:
    assert "found" in {name for _, name in names_bound(ast.parse(line))}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_keeps_the_guards(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    functions = [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert not {one.name: branches(one) for one in functions if branches(one) > MOST_BRANCHES}
    assert not EXEMPT.search(text) or str(path.relative_to(ROOT)) in TABLES_OF_NUMBERS


@pytest.mark.parametrize("path", [*FILES, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_names_are_nouns(path: Path) -> None:
    bound = names_bound(ast.parse(path.read_text()))
    assert not [(line, name) for line, name in bound if name.strip("_").lower() in EMPTY_NAMES]
