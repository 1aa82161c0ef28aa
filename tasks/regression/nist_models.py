"""The model functions of NIST's nonlinear regressions: b `(p,)` and x `(N, k)` to `(N,)`."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

Model = Callable[[Tensor, Tensor], Tensor]


def _saturation(b: Tensor, x: Tensor) -> Tensor:
    """The model `b1 (1 - exp(-b2 x))`."""
    return -b[0] * torch.expm1(-b[1] * x[:, 0])


def _misra1b(b: Tensor, x: Tensor) -> Tensor:
    """The model `b1 (1 - (1 + b2 x / 2)^-2)`."""
    return b[0] * (1 - (1 + b[1] * x[:, 0] / 2) ** -2)


def _misra1c(b: Tensor, x: Tensor) -> Tensor:
    """The model `b1 (1 - (1 + 2 b2 x)^(-1/2))`."""
    return b[0] * (1 - (1 + 2 * b[1] * x[:, 0]) ** -0.5)


def _misra1d(b: Tensor, x: Tensor) -> Tensor:
    """The model `b1 b2 x / (1 + b2 x)`."""
    scaled = b[1] * x[:, 0]
    return b[0] * scaled / (1 + scaled)


def _chwirut(b: Tensor, x: Tensor) -> Tensor:
    """The model `exp(-b1 x) / (b2 + b3 x)`."""
    return torch.exp(-b[0] * x[:, 0]) / (b[1] + b[2] * x[:, 0])


def _exponentials(b: Tensor, x: Tensor) -> Tensor:
    """The model `sum_i b_2i-1 exp(-b_2i x)` of three exponentials."""
    return torch.exp(-x * b[1::2]) @ b[::2]


def _gauss(b: Tensor, x: Tensor) -> Tensor:
    """The model `b1 exp(-b2 x) + b3 exp(-((x - b4) / b5)^2) + b6 exp(-((x - b7) / b8)^2)`."""
    bumps = torch.exp(-(((x - b[3::3]) / b[4::3]) ** 2)) @ b[2::3]
    return b[0] * torch.exp(-b[1] * x[:, 0]) + bumps


def _dan_wood(b: Tensor, x: Tensor) -> Tensor:
    """The model `b1 x^b2`."""
    return b[0] * x[:, 0] ** b[1]


def _rational(top: int, b: Tensor, x: Tensor) -> Tensor:
    """A quotient `(b1 + b2 x + ...) / (1 + b_top+1 x + ...)`, `top` coefficients above."""
    powers = x ** torch.arange(top, dtype=x.dtype, device=x.device)
    return (powers @ b[:top]) / (1 + powers[:, 1 : len(b) - top + 1] @ b[top:])


def _mgh09(b: Tensor, x: Tensor) -> Tensor:
    """The model `b1 (x^2 + b2 x) / (x^2 + b3 x + b4)`."""
    u = x[:, 0]
    return b[0] * (u * u + u * b[1]) / (u * u + u * b[2] + b[3])


def _mgh10(b: Tensor, x: Tensor) -> Tensor:
    """The model `b1 exp(b2 / (x + b3))`."""
    return b[0] * torch.exp(b[1] / (x[:, 0] + b[2]))


def _mgh17(b: Tensor, x: Tensor) -> Tensor:
    """The model `b1 + b2 exp(-b4 x) + b3 exp(-b5 x)`."""
    return b[0] + torch.exp(-x * b[3:]) @ b[1:3]


def _nelson(b: Tensor, x: Tensor) -> Tensor:
    """The model `b1 - b2 x1 exp(-b3 x2)` of the response's logarithm."""
    return b[0] - b[1] * x[:, 0] * torch.exp(-b[2] * x[:, 1])


def _enso(b: Tensor, x: Tensor) -> Tensor:
    """A constant and three cycles of periods 12, b4 and b7, a cosine and a sine each."""
    periods = torch.stack([torch.full_like(b[3], 12), b[3], b[6]])
    angles = 2 * math.pi * x / periods
    return b[0] + angles.cos() @ b[1::3] + angles.sin() @ b[2::3]


def _eckerle4(b: Tensor, x: Tensor) -> Tensor:
    """The model `b1 / b2 exp(-((x - b3) / b2)^2 / 2)`."""
    return b[0] / b[1] * torch.exp(-0.5 * ((x[:, 0] - b[2]) / b[1]) ** 2)


def _bennett5(b: Tensor, x: Tensor) -> Tensor:
    """The model `b1 (b2 + x)^(-1 / b3)`."""
    return b[0] * (b[1] + x[:, 0]) ** (-1 / b[2])


def _rat42(b: Tensor, x: Tensor) -> Tensor:
    """The model `b1 / (1 + exp(b2 - b3 x))`."""
    return b[0] / (1 + torch.exp(b[1] - b[2] * x[:, 0]))


def _rat43(b: Tensor, x: Tensor) -> Tensor:
    """The model `b1 / (1 + exp(b2 - b3 x))^(1 / b4)`."""
    return b[0] / (1 + torch.exp(b[1] - b[2] * x[:, 0])) ** (1 / b[3])


def _roszman1(b: Tensor, x: Tensor) -> Tensor:
    """The model `b1 - b2 x - arctan(b3 / (x - b4)) / pi`."""
    return b[0] - b[1] * x[:, 0] - torch.arctan(b[2] / (x[:, 0] - b[3])) / math.pi


MODELS: dict[str, Model] = {
    "Bennett5": _bennett5,
    "BoxBOD": _saturation,
    "Chwirut1": _chwirut,
    "Chwirut2": _chwirut,
    "DanWood": _dan_wood,
    "ENSO": _enso,
    "Eckerle4": _eckerle4,
    "Gauss1": _gauss,
    "Gauss2": _gauss,
    "Gauss3": _gauss,
    "Hahn1": partial(_rational, 4),
    "Kirby2": partial(_rational, 3),
    "Lanczos1": _exponentials,
    "Lanczos2": _exponentials,
    "Lanczos3": _exponentials,
    "MGH09": _mgh09,
    "MGH10": _mgh10,
    "MGH17": _mgh17,
    "Misra1a": _saturation,
    "Misra1b": _misra1b,
    "Misra1c": _misra1c,
    "Misra1d": _misra1d,
    "Nelson": _nelson,
    "Rat42": _rat42,
    "Rat43": _rat43,
    "Roszman1": _roszman1,
    "Thurber": partial(_rational, 4),
}
