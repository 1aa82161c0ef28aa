"""Where a step's seconds go: bars by phase, from the isolated timings of `suite.time`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from suite.report.drawing.canvas import RC, WIDTH, Picture, folded, inches, literal, save
from suite.report.drawing.panels import panels
from suite.report.drawing.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    YELLOW,
)
from suite.report.section import PROBLEM, Content, Context, Section
from suite.results.frame import Records
from suite.results.timings import Timing, Timings, speed_key
from suite.tables.formats import number

OTHER = "other"
COLOURS = {
    "forward": SKY,
    "backward": BLUE,
    "curvature": ORANGE,
    "inverse": VERMILION,
    "precondition": GREEN,
    "line search": PURPLE,
    OTHER: "#D0D0D0",
}
SPARE = (YELLOW, GREY, "#000000")
HATCHES = {
    "forward": "",
    "backward": "",
    "curvature": "//",
    "inverse": "xx",
    "precondition": "..",
    "line search": "\\\\",
}
ACROSS, BAR = 3, 2.3  # panels; inches of a panel beside its labels
HOW_TO_READ = (
    "Each bar is one optimizer step with the machine to itself, cut into its phases: forward and "
    "backward passes of the objective, the building of the curvature, its inverse or "
    "factorisation, its application to the gradient, and the line search or trust region; what no "
    "phase claims is `other`. Work that is not done in every step, such as the refresh of an "
    "inverse, is spread over all steps. Panels have axes of their own."
)

Bars = dict[str, Mapping[str, float]]


def section(context: Context) -> Content:
    """The bars of all problems; empty where `suite.time` has measured none of their phases."""
    contents = phase_panels(context.records, context.records.timings)
    if not contents:
        return Content()
    return Content([], [_picture(contents, context.figures)], HOW_TO_READ)


def phase_panels(records: Records, timings: Timings) -> dict[str, Bars]:
    """Seconds per step by phase: of every optimizer, on every problem, on every hardware.

    Only timings of the records' own settings count; those of other hardware than the runs' have a
    panel of their own.
    """
    contents: dict[tuple[str, str], Bars] = {}
    measured = [(place[0], one) for place, one in sorted(timings.items()) if _has_phases(one)]
    if not measured:
        return {}
    for problem, name, runs in records.pairs():
        keys = {speed_key(records.runs[index].config) for index in runs.index}
        for key, one in measured:
            if key not in keys:
                continue
            contents.setdefault((problem, one.hardware), {}).setdefault(name, one.phases)
    several = len({hardware for _, hardware in contents}) > 1
    return {
        f"{problem}\n{hardware}" if several else problem: bars
        for (problem, hardware), bars in contents.items()
    }


def _has_phases(timing: Timing) -> bool:
    return sum(timing.phases.values()) > 0


def phases_of(contents: Mapping[str, Bars]) -> dict[str, str]:
    """The phases that take time anywhere, in the order of a step, with their colours.

    The phase `other` stands last.
    """
    present = {
        phase
        for bars in contents.values()
        for bar in bars.values()
        for phase, seconds in bar.items()
        if seconds > 0
    }
    extra = sorted(present - COLOURS.keys())
    chosen = {
        phase: colour for phase, colour in COLOURS.items() if phase in present and phase != OTHER
    }
    chosen |= {phase: SPARE[place % len(SPARE)] for place, phase in enumerate(extra)}
    return chosen | ({OTHER: COLOURS[OTHER]} if OTHER in present else {})


def _picture(contents: dict[str, Bars], folder: Path) -> Picture:
    colours = phases_of(contents)
    width = max(WIDTH / ACROSS, BAR + inches(name for bars in contents.values() for name in bars))
    height = 0.85 + 0.22 * max(map(len, contents.values()))
    with mpl.rc_context({**RC, "axes.grid.axis": "x"}):
        grid = panels(
            len(contents), width, height, most=ACROSS, least=6.0, margin=lambda width: 0.4
        )
        for axes, (label, bars) in zip(grid.axes, contents.items(), strict=True):
            _panel(axes, bars, colours)
            axes.set(title=literal(folded(label, 40)), xlabel="ms per step")
        handles = [
            Patch(facecolor=colour, hatch=HATCHES.get(phase), edgecolor="white", lw=0, label=phase)
            for phase, colour in colours.items()
        ]
        columns = max(1, min(len(handles), int(grid.width / 1.25)))
        grid.canvas.legend(handles=handles, loc="outside lower center", ncols=columns)
        png = save(grid.canvas, folder, "phases")
    count = sum(map(len, contents.values()))
    caption = (
        "Milliseconds of one step by phase; the number at a bar's end is the whole step. No band: "
        f"a bar is one measurement, the median of its windows. From {count} "
        f"timing{'s' if count != 1 else ''} of `suite.time`."
    )
    return Picture("phases", "Where a step's time goes", caption, _alt(contents), png)


def _panel(axes: Axes, bars: Bars, colours: Mapping[str, str]) -> None:
    longest = 1e3 * max(sum(bar.values()) for bar in bars.values())
    for place, bar in enumerate(bars.values()):
        left = 0.0
        for phase, colour in colours.items():
            length = 1e3 * bar.get(phase, 0.0)
            if length > 0:
                style: dict[str, Any] = {
                    "color": colour,
                    "hatch": HATCHES.get(phase),
                    "edgecolor": "white",
                    "lw": 0,
                }
                axes.barh(place, length, left=left, height=0.7, **style)
                left += length
        axes.text(left + 0.02 * longest, place, number(left), va="center", fontsize=8)
    axes.set_yticks(range(len(bars)), [literal(name) for name in bars])
    axes.set_xlim(0, 1.2 * longest)
    axes.invert_yaxis()


def _alt(contents: Mapping[str, Bars]) -> str:
    """Each panel's slowest step, and the phase that takes most of it."""
    parts = []
    for label, bars in contents.items():
        name, bar = max(bars.items(), key=lambda item: sum(item[1].values()))
        phase = max(bar, key=lambda one: bar[one])
        total = sum(bar.values())
        share = f"{bar[phase] / total:.0%} of it {phase}"
        parts.append(
            f"{label.replace(chr(10), ', ')}: {name} takes longest, {number(1e3 * total)} ms, "
            f"{share}"
        )
    return f"Stacked bars of milliseconds per step by phase. {'; '.join(parts)}."


SECTION = Section("phases", "Phases of a step", {PROBLEM}, 170, section)
