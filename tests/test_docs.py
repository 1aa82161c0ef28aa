"""The documentation is whole: links lead somewhere, the site builds and fetches nothing."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from suite.config import registry

ROOT = Path(__file__).parent.parent
DOCS = "docs"  # paths of pages that a test makes up are put together, so that they are no mentions
API = ROOT / "docs" / "reference" / "api"
FAMILIES = [path.parent.name for path in sorted((ROOT / "optimizers").glob("*/__init__.py"))]
FETCHED = re.compile(r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=\"(?:https?:)?//[^\"]+\"")


def load(path: Path) -> ModuleType:
    """A module by its file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def links() -> ModuleType:
    return load(ROOT / "scripts" / "links.py")


@pytest.fixture
def page(links: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page in a tree of its own."""
    monkeypatch.setattr(links, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "other.md").write_text("# A `title`, and more\n\n```\n# no heading\n```\n")
    (tmp_path / "code.py").touch()
    return tmp_path / "docs" / "page.md"


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("other.md", None),
        ("other.md#a-title-and-more", None),
        ("#here", None),
        ("../code.py", None),
        ("https://example.org/nothing", None),
        ("missing.md", "no such file"),
        ("other.md#no-heading", f"{DOCS}/other.md has no such heading"),
        ("#there", f"{DOCS}/page.md has no such heading"),
    ],
)
def test_a_link_that_leads_nowhere_is_named(
    links: ModuleType, page: Path, target: str, reason: str | None
) -> None:
    page.write_text(f"## Here\n\n[a link]({target}), and `[an example](nowhere.md)`\n")
    links.anchors.cache_clear()
    faults = list(links.broken([page]))
    assert len(faults) == (reason is not None)
    assert all(f"{target}: " in fault and str(reason) in fault for fault in faults)


def test_a_page_that_nobody_links_to_is_named(links: ModuleType, page: Path) -> None:
    page.write_text("[the other](other.md)\n")
    assert list(links.unlinked([page, page.parent / "other.md"])) == [
        f"{DOCS}/page.md: no page links to it"
    ]


def test_a_mention_of_a_page_that_is_gone_is_named(links: ModuleType, page: Path) -> None:
    page.write_text("")
    code = page.parents[1] / "code.py"
    code.write_text(f"# {DOCS}/page.md says more, {DOCS}/gone.md less\n")
    assert list(links.mentioned([code])) == [
        f"code.py: mentions {DOCS}/gone.md, which does not exist"
    ]


def test_a_path_of_code_in_a_page_exists(links: ModuleType, page: Path) -> None:
    page.write_text("`suite/report/gone.py`, `configs/task/<name>.yaml`, `mine/suite/other.py`\n")
    assert list(links.mentioned([page])) == [
        f"{DOCS}/page.md: mentions suite/report/gone.py, which does not exist"
    ]


def test_on_the_site_a_link_that_leaves_the_docs_is_a_path(links: ModuleType, page: Path) -> None:
    class Shown:
        class file:
            src_uri = "page.md"

    text = "[code](../code.py), [`code.py`](../code.py), [other](other.md#a), [web](https://a.b)"
    assert links.on_page_markdown(text, Shown) == (
        "code (`code.py`), `code.py`, [other](other.md#a), [web](https://a.b)"
    )


def test_every_page_of_the_docs_is_in_the_sites_navigation() -> None:
    listed = re.findall(r"^ +- (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert set(listed) == pages
    assert len(listed) == len(pages)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_public_method_is_on_the_page_of_the_api(family: str) -> None:
    text = (API / "optimizers.md").read_text().splitlines()
    module = import_module(f"optimizers.{family}")
    methods = {
        f"::: optimizers.{family}.{name}"
        for name in getattr(module, "__all__", ())
        if hasattr(getattr(module, name), "step")
    }
    assert methods <= set(text)


def test_every_task_is_on_the_page_of_the_api() -> None:
    text = (API / "tasks.md").read_text().splitlines()
    for name in registry.names("task"):
        assert f"::: {registry.read('task', name)['_target_']}" in text


def test_the_design_has_the_floors_of_the_test_and_walks_through_every_room() -> None:
    text = (ROOT / "docs" / "reference" / "design.md").read_text()
    floors: dict[str, int] = load(ROOT / "tests" / "test_layers.py").FLOORS
    rows = re.findall(r"^\| (\d) \| ([^|]+) \|", text, re.MULTILINE)
    written = {room: int(floor) for floor, rooms in rows for room in re.findall(r"`(\w+)`", rooms)}
    assert written == floors
    walk = text.split("## A walk")[1].split("\n## ")[0]
    assert sorted(re.findall(r"\*\*`(\w+)`\*\*", walk)) == sorted(floors)


def test_the_citation_is_one() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["license"] == "MIT"
    assert {"cff-version", "message", "title", "authors", "version"} <= set(citation)
    project = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{citation["version"]}"' in project


@pytest.mark.slow
def test_the_site_builds_and_fetches_nothing(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        assert not FETCHED.findall(page.read_text(encoding="utf-8")), page.name
    assert (tmp_path / "site" / "search" / "search_index.js").exists()
    assert "Kronecker" in (tmp_path / "site" / "reference/api/optimizers.html").read_text()
