"""What `--paper` writes.

Tables no wider than a page, figures for a column, a document that names what is there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from suite.report.__main__ import main
from suite.report.drawing.canvas import SHEET, also_for_paper, save
from suite.report.page.paper import width_of
from suite.tables.latex import ACROSS, DOWN, escape_latex, latex
from suite.tables.table import Cell, make_table

Record = Callable[..., Path]


@pytest.fixture(scope="module")
def paper(write: Record, training: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The paper of a report on two problems."""
    folder = tmp_path_factory.mktemp("results")
    record = partial(write, folder / "runs")
    for seed in range(2):
        record("mlp", "sgd", seed, training(final=0.90 + 0.01 * seed))
        record(
            "mlp", "adamw", seed, training(status="diverged", cut=5, message="50 % of x_1 & more")
        )
    record("cnn", "sgd", 0, training(final=0.5))
    assert (
        main(
            [
                "--runs",
                str(folder / "runs"),
                "--out",
                str(folder / "report"),
                "--paper",
                str(folder / "paper"),
            ]
        )
        == 0
    )
    return folder / "paper"


def test_the_document_brings_in_every_table_and_figure_once(paper: Path) -> None:
    text = (paper / "main.tex").read_text()
    tables = re.findall(r"\\input\{([^}]*)\}", text)
    figures = re.findall(r"\\includegraphics\[[^]]*\]\{([^}]*)\}", text)
    assert sorted(f"{name}.tex" for name in tables) == sorted(
        file.relative_to(paper).as_posix() for file in (paper / "tables").iterdir()
    )
    assert sorted(figures) == sorted(
        file.relative_to(paper).as_posix() for file in (paper / "figures").rglob("*.pdf")
    )
    assert {
        "tables/main",
        "tables/results-mlp",
        "tables/outcomes-mlp",
        "tables/problems",
        "tables/environment",
    } <= {*tables}
    assert not {"tables/runs-mlp", "tables/overview", "tables/results", "tables/problems-mlp"} & {
        *tables
    }
    assert re.findall(r"\\section\{(.*)\}", text) == ["All problems", "cnn", "mlp"]
    assert text.count(r"\begin{document}") == text.count(r"\end{document}") == 1


def test_labels_are_unique_and_environments_are_closed(paper: Path) -> None:
    text = "".join(file.read_text() for file in [paper / "main.tex", *(paper / "tables").iterdir()])
    labels = re.findall(r"\\label\{([^}]*)\}", text)
    assert len(labels) == len(set(labels)) > 8
    for name in ("table", "tabular", "figure"):
        assert (
            len(re.findall(rf"\\begin\{{{name}\}}", text))
            == len(re.findall(rf"\\end\{{{name}\}}", text))
            > 0
        )
    assert not re.search(r"[^\x00-\x7f]", text)


def test_a_problems_tables_leave_out_what_the_page_says_elsewhere(paper: Path) -> None:
    results, outcomes = (
        (paper / "tables" / f"{name}-mlp.tex").read_text() for name in ("results", "outcomes")
    )
    assert r"\caption{mlp: Results in full" in results
    assert "problem &" not in results
    assert r"\textbf{0.9050 $\pm$ 0.0071 (2)}" in results
    assert r"50 \% of x\_1 \& more" in outcomes
    assert "python -m" not in outcomes


def test_it_tells_where_it_comes_from(paper: Path) -> None:
    readme = (paper / "README.txt").read_text()
    assert "Made by: python -m suite.report --runs" in readme
    assert "From 5 runs (2 optimizers, 2 problems)" in readme
    assert len((paper / "runs.csv").read_text().splitlines()) == 6


