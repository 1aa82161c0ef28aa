"""OGR on Beale's function with noisy gradients, for docs/results/ogr.md and its picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray
from pages import template
from torch import Tensor, nn

from optimizers import Objective
from optimizers.online import OGR
from suite.paths import ROOT
from tasks.functions.problems import PROBLEMS

PAGE = ROOT / "docs" / "results" / "ogr.md"
PICTURE = ROOT / "docs" / "pictures" / "ogr_beale.png"
NOISE = 0.1
STARTS = {2: list(product((-1, 0, 1), (-2, -1, 0, 1, 2))), 3: list(product(range(-3, 4), repeat=3))}
STEPS = {2: 30, 3: 50}
SADDLE = STARTS[2].index((0, 1))
SEEDS = 20  # seeds of the noise in two dimensions
# in three dimensions, for methods that take one start at a time, and all starts at once
SEEDS_APART, SEEDS_AT_ONCE = 1, 10
WORKERS = 2

Builder = Callable[..., Any]
Numbers = NDArray[np.float64]

FULL = partial(OGR, form="full", beta=0.5, gamma=0.9, div=1.5, cut=10.0)
DIAGONAL = partial(OGR, form="diagonal", beta=0.6, gamma=0.7, div=1.4, cut=5.0)
CD = partial(OGR, form="cd", beta=0.4, gamma=0.5, div=1 / 0.6, cut=1e-12, variance=0.1)
SUBSPACE = partial(OGR, beta=0.6, gamma=0.7, div=1.5, cut=6.0, rotation=0.1, outside=0.001)
MOMENTUM = partial(torch.optim.SGD, lr=0.003, momentum=0.9)
ADAM = partial(torch.optim.Adam, betas=(0.8, 0.9), eps=1e-6)

# name, how it is built, the author's figure, his settings; whether it takes all starts at once
ROWS: list[tuple[str, Builder, float, str, bool]] = [
    ("SGD", partial(torch.optim.SGD, lr=2e-4), 21.5208, "lr 0.0002", True),
    ("Adam", partial(ADAM, lr=0.7), 0.1794, "lr 0.7, betas 0.8, 0.9", True),
    ("cdOGR (`cd`)", CD, 0.0164, "beta 0.4, gamma 0.5, eta 0.6, variances from 0.1", True),
    ("dOGR (`diagonal`)", DIAGONAL, 0.0070, "beta 0.6, gamma 0.7, div 1.4, cut 5", True),
    (
        "fOGR (`full`)",
        partial(FULL, gamma=0.6),
        0.0123,
        "beta 0.5, gamma 0.6, div 1.5, cut 10",
        False,
    ),
    (
        "s1OGR (`subspace`)",
        partial(SUBSPACE, form="subspace", dimension=1, cut=15.0),
        0.0539,
        "beta 0.6, gamma 0.7, div 1.5, cut 15, rotation 0.1",
        False,
    ),
    (
        "ds1OGR (`mixed`)",
        partial(SUBSPACE, form="mixed", dimension=1, weight=0.3),
        0.0040,
        "the same with cut 6, weight 0.3",
        False,
    ),
]


def beale(x: Tensor) -> Tensor:
    """The values (k,) of b(x, y), or of b(x, y) + b(z, y) in three dimensions, at rows (k, n)."""
    residuals = PROBLEMS["beale"].residuals
    assert residuals is not None
    # one row needs no vmap
    at_rows = torch.vmap(residuals) if len(x) > 1 else lambda rows: residuals(rows[0])[None]
    pairs = (x[:, [i, 1]] for i in range(x.shape[1]) if i != 1)
    return sum(
        (at_rows(pair).square().sum(1) for pair in pairs), torch.zeros(len(x), dtype=x.dtype)
    )


class Noisy(nn.Module):
    """Points (k, n), and the function's sum plus noise times points, whose gradient is noisy."""

    def __init__(self, starts: Tensor) -> None:
        super().__init__()
        self.x = nn.Parameter(starts.clone())

    def forward(self, noise: Tensor) -> Tensor:
        return (beale(self.x).sum() + (noise * self.x).sum())[None]


class Sum(nn.Module):
    """The model's output as the loss."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.sum()


def paths(build: Builder, starts: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    """The points (steps + 1, k, n) of a method that takes all starts as one parameter."""
    model = Noisy(starts)
    objective = Objective(model, Sum(), torch.zeros_like(starts), torch.zeros(len(starts)))
    optimizer = build(model.parameters())
    points = [starts]
    for _ in range(steps):
        noise = NOISE * torch.randn(starts.shape, generator=generator, dtype=starts.dtype)
        optimizer.step(objective.on(noise, torch.zeros(len(starts))))
        points.append(model.x.detach().clone())
    return torch.stack(points)


def values(build: Builder, n: int, seed: int, together: bool) -> Numbers:
    """The function along the paths, (steps + 1, starts)."""
    torch.set_num_threads(1)
    starts = torch.tensor(STARTS[n], dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    parts = [starts] if together else starts.split(1)
    trajectories = [paths(build, part, STEPS[n], generator) for part in parts]
    return np.concatenate(
        [np.stack([beale(points).numpy() for points in path]) for path in trajectories], axis=1
    )


def geometric(final: Numbers) -> float:
    """The geometric mean over the starts."""
    return float(np.exp(np.log(final).mean()))


def spread(results: list[float]) -> str:
    """The median over the seeds, with the smallest and the largest."""
    if len(results) == 1:
        return f"{results[0]:.4g}"
    return f"{np.median(results):.4g} ({min(results):.4g} to {max(results):.4g})"


def table_in_three(ends: Iterator[Numbers]) -> list[str]:
    """Our results beside the author's, from the last values of every row and seed."""
    lines = [
        "| method | the author's settings | the author | ours | seeds |",
        "|---|---|---|---|---|",
    ]
    for name, _, published, settings, together in ROWS:
        seeds = SEEDS_AT_ONCE if together else SEEDS_APART
        means = [geometric(next(ends)[-1]) for _ in range(seeds)]
        lines.append(f"| {name} | {settings} | {published:g} | {spread(means)} | {seeds} |")
    return lines


