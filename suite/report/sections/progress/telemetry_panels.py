"""The panels of a telemetry figure: what each shows, and how to read it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

PREFIX = "telemetry/"
MOST_GENERIC = 4


@dataclass(frozen=True)
class Panel:
    """A quantity under the loss.

    Attributes:
        title: its name above the panel.
        columns: of the history, without their prefix; the second is drawn thin and dotted.
        reading: what it tells, for the caption.
        guides: values at which a grey line stands.
        range: the widest range shown; what lies outside is drawn at the edge.
        band: the columns are the lower end, the middle and the upper end.
        logarithmic: whether a logarithmic scale may be taken.
    """

    title: str
    columns: tuple[str, ...]
    reading: str
    guides: tuple[float, ...] = ()
    range: tuple[float, float] | None = None
    band: bool = False
    logarithmic: bool = True


LOSS = Panel("training loss", ("loss",), "")
LIMITS = Panel(
    "lr x largest eigenvalue",
    ("lr_sharpness",),
    "above the dashed line (2 for gradient descent, 2 (1 + m) with momentum m) SGD is unstable on "
    "a quadratic.",
)
FAILURES = Panel("failures", ("failures",), "a tick where a step was refused or a fault survived.")
PANELS = (
    Panel(
        "cosine of step and -gradient",
        ("cosine",),
        "1 is steepest descent, 0 across the slope, below 0 uphill.",
        guides=(0.0,),
    ),
    Panel(
        "gradient norm",
        ("gradient_norm",),
        "at the step's start; near 0 at any stationary point, saddles included.",
    ),
    Panel(
        "overshoot of the step",
        ("overshoot",),
        "1 ends at the minimum along the step's line, 2 where the loss is back at its start, "
        "above it has risen.",
        guides=(1.0, 2.0),
        range=(-1.0, 4.0),
        logarithmic=False,
    ),
    Panel(
        "update / weight",
        ("update_ratio_min", "update_ratio_median", "update_ratio_max"),
        "|step| / |weights| of the weight tensors, median and range.",
        band=True,
    ),
    Panel(
        "largest eigenvalue",
        ("eigenvalue_1",),
        "of the Hessian on the first mini-batch, by Lanczos.",
    ),
    LIMITS,
    Panel(
        "curvature along the step",
        ("update_curvature", "gradient_curvature"),
        "d'Hd / d'd for the last step; dotted: along the gradient. Far below the largest "
        "eigenvalue the step goes along flat directions.",
    ),
    Panel(
        "share of negative curvature",
        ("negative_mass",),
        "the sum of the negative eigenvalues over that of all, in absolute values; 0 in a convex "
        "place.",
        guides=(0.0,),
        logarithmic=False,
    ),
    Panel("damping", ("damping",), "small where the method trusts its curvature."),
    Panel("radius", ("radius",), "of the region in which the model is trusted."),
    Panel("weight of the cube", ("sigma",), "small where the method trusts its model."),
    Panel(
        "reduction ratio",
        ("reduction_ratio",),
        "actual over predicted reduction of the loss; near 1 the model is right.",
        guides=(1.0,),
        range=(-1.0, 3.0),
        logarithmic=False,
    ),
    Panel("CG iterations", ("cg_iterations",), "products with the curvature that a step took."),
    Panel(
        "condition",
        ("condition",),
        "the largest condition number among the preconditioner's damped factors.",
    ),
    Panel(
        "age of the preconditioner", ("age",), "steps since it was refreshed.", logarithmic=False
    ),
    Panel(
        "share preconditioned",
        ("preconditioned",),
        "of all parameters.",
        guides=(1.0,),
        logarithmic=False,
    ),
)
UNDRAWN = (
    "update_norm",
    "non_finite",
    "eigenvalue_2",
    "eigenvalue_3",
    "eigenvalue_min",
    "eigenvalue_error",
    "trace",
    "negative_share",
    "trials",
)


def generic(names: Collection[str]) -> list[Panel]:
    """Panels for a few of a method's own quantities, in alphabetical order."""
    others = sorted(
        name for name in names if name not in UNDRAWN and not name.startswith("failures/")
    )
    return [
        Panel(name.replace("_", " "), (name,), "told by the method.")
        for name in others[:MOST_GENERIC]
    ]
