"""`python -m suite.report` from end to end: files, the page, filters, messages, exit codes."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from suite.report.__main__ import main

Record = Callable[..., Path]
EVIL = "<script>alert(1)</script>"


def fill(record: Record, training: Any) -> None:
    """Two tasks, four optimizers, and everything that can go wrong."""
    quick = {"experiment": "quick"}
    for seed in range(2):
        record("mlp", "sgd", seed, training(final=0.9 + 0.01 * seed), config=quick)
        record("cnn", "sgd", seed, training(final=0.7 + 0.01 * seed), config=quick)
        record(
            "mlp",
            "kfac",
            seed,
            training(status="diverged", cut=7, message=f"{EVIL} & $x_1$"),
            config=quick,
        )
    record("cnn", "kfac", 0, training(status="unsupported", message="needs layers"), config=quick)
    record("mlp", "adamw", 0, training(status="unfinished", cut=4), config=quick)
    record(
        "mlp", "evil", 0, summary={"optimizer": f"{EVIL} $a_b$"}, config={"command": f"run {EVIL}"}
    )
    (record("mlp", "sgd", 5) / "summary.json").write_text("{")


@pytest.fixture(scope="module")
def written(write: Record, training: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report that the tests only read."""
    folder = tmp_path_factory.mktemp("results")
    fill(partial(write, folder / "runs"), training)
    assert main(["--runs", str(folder / "runs"), "--out", str(folder / "report")]) == 0
    return folder / "report"


def test_all_files_are_there(written: Path) -> None:
    figures = [file for file in (written / "figures").rglob("*") if file.is_file()]
    assert {"curves-mlp", "curves-cnn", "heatmap", "time-per-step", "memory-per-step"} <= {
        one.stem for one in figures
    }
    assert all(one.with_suffix(suffix) in figures for one in figures for suffix in (".png", ".pdf"))
    tables = [file for file in (written / "tables").iterdir() if file.name != "runs.csv"]
    assert {
        "overview",
        "main",
        "results",
        "targets",
        "costs",
        "outcomes",
        "problems",
        "configurations",
        "environment",
    } <= {one.stem for one in tables}
    assert all(
        one.with_suffix(suffix) in tables for one in tables for suffix in (".md", ".tex", ".csv")
    )
    listed = (written / "files.txt").read_text().splitlines()
    names = {file.relative_to(written).as_posix() for file in written.rglob("*") if file.is_file()}
    assert names - {*listed} == {
        "index.html",
        "files.txt",
    }  # all the others go when the next report is written
    assert (written / "figures" / "heatmap.png").read_bytes().startswith(b"\x89PNG")
    assert (written / "figures" / "heatmap.pdf").read_bytes().startswith(b"%PDF")


def test_the_pages_fetch_nothing(written: Path) -> None:
    pages = {"index.html", "tasks/mlp.html", "tasks/cnn.html"}
    assert {file.relative_to(written).as_posix() for file in written.rglob("*.html")} == pages
    for name in pages:
        page = (written / name).read_text()
        images = re.findall(r"""src\s*=\s*["']([^"']*)""", page)
        assert len(images) == page.count("<figure ") > 0
        assert all(image.startswith("data:image/png;base64,") for image in images)
        addresses = re.findall(r"""href\s*=\s*["']([^"'#]*)""", page)
        assert all(
            not address or (written / name).parent.joinpath(address).exists()
            for address in addresses
        )
        assert not re.search(r"https?://|url\(|@import|<link", page)


def test_text_from_records_is_escaped(written: Path) -> None:
    for page in (file.read_text() for file in written.rglob("*.html")):
        assert EVIL not in page
        assert page.count("<script>") == 1  # the page's own
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in (written / "index.html").read_text()
    assert (
        "&lt;script&gt;alert(1)&lt;/script&gt; &amp; $x_1$"
        in (written / "tasks" / "mlp.html").read_text()
    )
    assert r"\$a\_b\$" in (written / "tables" / "main.tex").read_text()
    assert "&lt;script>" in (written / "tables" / "outcomes.md").read_text()


