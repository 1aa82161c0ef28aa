"""Sections register themselves: a file beneath sections/ is all that a new one takes."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from suite.report import sections
from suite.report.report import write_report
from suite.report.section import OVERALL, PROBLEM, TABLES, Content
from suite.results.frame import build_records
from suite.results.load import load_runs

FILE = '''
from suite.report.section import OVERALL, PROBLEM, Content, Context, Section
from suite.tables.table import make_table


def section(context: Context) -> Content:
    """How many runs there are."""
    rows = [{"page": context.page, "runs": str(len(context.records.frame))}]
    return Content([make_table("counts", "Counts", "Runs.", rows)])


SECTION = Section("counts", "How many runs", {OVERALL, PROBLEM}, 1, section, printed=True)
'''


@pytest.fixture
def own_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of sections beside the report's own, with one file."""
    folder = tmp_path / "sections" / "mine"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "counts.py").write_text(FILE)
    monkeypatch.setattr(sections, "__path__", [*sections.__path__, str(folder.parent)])
    yield
    for name in [name for name in sys.modules if name.startswith(f"{sections.__name__}.mine")]:
        del sys.modules[name]


def test_a_new_file_stands_on_the_pages(
    own_section: None, record: Any, runs: Path, tmp_path: Path
) -> None:
    for seed in range(2):
        record(seed=seed)
    record("cnn")
    out = tmp_path / "out"
    first, *_ = write_report(build_records(*load_runs(runs)), out, "Title", "command")
    assert first.name == "counts"
    overall, problem = ((out / name).read_text() for name in ("index.html", "tasks/mlp.html"))
    assert ">3</td>" in overall.partition('id="counts"')[2].partition("</section>")[0]
    assert ">2</td>" in problem.partition('id="counts"')[2].partition("</section>")[0]
    assert (out / "tables" / "counts.csv").exists()
    assert overall.index("#counts") < overall.index("#overview")


def test_no_two_sections_of_a_page_share_a_place_or_an_address() -> None:
    for page in (OVERALL, PROBLEM, TABLES):
        standing = [section for section in sections.collect() if page in section.pages]
        assert standing
        assert len({section.anchor for section in standing}) == len(standing)
        assert len({section.order for section in standing}) == len(standing)


def test_every_section_is_collected_once_in_the_order_of_the_pages() -> None:
    collected = sections.collect()
    assert len({id(section) for section in collected}) == len(collected)
    orders = [section.order for section in collected]
    assert orders == sorted(orders)


def test_every_file_that_makes_a_section_registers_it() -> None:
    for path in sorted(Path(sections.__file__).parent.rglob("*.py")):
        tree = ast.parse(path.read_text())
        assigned = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Assign)]
        makers = {
            node.name
            for node in tree.body
            if isinstance(node, ast.FunctionDef)
            and node.returns is not None
            and ast.unparse(node.returns) == "Content"
            and not node.name.startswith("_")
        }
        assert not makers or any("= Section(" in line for line in assigned), path


def test_a_note_alone_is_content() -> None:
    assert Content(note="Why there is no figure.").is_shown
    assert not Content(lines=["a finding"]).is_shown