@pytest.mark.parametrize("columns", [1, 3, 12])
@pytest.mark.parametrize("length", [6, 30, 90])
def test_no_part_of_a_table_is_wider_or_longer_than_a_page(columns: int, length: int) -> None:
    words = " ".join(["word"] * 50)[:length]
    rows = [
        {"optimizer": f"o{row}", **{f"c{one}": words for one in range(columns)}}
        for row in range(60)
    ]
    parts = latex(make_table("t", "Title", "Caption.", rows)).split("\\end{table}\n")[:-1]
    seen: set[tuple[str, int]] = set()
    for part in parts:
        spec = re.search(r"\\begin\{tabular\}\{(.*)\}\n", part)
        assert spec is not None
        broken = [2 * float(width) for width in re.findall(r"p\{([\d.]+)em\}", spec[1])]
        plain = (
            len(re.findall(r"(?<![a-z\\])[lr]", re.sub(r">\{[^}]*\}p\{[^}]*\}", "", spec[1]))) - 1
        )
        assert (
            5 + sum(broken) + plain * max(length, 2) + 2 * (1 + plain + len(broken)) <= ACROSS + 4
        )
        lines = [
            line
            for line in part.splitlines()
            if line.endswith(r" \\") and not line.startswith("optimizer")
        ]
        assert (
            len(lines) * (max(-(-length // int(min(broken, default=length))), 1) if broken else 1)
            <= DOWN
        )
        heads = re.findall(
            r"c\d+", next(line for line in part.splitlines() if line.startswith("optimizer"))
        )
        seen |= {(head, int(line.split(" & ")[0][1:])) for head in heads for line in lines}
    assert len(seen) == 60 * columns  # nothing is lost, and every part says whose rows these are


def test_parts_have_captions_and_labels_of_their_own() -> None:
    text = latex(
        make_table(
            "t", "Title", "How to read.", [{"optimizer": f"o{row}", "x": "1"} for row in range(90)]
        )
    )
    assert re.findall(r"\\caption\{(.*)\}", text) == [
        "Title (part 1 of 3). How to read.",
        "Title (part 2 of 3).",
        "Title (part 3 of 3).",
    ]
    assert re.findall(r"\\label\{(.*)\}", text) == ["tab:t", "tab:t-2", "tab:t-3"]


def test_numbers_stand_to_the_right_and_long_heads_in_two_lines() -> None:
    rows = [{"optimizer": "sgd", "mlp: accuracy": Cell("0.9", order=0.9), "n": Cell("—")}]
    text = latex(make_table("t", "Title", "Caption.", rows))
    assert r"\begin{tabular}{lrl}" in text
    assert r"optimizer & \shortstack[r]{mlp:\\accuracy} & n \\" in text


def test_whatever_the_text_says_latex_gets_characters_it_knows() -> None:
    assert (
        escape_latex("µ ≤ τ → ∞ \u00d7 2\u00a0% é")
        == r"$\mu$ $\le$ $\tau$ $\to$ $\infty$ $\times$ 2 \% e"
    )
    assert escape_latex("\U0001f600") == "U+1F600"


@pytest.mark.parametrize("width", [4.0, 11.0])
def test_a_figure_for_a_paper_is_no_wider_than_its_sheet_and_its_legend_fits(
    width: float, tmp_path: Path
) -> None:
    canvas = Figure(figsize=(width, 3), layout="constrained")
    axes = canvas.subplots()
    lines = [
        axes.plot([0, 1], [0, number], label=f"a method with a name {number}")[0]
        for number in range(8)
    ]
    if width > SHEET:
        canvas.legend(handles=lines, loc="outside lower center", ncols=4, handlelength=3.2)
    with also_for_paper(tmp_path / "figures", tmp_path / "paper"):
        png = save(canvas, tmp_path / "figures" / "deep", "name")
    assert width_of(png.with_suffix(".pdf")) == pytest.approx(width)
    assert width_of(tmp_path / "paper" / "deep" / "name.pdf") == pytest.approx(min(width, SHEET))
    assert all(legend.get_window_extent().width <= canvas.bbox.width for legend in canvas.legends)
    assert [len(legend.get_texts()) for legend in canvas.legends] == [8] * (width > SHEET)
    save(Figure(figsize=(2, 2)), tmp_path / "figures", "later")
    assert not (tmp_path / "paper" / "later.pdf").exists()
