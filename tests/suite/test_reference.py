"""The pages' tables are those of the committed archives, to the byte.

The tool that makes them so does only that.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from suite import reference
from suite.errors import ConfigError
from suite.reference import REFERENCE, Mark, Pages, main
from suite.results.anonymise import Scrubber
from suite.results.archive import is_archive, read_archive, write_archive

MOST_BYTES = 20_000_000
FOLDERS = [
    path.relative_to(REFERENCE).as_posix()
    for path in sorted(REFERENCE.rglob("*"))
    if is_archive(path)
]


@pytest.mark.parametrize(
    "page", [page.relative_to(reference.ROOT).as_posix() for page in Pages().files()]
)
def test_the_tables_of_a_page_are_those_of_its_archives(page: str) -> None:
    text = (reference.ROOT / page).read_text(encoding="utf-8")
    assert Pages().rendered(text) == text, "python -m suite.reference makes it right again"


def test_the_page_of_make_compare_has_a_table_of_an_archive() -> None:
    assert "docs/results/quick.md" in [
        page.relative_to(reference.ROOT).as_posix() for page in Pages().files()
    ]


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_committed_archive_can_be_read_and_says_nothing_of_a_machine(folder: str) -> None:
    runs = read_archive(REFERENCE / folder)
    assert runs
    scrub = Scrubber()
    for run in runs:
        for content in (run.config, run.summary, run.environment):
            assert scrub(content) == content
            assert "/home/" not in str(content)


def test_all_archives_together_are_small() -> None:
    assert sum(file.stat().st_size for file in REFERENCE.rglob("*") if file.is_file()) < MOST_BYTES


# -- the tool --------------------------------------------------------------------------------------


@pytest.fixture
def pages(tmp_path: Path) -> Pages:
    """A README and a page of their own, beside a small archive.

    Two tasks, three optimizers, three seeds.
    """
    archives = tmp_path / "reference"
    chosen = [run for run in read_archive(REFERENCE / "quick") if run.task in ("mlp", "quadratic")]
    write_archive(
        [run for run in chosen if run.optimizer in ("sgd", "kfac", "adamw")], archives / "small"
    )
    (tmp_path / "docs").mkdir()
    return Pages(tmp_path, archives)


def table(pages: Pages, words: str) -> list[str]:
    text = pages.rendered(f"above\n\n<!-- table: {words} -->\nold\n<!-- /table -->\n\nbelow\n")
    lines = text.split("\n")
    assert lines[:3] == ["above", "", f"<!-- table: {words} -->"]
    assert lines[-4:] == ["<!-- /table -->", "", "below", ""]
    return lines[3:-4]


def test_a_mark_is_filled_and_what_stands_around_it_is_kept(pages: Pages) -> None:
    rows = table(pages, "small")
    assert rows[0].startswith("| optimizer | mlp: accuracy ↑ | quadratic: gap ↓ |")
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["adamw", "sgd", "kfac"]
    assert pages.rendered("no mark\n") == "no mark\n"


def test_rendering_twice_changes_nothing(pages: Pages) -> None:
    once = pages.rendered("<!-- table: small targets -->\n<!-- /table -->\n")
    assert once.count("|") > 20
    assert pages.rendered(once) == once


def test_a_mark_names_a_table_and_chooses_runs(pages: Pages) -> None:
    rows = table(pages, "small results optimizer=kfac,sgd task=mlp")
    assert len(rows) == 4
    assert all(row.startswith("| mlp | ") for row in rows[2:])
    assert "(1)" in table(pages, "small seed=1")[2]
    assert table(pages, "small main caption")[-1].startswith("Final value of each problem's metric")


def test_several_marks_on_a_page_are_filled_each_with_its_own(pages: Pages) -> None:
    marks = "<!-- table: small task=mlp -->\n<!-- /table -->\n"
    both = pages.rendered(marks + "between\n" + marks.replace("mlp", "quadratic"))
    first, second = both.split("between")
    assert "mlp: accuracy" in first
    assert "quadratic: gap" not in first
    assert "quadratic: gap" in second


def test_an_example_of_a_mark_is_left_alone(pages: Pages) -> None:
    text = "```\n<!-- table: nothing -->\n<!-- /table -->\n```\n"
    assert pages.rendered(text) == text
    assert pages.marks(text) == []
    assert Pages().marks("`<!-- table: quick -->` in a line is none\n") == []


def test_a_mark_without_words_is_the_main_table_of_quick() -> None:
    assert Mark.parse("") == Mark("quick", "main")
    assert Mark.parse(" other targets task=a,b caption ") == Mark(
        "other", "targets", (("task", ("a", "b")),), True
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("smal", "archive=smal is not one of small.* Did you mean small"),
        ("small mian", "table of small=mian is not one of main"),
        ("small main extra", "names an archive and a table"),
        ("small tsak=mlp", "no run has a setting 'tsak'. Did you mean task"),
        ("small task=resnet", "archive small: no run has task=resnet"),
    ],
)
def test_a_mark_that_cannot_be_filled_says_why(
    pages: Pages, words: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pages.root / "tables").mkdir()
    (pages.root / "tables" / "main.md").touch()
    monkeypatch.setattr(reference, "_report", lambda *_: pages.root)  # no need to draw one for this
    with pytest.raises(ConfigError, match=message):
        table(pages, words)


def test_the_command_rebuilds_the_pages_and_their_figures(
    pages: Pages,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    drawn = tmp_path / "report"
    (drawn / "figures" / "deeper").mkdir(parents=True)
    (drawn / "figures" / "deeper" / "curve.png").write_bytes(b"a picture")
    (drawn / "figures" / "deeper" / "curve.pdf").write_bytes(b"another format of it")
    monkeypatch.setattr(reference, "_report", lambda *_: drawn)
    readme = pages.root / "README.md"
    readme.write_text("<!-- table: small -->\n<!-- /table -->\n")
    page = pages.root / "docs" / "page.md"
    page.write_text("text\n<!-- figure: small curve -->\n![what it shows](pictures/shown.png)\n")
    (pages.root / "docs" / "plain.md").write_text("no mark\n")
    words = ["--root", str(pages.root), "--archives", str(pages.archives)]

    assert main([*words, "--check"]) == 1
    assert "README.md: out of date" in capsys.readouterr().out
    assert readme.read_text() == "<!-- table: small -->\n<!-- /table -->\n"

    assert main(words) == 0
    assert "| sgd |" in readme.read_text()
    assert (pages.root / "docs" / "pictures" / "shown.png").read_bytes() == b"a picture"
    assert "plain.md" not in capsys.readouterr().out

    assert main([*words, "--check"]) == 0
    (pages.root / "docs" / "pictures" / "shown.png").unlink()
    assert main([*words, "--no-figures"]) == 0
    assert not (pages.root / "docs" / "pictures" / "shown.png").exists()


def test_the_command_says_what_is_wrong(pages: Pages, capsys: pytest.CaptureFixture[str]) -> None:
    (pages.root / "README.md").write_text("<!-- table: lost -->\n<!-- /table -->\n")
    with pytest.raises(SystemExit) as ended:
        main(["--root", str(pages.root), "--archives", str(pages.archives)])
    assert ended.value.code == 2
    assert "archive=lost is not one of small" in capsys.readouterr().err


@pytest.mark.slow
def test_a_table_that_only_the_whole_report_has_is_found(pages: Pages) -> None:
    rows = table(pages, "small overview task=quadratic")
    assert rows[2].startswith("| quadratic |")


# -- the pages that a script writes ----------------------------------------------------------------


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a script by its name."""
    monkeypatch.syspath_prepend(reference.ROOT / "scripts")
    return importlib.import_module


