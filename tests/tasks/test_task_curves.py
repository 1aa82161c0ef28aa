"""The generated curves, and the deep autoencoders of the literature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from tasks.data.curves import PEN, SIDE, curves_lookalike, draw_curves, random_points
from tasks.vision.autoencoder import Autoencoder

torch.set_num_threads(1)
DEEP = (400, 200, 100, 50, 25, 6)


def points(count: int) -> Tensor:
    return random_points(count, torch.Generator().manual_seed(3)).double()


def on_curve(corners: Tensor, time: Tensor) -> Tensor:
    """The parabola through three points by Lagrange's formula, `(len(time), 2)`."""
    basis = [2 * (time - 0.5) * (time - 1), -4 * time * (time - 1), 2 * time * (time - 0.5)]
    return torch.stack(basis, dim=1) @ corners


def ink(corners: np.ndarray, row: int, column: int) -> float:
    """The formula for one pixel, by scipy's adaptive quadrature."""

    def density(t: float) -> float:
        basis = np.array([2 * (t - 0.5) * (t - 1), -4 * t * (t - 1), 2 * t * (t - 0.5)])
        slope = np.array([4 * t - 3, 4 - 8 * t, 4 * t - 1])
        distance = basis @ corners - np.array([column, row])
        return float(
            np.exp(-(distance @ distance) / (2 * PEN**2)) * np.linalg.norm(slope @ corners)
        )

    value, _ = quad(density, 0, 1, limit=200, points=np.linspace(0, 1, 33)[1:-1])
    return min(1.0, value / (PEN * math.sqrt(2 * math.pi)))


def test_pixels_equal_the_integral() -> None:
    corners = points(4)
    images = draw_curves(corners)
    for n, image in enumerate(images):
        chosen = image.flatten().topk(40).indices[::8].tolist()
        for row, column in (divmod(pixel, SIDE) for pixel in chosen):
            assert float(image[row, column]) == pytest.approx(
                ink(corners[n].numpy(), row, column), abs=2e-3
            )


def test_straight_stroke_has_its_closed_form() -> None:
    start, end, height = 6.0, 20.0, 13.25
    corners = torch.tensor(
        [[[start, height], [(start + end) / 2, height], [end, height]]], dtype=torch.float64
    )
    axis = torch.arange(SIDE, dtype=torch.float64)
    across = torch.exp(-((axis - height) ** 2) / (2 * PEN**2))
    scale = PEN * math.sqrt(2)
    along = (torch.erf((axis - start) / scale) - torch.erf((axis - end) / scale)) / 2
    torch.testing.assert_close(draw_curves(corners)[0], across[:, None] * along, atol=1e-3, rtol=0)


def test_curves_pass_through_their_points_and_stay_inside() -> None:
    whole = points(200).round()
    images = draw_curves(whole)
    for n in range(3):
        column, row = whole[:, n].long().T
        assert float(images[torch.arange(200), row, column].min()) > 0.4
    time = torch.linspace(0, 1, 101, dtype=torch.float64)
    path = torch.stack([on_curve(corners, time) for corners in points(500)])
    assert float(path.min()) >= 1
    assert float(path.max()) <= SIDE - 2
    assert images.min() >= 0
    assert images.max() <= 1


def test_set_has_the_sizes_of_curves_and_is_always_the_same() -> None:
    (train, labels), (test, _) = curves_lookalike()
    assert train.shape == (20_000, 1, 28, 28)
    assert test.shape == (10_000, 1, 28, 28)
    assert train.dtype == torch.uint8
    assert not labels.any()
    again = random_points(30_000, torch.Generator().manual_seed(0))
    for n in (0, 19_999):
        torch.testing.assert_close(
            train[n, 0].float(), 255 * draw_curves(again[n : n + 1])[0], atol=0.51, rtol=0
        )
    assert 0.02 < float(train.float().mean()) / 255 < 0.1
    assert len({image.tobytes() for image in torch.cat([train, test]).numpy()}) == 30_000


def test_curves_autoencoder_has_the_layers_of_the_literature() -> None:
    task = Autoencoder(
        data="curves_lookalike", widths=DEEP, train_size=300, val_size=50, test_size=20
    )
    assert {split: len(inputs) for split, (inputs, _) in task.splits.items()} == {
        "train": 250,
        "val": 50,
        "test": 20,
    }
    assert sum(parameter.numel() for parameter in task.model(0).parameters()) == 842_340


def test_mnist_autoencoder_has_the_layers_of_the_literature() -> None:
    task = Autoencoder(
        data="fashion_mnist_small", widths=(1000, 500, 250, 30), train_size=300, val_size=50
    )
    assert sum(parameter.numel() for parameter in task.model(0).parameters()) == 2_837_314


def test_train_size_takes_the_first_images() -> None:
    few, all_ = Autoencoder(train_size=500, val_size=100), Autoencoder(val_size=100)
    known = {row.tobytes() for part in ("train", "val") for row in all_.splits[part][0].numpy()}
    assert {
        row.tobytes() for part in ("train", "val") for row in few.splits[part][0].numpy()
    } <= known
    assert few.size("train") == 400
    assert torch.equal(few.splits["test"][0], all_.splits["test"][0])


@pytest.mark.parametrize(
    ("size", "message"), [(0, "between 1 and 1500, got 0"), (1501, "between 1 and 1500, got 1501")]
)
def test_train_size_must_fit(size: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"train_size must be {message}"):
        Autoencoder(train_size=size)