def table_in_two(curves: dict[str, Numbers]) -> list[str]:
    """Means over the starts, with and without the start at the saddle."""
    lines = [
        "| method | the author | mean over 15 starts | without the start at the saddle | diverged \
|",
        "|---|---|---|---|---|",
    ]
    published = {"OGR (full)": "0.0187", "momentum": "1.046", "Adam": "0.473"}
    for name, curve in curves.items():
        final = curve[:, -1]
        fine = final[np.isfinite(final).all(1)]
        means, others = fine.mean(1), np.delete(fine, SADDLE, axis=1).mean(1)
        lines.append(
            f"| {name} | {published.get(name, '')} | {spread(list(means))} | "
            f"{spread(list(others))} | {len(final) - len(fine)} of {len(final)} seeds |"
        )
    return lines


def draw(curves: dict[str, Numbers], methods: dict[str, Builder]) -> None:
    """Paths from an ordinary start, paths from the saddle, and the function against the step."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(16, 5), layout="constrained")
    boxes = {left: ((-1.6, 4.2), (-2.3, 1.6)), middle: ((-2.5, 4.2), (-0.5, 2.0))}
    for axis, ((x0, x1), (y0, y1)) in boxes.items():
        x, y = torch.meshgrid(
            torch.linspace(x0, x1, 200), torch.linspace(y0, y1, 200), indexing="xy"
        )
        height = beale(torch.stack([x.flatten(), y.flatten()], 1).double()).view_as(x)
        axis.contour(
            x,
            y,
            height.log10(),
            levels=np.arange(-2, 5, 0.5),
            cmap="Greys",
            linewidths=0.7,
            alpha=0.8,
        )
        axis.plot(3, 0.5, "k*", markersize=12)
        axis.set(xlim=(x0, x1), ylim=(y0, y1), xlabel="x", ylabel="y")
    for name, build in methods.items():
        path = paths(
            build, torch.tensor([[-1.0, -1.0]]).double(), STEPS[2], torch.Generator().manual_seed(0)
        )[:, 0]
        left.plot(*path.T, "o-", markersize=3, linewidth=1.2, label=name)
    left.plot(-1, -1, "ks")
    left.set_title("30 steps from (-1, -1), the same noise")
    for seed in range(8):
        path = paths(
            FULL, torch.tensor([[0.0, 1.0]]).double(), STEPS[2], torch.Generator().manual_seed(seed)
        )[:, 0]
        middle.plot(*path.T, "o-", markersize=3, linewidth=1)
    middle.plot(0, 1, "ks")
    middle.set_title("OGR (full) from the saddle (0, 1), eight noises")
    for name, curve in curves.items():
        right.plot(np.nanmedian(curve, axis=(0, 2)), label=name)
    right.set(
        yscale="log",
        xlabel="step",
        ylabel="f",
        title=f"median over {len(STARTS[2])} starts, {SEEDS} noises",
    )
    left.legend(loc="lower right")
    right.legend()
    figure.savefig(PICTURE, dpi=100)


def main() -> None:
    """Write the picture and the page."""
    torch.set_num_threads(1)
    methods: dict[str, Builder] = {
        "OGR (full)": FULL,
        "OGR (diagonal)": DIAGONAL,
        "momentum": MOMENTUM,
        "Adam": partial(ADAM, lr=0.4),
    }
    jobs = [
        (build, 3, seed, together)
        for _, build, _, _, together in ROWS
        for seed in range(SEEDS_AT_ONCE if together else SEEDS_APART)
    ]
    with ProcessPoolExecutor(WORKERS) as pool:
        ends = pool.map(values, *zip(*jobs, strict=True))
        flat = [
            (build, 2, seed, build is not FULL)
            for build in methods.values()
            for seed in range(SEEDS)
        ]
        runs = pool.map(values, *zip(*flat, strict=True))
        rows = table_in_three(iter(list(ends)))
        curves = {name: np.stack([next(runs) for _ in range(SEEDS)]) for name in methods}
    draw(curves, methods)
    final = curves["OGR (full)"][:, -1]
    means, at_saddle = final.mean(1), final[:, SADDLE]
    good = at_saddle < 0.1
    saddle = template(
        "ogr_beale/saddle",
        good=int(good.sum()),
        seeds=SEEDS,
        low=(means[good].min(), means[good].max()),
        bad=np.median(at_saddle[~good]),
        high=(means[~good].min(), means[~good].max()),
        rest=np.median(final),
    )
    parts = [
        template("ogr_beale/introduction", noise=NOISE, three=STEPS[3]),
        "\n".join(rows),
        template("ogr_beale/reading", two=STEPS[2]),
        "\n".join(table_in_two(curves)),
        saddle,
    ]
    PAGE.write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