def test_the_page_of_the_experiments_is_what_the_archives_give(
    script: Callable[[str], ModuleType],
) -> None:
    module = script("results_page")
    assert module.page() == module.PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["autoencoder", "claims", "hessian_free", "pinn"])
def test_a_page_of_its_own_script_is_what_its_archive_gives(
    script: Callable[[str], ModuleType], name: str
) -> None:
    files = script(f"{name}_page").files(REFERENCE / name)
    assert reference.ROOT / "docs" / "results" / f"{name}.md" in files
    for path, text in files.items():
        assert path.read_text(encoding="utf-8") == text, (
            f"python scripts/{name}_page.py makes it right again"
        )


@pytest.mark.parametrize(
    "folder", [name for name in FOLDERS if (REFERENCE / name / "tuned").exists()]
)
def test_what_tuning_chose_is_what_the_runs_beside_it_have(folder: str) -> None:
    runs = read_archive(REFERENCE / folder)
    for path in (REFERENCE / folder / "tuned").iterdir():
        text = path.read_text(encoding="utf-8")
        assert Scrubber().text(text) == text
        chosen = yaml.safe_load(text)["optimizer"]
        settings = [
            run.config["optimizer"] for run in runs if f"{run.task}_{run.optimizer}" == path.stem
        ]
        assert settings, path.name
        for value in settings:
            assert {name: value[name] for name in chosen} == chosen