def test_the_page_tells_every_pair_status_and_damage(written: Path) -> None:
    page = (written / "index.html").read_text()
    table = page[page.index('id="table-main"') :].partition("</table>")[0]
    rows = [
        re.findall(r"<t[dh][^>]*>(?:<a [^>]*>)?(?:<strong>)?([^<]*)", row)
        for row in table.split("<tr>")[2:]
    ]
    assert {row[0]: row[1:] for row in rows} == {
        "adamw": ["—", "interrupted 1/1"],
        "sgd": ["0.7050 ± 0.0071 (2)", "0.9050 ± 0.0071 (2)"],
        "kfac": ["unsupported", "diverged 2/2"],
        "&lt;script&gt;alert(1)&lt;/script&gt; $a_b$": ["—", "0.9000 (1)"],
    }
    assert "<dd>9: 5 done, 2 diverged, 1 interrupted, 1 unsupported</dd>" in page
    assert "1 damaged run directory was skipped" in page
    assert "summary.json is not JSON" in page
    assert "unfinished: no summary.json" in page
    assert page.count("<figcaption>") == page.count('alt="') >= 3
    assert 'alt=""' not in page


def test_the_rows_behind_the_tables(written: Path) -> None:
    with (written / "tables" / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    assert sorted(row["status"] for row in rows).count("diverged") == 2


def test_filters_and_a_second_report_in_the_same_place(
    record: Record, runs: Path, training: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(record, training)
    out = tmp_path / "report"
    place = ["--runs", str(runs), "--out", str(out)]
    assert main([*place, "--task", "mlp"]) == 0
    assert (out / "figures" / "curves-mlp.png").exists()
    capsys.readouterr()
    assert main([*place, "experiment=quick", "--task", "cnn", "--optimizer", "sgd"]) == 0
    page = (out / "index.html").read_text()
    assert "Optimizer comparison: quick" in page
    assert "<dd>2: 2 done</dd>" in page
    assert "Every run finished." in page
    assert not (out / "figures" / "curves-mlp.png").exists()  # nothing outlives its runs
    assert [file.name for file in (out / "tasks").iterdir()] == ["cnn.html"]
    assert not (out / "tables" / "outcomes.csv").exists()
    shown = capsys.readouterr()
    assert "0.7050 ± 0.0071 (2)" in shown.out
    assert str(out / "index.html") in shown.out
    assert "warning: skipped mlp/sgd/" in shown.err


def test_no_runs_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--runs", str(tmp_path / "none"), "--out", str(tmp_path / "report")]) == 2
    assert "make compare" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_a_filter_that_nothing_passes(
    record: Record, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(config={"experiment": "quick"})
    assert (
        main(["--runs", str(runs), "--out", str(runs.parent / "report"), "--task", "resnet"]) == 2
    )
    message = capsys.readouterr().err
    assert "no run has task=resnet. There are: mlp" in message


def test_a_folder_that_cannot_be_written(
    record: Record, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record()
    blocked = runs.parent / "blocked"
    blocked.write_text("a file, not a folder")
    assert main(["--runs", str(runs), "--out", str(blocked)]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_report_on_failures_only(
    record: Record, runs: Path, training: Any, tmp_path: Path
) -> None:
    record(
        "mlp",
        "newton",
        0,
        training(status="unsupported", message="too big"),
        environment={"cpu": None},
    )
    assert main(["--runs", str(runs), "--out", str(tmp_path / "report")]) == 0
    assert "unsupported" in (tmp_path / "report" / "index.html").read_text()


def test_a_report_on_one_diverged_run(
    record: Record, runs: Path, training: Any, tmp_path: Path
) -> None:
    record("mlp", "sgd", 0, training(status="diverged", cut=3))
    assert main(["--runs", str(runs), "--out", str(tmp_path / "report")]) == 0
    assert (tmp_path / "report" / "figures" / "curves-mlp.png").exists()


def test_results_go_where_the_environment_says(
    record: Record, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record()
    monkeypatch.setenv("SUITE_RESULTS", str(runs.parent))
    assert main([]) == 0
    assert (runs.parent / "report" / "index.html").exists()
    assert "mlp: accuracy" in capsys.readouterr().out


def test_it_starts_without_torch_and_hydra() -> None:
    script = (
        "import sys, suite.report.__main__ as command; light = set(sys.modules); import "
        "suite.report.report; "
        "assert 'pandas' not in light and 'matplotlib' not in light; "
        "assert not {'torch', 'hydra', 'omegaconf', 'seaborn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
