"""MNIST-1D: ten short curves, one for each digit, distorted until they are hard to distinguish."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.data.splits import Pair

Array = NDArray[np.float64]
CLASSES, TEMPLATE, LENGTH = 10, 12, 40
PADDING = (36, 60)
MAX_TRANSLATION = 48
SCALE, SHEAR = 0.4, 0.75
CORRELATED_NOISE, CORRELATION_LENGTH, WHITE_NOISE = 0.25, 2.0, 0.02
TRAIN_SHARE = 0.8
NEVER_ZERO = 1e-8
DIGITS = (
    (5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5),
    (5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5),
    (5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5),
    (5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5),
    (5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5),
    (5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5),
    (5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5),
    (5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5),
)


@lru_cache(maxsize=4)
def mnist_1d(samples: int = 5000, seed: int = 42, shuffled: bool = False) -> tuple[Pair, Pair]:
    """Training (80 %) and test signals, `(N, 40)` floats, and their digits, `(N,)`.

    Greydanus and Kobak, "Scaling down deep learning with MNIST-1D", 2020 (arXiv 2011.14439), with
    the published constants; random numbers are drawn in the published order, so that 5000 samples
    and seed 42 are the published set. A signal is its digit's template of 12 points, between -1 and
    1:

    1. 36 to 60 zeros are appended, and the signal is interpolated to 72 points: a random stretch;
    2. the signal is multiplied by a factor within 20 % of one and rotated by up to 47 points;
    3. zeros get noise of correlation length 2, every point gets white noise of deviation 0.02;
    4. a straight line of random slope is subtracted, and 40 points are interpolated.

    The set as a whole, test signals included, has mean 0 and deviation 1.

    Args:
        samples: the number of signals, a tenth for each digit.
        seed: the seed of all random numbers.
        shuffled: permute the points of all signals alike, which hides neighbourhoods from a model.

    Raises:
        ValueError: `samples` is not a positive multiple of 10.
    """
    if samples < CLASSES or samples % CLASSES:
        raise ValueError(f"samples must be a positive multiple of {CLASSES}, got {samples}")
    random = np.random.RandomState(seed)
    templates = digit_templates()
    labels = np.repeat(np.arange(CLASSES), samples // CLASSES)
    signals = np.stack([_distorted(templates[label], random) for label in labels])
    order = random.permutation(samples)
    signals, labels = signals[order], labels[order]
    if shuffled:
        signals = signals[:, random.permutation(LENGTH)]
    inputs = torch.from_numpy((signals - signals.mean()) / signals.std()).float()
    targets = torch.from_numpy(labels).long()
    split = int(samples * TRAIN_SHARE)
    return (inputs[:split], targets[:split]), (inputs[split:], targets[split:])


def digit_templates() -> Array:
    """The ten curves, `(10, 12)`: of deviation 1/6, starting at zero."""
    curves = np.array(DIGITS, dtype=np.float64)
    curves -= curves.mean(axis=1, keepdims=True)
    curves /= curves.std(axis=1, keepdims=True)
    return (curves - curves[:, :1]) / 6


def _distorted(template: Array, random: np.random.RandomState) -> Array:
    """One signal, `(40,)`."""
    shortest, longest = PADDING
    padding = shortest + int(random.rand() * (longest - shortest + 1))
    signal = resampled(
        np.concatenate([template + NEVER_ZERO, np.zeros(padding)]), TEMPLATE + longest
    )
    signal *= 1 + SCALE * (random.rand() - 0.5)
    signal = np.roll(signal, random.choice(MAX_TRANSLATION))
    background = blurred(CORRELATED_NOISE * random.randn(len(signal)))
    signal = np.where(signal != 0, signal, background) + WHITE_NOISE * random.randn(len(signal))
    slope = SHEAR * (random.rand() - 0.5)
    return resampled(signal - slope * np.linspace(-0.5, 0.5, len(signal)), LENGTH)


def resampled(signal: Array, length: int) -> Array:
    """Piecewise linear interpolation at `length` points from one end to the other."""
    return np.interp(np.linspace(0, 1, length), np.linspace(0, 1, len(signal)), signal)


def blurred(noise: Array) -> Array:
    """The noise convolved with a Gaussian of deviation 2, cut at four deviations; mirrored ends."""
    reach = round(4 * CORRELATION_LENGTH)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / CORRELATION_LENGTH) ** 2)
    return np.convolve(
        np.pad(noise, reach, mode="symmetric"), weights / weights.sum(), mode="valid"
    )
