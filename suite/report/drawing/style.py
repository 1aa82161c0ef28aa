"""The look of an optimizer in every figure: colour by name, line by family, shade and marker."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from suite.config.registry import FIRST_ORDER, OTHER

# Okabe-Ito; its yellow cannot be read as a line on white, so grey stands in, as in later versions
# of the palette.
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE, GREY = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
    "#8C8C8C",
)
YELLOW = "#F0E442"  # for areas
PALETTE = (BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE, GREY)
SHADES = {  # of a hue whose name is taken already in a report: darker, then lighter
    BLACK: ("#4A4E69", "#7D6B5D"),
    ORANGE: ("#946600", "#F2C14E"),
    SKY: ("#3D6C8A", "#A9DCF5"),
    GREEN: ("#005C43", "#5CC7A4"),
    BLUE: ("#00385A", "#5A9FD0"),
    VERMILION: ("#873B00", "#F19457"),
    PURPLE: ("#86456A", "#E5B4D0"),
    GREY: ("#595959", "#B9B9B9"),
}
MARKERS = ("o", "s", "^", "D", "v", "P", "*", "<", ">", "p", "h")

# Names that often meet in one figure get different colours; every other name gets one by its
# checksum.
KNOWN = {
    "sgd": GREY,
    "momentum": SKY,
    "nesterov": GREEN,
    "adagrad": PURPLE,
    "rmsprop": VERMILION,
    "adam": BLACK,
    "adamw": BLUE,
    "nadam": ORANGE,
    "radam": GREEN,
    "adafactor": PURPLE,
    "torch_lbfgs": ORANGE,
    "muon": GREEN,
    "kfac": VERMILION,
    "ggn_cg": PURPLE,
    "newton": BLACK,
    "lbfgs": GREEN,
    "bfgs": ORANGE,
    "hessian_free": VERMILION,
    "levenberg_marquardt": PURPLE,
    "gauss_newton": SKY,
    "trust_region": GREEN,
    "saddle_free_newton": VERMILION,
    "newton_cg": BLUE,
    "tron": GREY,
    "arc": ORANGE,
    "shampoo": SKY,
    "soap": BLACK,
    "kl_shampoo": ORANGE,
    "kfac_adaptive": GREEN,
    "ekfac": PURPLE,
    "kbfgs": BLUE,
    "singd": GREY,
    "tnt": ORANGE,
}

DASHES: dict[str, tuple[float, ...] | None] = {
    FIRST_ORDER: None,
    "quasi newton": (5, 1.5, 1, 1.5),
    "newton": (5, 2),
    "least squares": (3, 1.5),
    "krylov": (8, 2),
    "natural gradient": (1.2, 1.2),
    "matrix": (5, 1.5, 1, 1.5, 1, 1.5),
    "diagonal": (2, 1, 5, 1),
    "online": (1, 3),
    "low rank": (4, 1, 1, 1),
    "step size": (6, 1.5),
    "structured": (3, 3),
    "trust region": (7, 2, 2, 2),
    "packaged": (1, 1.5),
    OTHER: (8, 2, 2, 2),
}


@dataclass(frozen=True)
class Look:
    """How one optimizer is drawn: colour, dash pattern (None is solid) and marker."""

    colour: str
    dashes: tuple[float, ...] | None
    marker: str


def colour_of(name: str) -> str:
    """The fixed colour of a name, the same in every figure and every report."""
    return KNOWN.get(name) or PALETTE[_checksum(name) % len(PALETTE)]


def looks(labelled: Sequence[tuple[str, str, str]]) -> dict[str, Look]:
    """A look for each (label, name, family).

    No two of up to 33 labels of one hue share both shade and marker.

    The first name of a hue has its full colour, the next ones a darker and a lighter shade of it;
    the configurations of one name share theirs. A marker comes back only when all are taken, so up
    to eleven labels differ in it whatever their colours.
    """
    names: dict[str, list[str]] = {}
    within: Counter[tuple[str, str]] = Counter()
    taken: Counter[str] = Counter()
    used: set[tuple[str, str]] = set()
    chosen: dict[str, Look] = {}
    for label, name, family in labelled:
        hue, wanted = colour_of(name), _checksum(name) % len(MARKERS)
        alike = names.setdefault(hue, [])
        alike += [name] if name not in alike else []
        marker = min(
            MARKERS[wanted:] + MARKERS[:wanted], key=lambda one: (within[hue, one], taken[one])
        )
        shade = _shade(hue, alike.index(name), marker, used)
        chosen[label] = Look(shade, DASHES.get(family, DASHES[OTHER]), marker)
        within[hue, marker] += 1
        taken[marker] += 1
        used.add((shade, marker))
    return chosen


def _shade(hue: str, place: int, marker: str, used: Collection[tuple[str, str]]) -> str:
    """The shade of a hue's name at a place; another one where its marker is taken in that shade."""
    shades = (hue, *SHADES[hue])
    ordered = [shades[(place + step) % len(shades)] for step in range(len(shades))]
    return next((shade for shade in ordered if (shade, marker) not in used), ordered[0])


def _checksum(name: str) -> int:
    """A number that is the same in every process, unlike `hash`."""
    return zlib.crc32(name.encode())
