"""Landscapes and animations.

The part of the landscape, its contours, where paths leave it, and the files they make.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image
from torch import Tensor

from suite.report.__main__ import main
from suite.report.drawing.contours import leaves
from suite.report.drawing.style import Look
from suite.report.drawing.surface import LEVELS, levels, surface, view
from suite.report.drawing.trajectories import Landscape, Landscapes, Trajectory, landscapes
from suite.report.sections.progress.animations import FRAMES, animations, frame_steps
from suite.report.sections.progress.landscapes import fate, landscape_pictures
from suite.results.frame import build_records, one_seed, seed_text
from suite.results.load import load_runs
from tasks.functions.rosenbrock import Rosenbrock

Record = Callable[..., Path]
UNIT = ((0.0, 1.0), (0.0, 1.0))
NOWHERE = np.empty((0, 2))


class Bowl:
    """A task as the pictures need it: `f = 10 x^2 + y^2`, with everything that is optional."""

    domain = ((-2.0, 2.0), (-1.0, 3.0))
    minimizers = torch.zeros(1, 2)

    def values(self, points: Tensor) -> Tensor:
        return 10 * points[:, 0] ** 2 + points[:, 1] ** 2


class Saddle:
    """`f = x^2 - y^2`, with nothing that is optional."""

    def values(self, points: Tensor) -> Tensor:
        return points[:, 0] ** 2 - points[:, 1] ** 2


def trajectory(*points: tuple[float, float], name: str = "sgd", status: str = "done") -> Trajectory:
    return Trajectory(
        name, np.arange(len(points), dtype=float), np.array(points, dtype=float), status
    )


def landscape(task: Any, *trajectories: Trajectory) -> Landscape:
    return Landscape("bowl", "seed 0", task, list(trajectories), None)


def walk(steps: int) -> Trajectory:
    """Gradient descent on the bowl."""
    shrunk = np.array([0.92, 0.98]) ** np.arange(steps + 1)[:, None]
    return Trajectory("sgd", np.arange(steps + 1.0), np.array([1.5, 2.0]) * shrunk, "done")


# -- what is drawn ---------------------------------------------------------------------------------


def test_the_domain_is_widened_for_a_path_that_stays_near() -> None:
    near = np.array([[0.5, 0.5], [1.3, 0.5], [0.6, -0.2]])
    assert view(UNIT, [near], NOWHERE) == pytest.approx((0, 1.34, -0.24, 1))
    assert view(UNIT, [near[:1]], NOWHERE) == (0, 1, 0, 1)


def test_a_path_that_runs_away_or_jumps_about_does_not_shrink_the_picture() -> None:
    away = np.array([[0.5, 0.5], [1.2, 0.5], [1e30, 0.5]])
    about = np.array([[0.5, 0.5]] + [[1.4, 0.5], [9.0, 0.5]] * 10 + [[0.5, 0.5]])
    near = np.array([[0.5, 0.5], [1.1, 0.5]])
    assert view(UNIT, [away, about], NOWHERE) == (0, 1, 0, 1)
    assert view(UNIT, [away, near], NOWHERE) == pytest.approx((0, 1.14, 0, 1))


def test_without_a_domain_starts_minimizers_and_paths_say_where_to_look() -> None:
    path = np.linspace([0.0, 0.0], [2.0, 1.0], 50)
    x_low, x_high, y_low, y_high = view(None, [path], np.array([[-3.0, 0.5]]))
    assert x_low < -3 < 1.9 < x_high < 4
    assert -1 < y_low < 0 < 0.95 < y_high < 2
    still = view(None, [np.zeros((4, 2))], NOWHERE)
    assert still[0] < 0 < still[1]
    runaway = view(None, [np.cumprod(np.full((40, 2), 10.0), axis=0), path], NOWHERE)
    assert np.isfinite(runaway).all()


def test_the_heights_are_the_gaps_of_the_task() -> None:
    ground = surface(Landscape("r", "seed 0", Rosenbrock(2), [trajectory((-1.2, 1.0))], None))
    assert ground.box[0] < -1.2 < ground.box[1]
    x, y = np.meshgrid(ground.x, ground.y)
    expected = 100 * (y - x**2) ** 2 + (1 - x) ** 2
    assert ground.height == pytest.approx(expected, rel=1e-12)
    bowl = surface(landscape(Bowl(), walk(3)))
    assert (bowl.minimum, bowl.quantity) == (0.0, "f - f*")
    assert bowl.minimizers.tolist() == [[0, 0]]
    assert surface(landscape(Saddle(), trajectory((1.0, 0.1)))).quantity == "f"


def test_values_that_are_not_finite_leave_holes() -> None:
    class Half(Saddle):
        def values(self, points: Tensor) -> Tensor:
            return points[:, 0].log()

    ground = surface(landscape(Half(), trajectory((-1.0, 0.0), (1.0, 1.0))))
    assert np.isnan(ground.height[:, 0]).all()
    assert np.isfinite(ground.height[:, -1]).all()
    assert np.isfinite(ground.levels).all()


def test_levels_are_logarithmic_where_heights_span_decades() -> None:
    x, y = np.meshgrid(np.linspace(-2, 2, 99), np.linspace(-1, 3, 99))
    values = levels(100 * (y - x**2) ** 2 + (1 - x) ** 2, above_minimum=True)
    assert values[1:] / values[:-1] == pytest.approx(np.full(LEVELS - 1, values[1] / values[0]))
    assert values[0] < 1 < 1000 < values[-1]


def test_levels_tell_a_saddle_from_the_valleys_beside_it() -> None:
    x, y = np.meshgrid(np.linspace(-1.5, 1.5, 99), np.linspace(-2.5, 2.5, 99))
    double_well = 5 * x**2 - y**2 + y**4 / 4 + 1  # the saddle is at height 1
    values = levels(double_well, above_minimum=True)
    assert (values < 1).sum() >= 5
    assert (values > 1).sum() >= 5
    assert (np.diff(values) > 0).all()


def test_without_a_minimum_levels_are_symmetric_about_the_saddle() -> None:
    axis = np.linspace(-1, 1, 101)
    values = levels(axis[None, :] ** 2 - axis[:, None] ** 2, above_minimum=False)
    assert values == pytest.approx(-values[::-1], abs=1e-9)
    assert np.abs(values).min() == pytest.approx(0, abs=1e-9)  # the contour that crosses itself
    assert len(levels(np.zeros((3, 3)), above_minimum=False)) == LEVELS + 1
    assert (np.diff(levels(np.zeros((3, 3)), above_minimum=True)) > 0).all()


def test_a_path_is_marked_where_it_last_leaves_the_box() -> None:
    box = (0.0, 1.0, 0.0, 1.0)
    assert leaves(np.array([[0.5, 0.5], [0.6, 0.9]]), box) is None
    assert leaves(np.array([[0.5, 0.5], [3.0, 0.5], [0.6, 0.9]]), box) is None  # it came back
    assert leaves(np.array([[0.5, 0.5], [2.5, 1.5], [9.0, 9.0]]), box) == pytest.approx([1.0, 0.75])
    assert leaves(np.array([[0.5, 0.5], [0.5, -1e300]]), box) == pytest.approx([0.5, 0.0])


def test_the_fate_of_a_path_in_words() -> None:
    one = landscape(Bowl(), walk(400))
    ground = surface(one)
    arrived = next(k for k in range(400) if 10 * (1.5 * 0.92**k) ** 2 + (2 * 0.98**k) ** 2 <= 1e-6)
    assert fate(one, ground, walk(400)) == f"f - f* < 1e-06 after {arrived} steps"
    assert fate(one, ground, trajectory((1.0, 1.0), (0.0, 1.0))) == "f - f* = 1.000 after 1 step"
    assert (
        fate(one, ground, trajectory((1.0, 1.0), (9e9, 1.0), status="diverged"))
        == "diverged after 1 step"
    )
    assert (
        fate(one, ground, trajectory((1.0, 1.0), (math.nan, 1.0))) == "no finite value after 1 step"
    )


# -- motion ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [1, 7, 200, 50_000])
def test_frames_begin_at_every_step_and_end_at_the_last(last: int) -> None:
    steps = frame_steps(last)
    assert steps[0] == 0
    assert steps[-1] == last
    assert len(steps) <= FRAMES + 1 <= 60
    assert (np.diff(steps) >= 1).all()
    assert steps[:3] == [0, 1, 2][: len(steps)]
    assert frame_steps(0) == [0]


def test_an_animation_shows_growing_paths_in_their_own_colours(tmp_path: Path) -> None:
    mpl.use("Agg")
    looks = {"sgd": Look("#D55E00", None, "o"), "newton": Look("#0072B2", (5, 2), "s")}
    jump = trajectory((1.5, 2.0), (0.0, 0.0), (math.nan, math.nan), name="newton")
    (picture,) = animations([landscape(Bowl(), walk(200), jump)], looks, tmp_path)
    with Image.open(picture.file) as moving:
        frames = [
            np.asarray((moving.seek(place), moving.convert("RGB"))[1])
            for place in range(moving.n_frames)
        ]
        assert moving.info["loop"] == 0
    assert picture.file.stat().st_size < 1.5e6
    assert 2 < len(frames) <= FRAMES + 1
    orange = (np.array(to_rgb("#D55E00")) * 255).round()
    counts = [int((frame == orange).all(axis=-1).sum()) for frame in frames]
    legend = int((frames[0][:, 450:] == orange).all(axis=-1).sum())
    assert legend > 0
    assert counts[-1] > 1.5 * counts[0]
    half = len(counts) // 2
    assert counts[0] < counts[half] < counts[-1]
    assert not (frames[0] == frames[-1]).all()


# -- the report ------------------------------------------------------------------------------------


@pytest.fixture
def walked(record: Record) -> Callable[..., Path]:
    """Write a run on Rosenbrock's function whose path is a straight line to the minimum."""

    def write(
        optimizer: str = "sgd", seed: int = 0, task: dict[str, Any] | None = None, steps: int = 20
    ) -> Path:
        chosen = task or {"_target_": "tasks.functions.rosenbrock.Rosenbrock", "dimension": 2}
        settings = {"metric": "gap", "direction": "min", "precision": "float64", "task": chosen}
        directory = record("valley", optimizer, seed, config=settings)
        points = np.linspace([-1.2, 1.0 + 0.1 * seed], [1.0, 1.0], steps + 1)
        table = pd.DataFrame({"step": range(steps + 1), "x": points[:, 0], "y": points[:, 1]})
        table.to_csv(directory / "path.csv", index=False)
        return directory

    return write


