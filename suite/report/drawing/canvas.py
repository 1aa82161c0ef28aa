"""The look of all pictures, how text and ticks are set, how they are saved."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.legend import Legend
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

DPI = 110
WIDTH = 11.0  # inches of a page
# inches: at most so wide are figures for a paper, whose text a column of 6.5 inches makes 7 points
# high
SHEET = 8.4
FEW_DECADES = 100.0
RC: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "legend.frameon": False,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.06,
    "pdf.fonttype": 42,
}


@dataclass(frozen=True)
class Picture:
    """A figure with its file, title, caption and alternative text."""

    name: str
    title: str
    caption: str
    alt: str
    file: Path


_paper: ContextVar[tuple[Path, Path] | None] = ContextVar("paper", default=None)


@contextmanager
def also_for_paper(figures: Path, paper: Path | None) -> Iterator[None]:
    """Save every picture within as a PDF for a paper, too.

    Args:
        figures: the folder of the pictures.
        paper: the folder for the PDFs, with the same places beneath it; None asks for none.
    """
    token = _paper.set(None if paper is None else (figures, paper))
    try:
        yield
    finally:
        _paper.reset(token)


def save(canvas: Canvas, folder: Path, name: str) -> Path:
    """Write PNG and PDF; the result is the path of the PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    canvas.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})
    canvas.set_layout_engine("none")  # the layout of the PDF serves the PNG too
    _save_png(canvas, folder / f"{name}.png")
    if (places := _paper.get()) is not None:
        figures, paper = places
        _save_for_paper(canvas, paper / folder.relative_to(figures) / f"{name}.pdf")
    return folder / f"{name}.png"


def _save_png(canvas: Canvas, file: Path) -> None:
    """The bytes that `savefig` writes, without its first drawing, which only lays out."""
    dpi = canvas.dpi
    canvas.dpi = DPI
    try:
        FigureCanvasAgg(canvas).print_png(file)  # type: ignore[no-untyped-call]
    finally:
        canvas.dpi = dpi


def _save_for_paper(canvas: Canvas, file: Path) -> None:
    """The same picture with a new layout, narrow enough for legible text in a column."""
    width, height = canvas.get_size_inches()
    if width > SHEET:
        canvas.set_size_inches(SHEET, height)
        canvas.set_layout_engine("constrained")
        for legend in list(canvas.legends):
            _folded_legend(canvas, legend)
    file.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(file, metadata={"CreationDate": None})


def _folded_legend(canvas: Canvas, legend: Legend) -> None:
    """Fold a legend that is wider than its picture into fewer columns and more rows."""
    handles = [handle for handle in legend.legend_handles if handle is not None]
    labels = [text.get_text() for text in legend.get_texts()]
    renderer = FigureCanvasAgg(canvas).get_renderer()  # type: ignore[no-untyped-call]
    legend.remove()
    for columns in range(len(labels), 0, -1):
        legend = canvas.legend(
            handles, labels, loc="outside lower center", ncols=columns, handlelength=3.2
        )
        if columns == 1 or legend.get_window_extent(renderer).width <= canvas.bbox.width:
            break
        legend.remove()


def literal(text: str) -> str:
    """Text that matplotlib shows as it is, without taking dollars for mathematics."""
    return text.replace("$", r"\$")


def inches(labels: Iterable[str]) -> float:
    """The approximate width of the longest label at the size of ticks."""
    return 0.085 * max(map(len, labels), default=0)


def folded(label: str, width: int = 34) -> str:
    """A label in as many lines as a narrow panel needs."""
    return textwrap.fill(label, width, break_long_words=False, break_on_hyphens=False)


def slugs(labels: Iterable[str]) -> dict[str, str]:
    """A file name for each label, distinct even where the labels differ only in punctuation."""
    names: dict[str, str] = {}
    for label in labels:
        base = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-") or "problem"
        name, number = base, 2
        while name in names.values():
            name, number = f"{base}-{number}", number + 1
        names[label] = name
    return names


def plain_ticks(ruler: Axis) -> None:
    """Label a narrow logarithmic axis by 1, 2, 5 instead of powers of ten."""
    low, high = ruler.get_view_interval()
    if ruler.get_scale() == "log" and high / low < FEW_DECADES:
        ruler.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ruler.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ruler.set_minor_formatter(NullFormatter())
