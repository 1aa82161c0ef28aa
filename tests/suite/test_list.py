"""The list of optimizers and tasks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from suite import list as listing
from suite.config import registry

FAMILY = re.compile(r"│ (?P<family>[a-z ]+):[ │]*")


@pytest.mark.parametrize("what", ["optimizers", "tasks"])
def test_the_list_names_everything_there_is(
    what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["suite.list", what])
    monkeypatch.setenv("COLUMNS", "500")
    listing.main()
    printed = capsys.readouterr().out

    names = registry.names(what.removesuffix("s"))
    rows = [
        line for line in printed.splitlines() if line.startswith("│") and not FAMILY.fullmatch(line)
    ]
    assert {row.split()[1] for row in rows} == set(names)
    assert "hessian" in printed
    assert ("gap (min)" in printed) == (what == "tasks")


def test_a_narrow_list_leaves_out_what_does_not_fit_and_says_how_to_see_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def listed(columns: str, *arguments: str) -> str:
        monkeypatch.setenv("COLUMNS", columns)
        monkeypatch.setattr("sys.argv", ["suite.list", "optimizers", *arguments])
        listing.main()
        return capsys.readouterr().out

    paper = registry.about(registry.read("optimizer", "adam"))["paper"]
    assert paper in listed("400")
    assert "arXiv" in listed("139", "--full")
    narrow = listed("80")
    assert "With --full" in narrow
    assert "arXiv" not in narrow
    lines = [line.strip("│ ") for line in narrow.splitlines()]
    families = [
        match["family"] for line in narrow.splitlines() if (match := FAMILY.fullmatch(line))
    ]
    known = {
        registry.family(registry.read("optimizer", name)) for name in registry.names("optimizer")
    }
    assert families == ["first order", *sorted(known - {"first order"})]
    for name in registry.names("optimizer"):
        assert sum(line.split(" ")[0] == name for line in lines) == 1


def test_a_class_that_cannot_be_imported_is_a_row_of_the_list_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine" / "optimizer").mkdir(parents=True)
    (tmp_path / "mine/optimizer/ours.yaml").write_text("# Ours.\n_target_: nowhere.Ours\n")
    monkeypatch.setattr(
        "sys.argv", ["suite.list", "optimizers", "--config-dir", str(tmp_path / "mine")]
    )
    monkeypatch.setenv("COLUMNS", "500")
    listing.main()

    (row,) = [
        line for line in capsys.readouterr().out.splitlines() if line.split()[1:2] == ["ours"]
    ]
    assert "not on the allow-list" in row
    assert "Ours." in row