def report(runs: Path, *options: str) -> str:
    assert main(["--runs", str(runs), "--out", str(runs.parent / "report"), *options]) == 0
    return "".join(page.read_text() for page in sorted((runs.parent / "report").rglob("*.html")))


def test_the_page_holds_the_landscape_and_its_animation(
    walked: Record, record: Record, runs: Path
) -> None:
    walked("newton", steps=5)
    record("mlp", "sgd", 0)
    page = report(runs)
    figures = runs.parent / "report" / "figures"
    names = {file.name for file in figures.glob("*valley*")}
    assert names >= {"landscape-valley.png", "landscape-valley.pdf", "animation-valley.gif"}
    assert not list(figures.glob("landscape-mlp*"))
    assert len(re.findall(r'src="data:image/gif;base64,', page)) == 1
    # the record's target, in the words of the picture
    assert "newton: f - f* &lt; 0.8 after 5 steps" in page
    assert not re.findall(
        r"""(?:src|href)\s*=\s*["'](?!data:image/|#|(?:tasks/|\.\./)?[a-z]+\.html)""", page
    )
    report(runs, "--task", "mlp")
    assert not list(figures.glob("*valley*"))  # nothing outlives its runs, animations neither


@pytest.mark.parametrize(("paths", "wide"), [(1, False), (4, False), (5, True), (11, True)])
def test_many_paths_get_a_panel_each(paths: int, wide: bool, tmp_path: Path) -> None:
    names = [f"method {number}" for number in range(paths)]
    trajectories = [
        trajectory((1.5, 2.0), (0.1 * place, 0.0), name=name) for place, name in enumerate(names)
    ]
    looks = {name: Look("#D55E00", None, "o") for name in names}
    (picture,) = landscape_pictures([landscape(Bowl(), *trajectories)], looks, tmp_path)
    with Image.open(picture.file) as image:
        assert (image.width > 1000) is wide
        white = np.asarray(image.convert("L")) > 250
    assert white[0].all()  # nothing is cut off at the edges
    assert white[-1].all()
    assert white[:, 0].all()
    assert white[:, -1].all()
    assert all(name in picture.alt for name in names)


def test_without_paths_there_is_no_such_section(record: Record, runs: Path) -> None:
    record("mlp", "sgd", 0)
    assert '<section id="landscapes"' not in report(runs)


def landscapes_of(runs: Path, *allow: str) -> Landscapes:
    return landscapes(build_records(*load_runs(runs)), allow)


def test_a_path_that_cannot_be_read_is_left_out(walked: Record, runs: Path) -> None:
    (walked("sgd") / "path.csv").write_text("step,x\n0,1\n")
    (walked("adamw") / "path.csv").write_text("")
    assert landscapes_of(runs) == Landscapes([], [])
    cut = walked("newton")
    (cut / "summary.json").unlink()  # killed, in the middle of its last row
    (cut / "path.csv").write_text("step,x,y\n0,-1.2,1.0\n1,0.5,0.5\n2,0.7,0.")
    (only,) = landscapes_of(runs).drawn
    assert [one.optimizer for one in only.trajectories] == ["newton"]
    assert only.trajectories[0].points.tolist() == [[-1.2, 1.0], [0.5, 0.5]]


def test_tasks_from_elsewhere_need_a_word_of_trust(
    walked: Record, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine_landscape.py").write_text(
        "class Hill:\n    def values(self, points):\n        return -(points**2).sum(1)\n"
        "class Plain:\n    pass\n"
        "class Broken:\n    def __init__(self):\n        raise RuntimeError('no data here')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    walked(task={"_target_": "mine_landscape.Hill"})
    advice = "valley (if you trust mine_landscape.Hill, add --allow mine_landscape to the command)"
    assert landscapes_of(runs) == Landscapes([], [advice])
    assert f"Not drawn: {advice}." in report(runs)
    (hill,) = landscapes_of(runs, "mine_landscape").drawn
    assert hill.values(np.array([[3.0, 4.0]])) == [-25]
    # does not know its function: nothing to say
    walked("lbfgs", task={"_target_": "mine_landscape.Plain"})
    assert len(landscapes_of(runs, "mine_landscape").drawn) == 1
    assert not landscapes_of(runs, "mine_landscape").skipped
    walked("adamw", task={"_target_": "mine_landscape.Broken"})
    assert len(landscapes_of(runs, "mine_landscape").drawn) == 1
    assert "(no data here)" in landscapes_of(runs, "mine_landscape").skipped[0]


def test_one_seed_for_all_where_they_have_one_in_common() -> None:
    runs = pd.DataFrame(
        [("sgd", 0), ("sgd", 1), ("adam", 1), ("adam", 2), ("newton", 3)],
        columns=["optimizer", "seed"],
    )
    chosen = one_seed(runs)
    assert dict(zip(chosen["optimizer"], chosen["seed"], strict=True)) == {
        "sgd": 1,
        "adam": 1,
        "newton": 3,
    }
    assert seed_text(chosen) == "seeds 1, 3"
    assert seed_text(one_seed(runs[runs["optimizer"] == "sgd"])) == "seed 0"
