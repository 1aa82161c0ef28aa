"""Problems 8 to 12 and 15 to 19: fits of a few parameters to data, most by exponentials."""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.functions.problem import Problem, constant, counted, repeated
from tasks.functions.problems import data


def bard(x: Tensor) -> Tensor:
    """Bard's rational function.

    `r_i = y_i - (x1 + u_i / (v_i x2 + w_i x3))`, `u_i = i`, `v_i = 16 - i`, `w_i = min(u_i, v_i)`,
    `i = 1 .. 15`.
    """
    u = counted(15, x)
    v = 16 - u
    return constant(data.BARD, x) - (x[0] + u / (v * x[1] + torch.minimum(u, v) * x[2]))


def gaussian(x: Tensor) -> Tensor:
    """A bell: `r_i = x1 exp(-x2 (t_i - x3)^2 / 2) - y_i`, `t_i = (8 - i) / 2`, `i = 1 .. 15`."""
    t = (8 - counted(15, x)) / 2
    return x[0] * torch.exp(-x[1] * (t - x[2]) ** 2 / 2) - constant(data.GAUSSIAN, x)


def meyer(x: Tensor) -> Tensor:
    """A thermistor's resistance.

    `r_i = x1 exp(x2 / (t_i + x3)) - y_i`, `t_i = 45 + 5i`, `i = 1 .. 16`.
    """
    t = 45 + 5 * counted(16, x)
    return x[0] * torch.exp(x[1] / (t + x[2])) - constant(data.MEYER, x)


def gulf(x: Tensor) -> Tensor:
    """The function of Gulf Research and Development.

    `r_i = exp(-|y_i - x2|^x3 / x1) - t_i`, `t_i = i / 100`, `y_i = 25 + (-50 log t_i)^(2/3)`, `i =
    1 .. 99`. The paper prints `|y_i m i x2|` for `|y_i - x2|`; its own program, and the published
    minimum, follow the latter.
    """
    t = counted(99, x) / 100
    y = 25 + (-50 * t.log()) ** (2 / 3)
    return torch.exp(-((y - x[1]).abs() ** x[2]) / x[0]) - t


def box3d(x: Tensor) -> Tensor:
    """Box's function of three parameters.

    `r_i = e^(-t_i x1) - e^(-t_i x2) - x3 (e^-t_i - e^(-10 t_i))`, `t_i = i / 10`, `i = 1 .. 10`.
    """
    t = counted(10, x) / 10
    return torch.exp(-t * x[0]) - torch.exp(-t * x[1]) - x[2] * (torch.exp(-t) - torch.exp(-10 * t))


def kowalik_osborne(x: Tensor) -> Tensor:
    """A rational function.

    `r_i = y_i - x1 (u_i^2 + u_i x2) / (u_i^2 + u_i x3 + x4)`, `i = 1 .. 11`.
    """
    u = constant(data.KOWALIK_OSBORNE_AT, x)
    return constant(data.KOWALIK_OSBORNE, x) - x[0] * (u**2 + u * x[1]) / (u**2 + u * x[2] + x[3])


def brown_dennis(x: Tensor) -> Tensor:
    """Brown and Dennis's function.

    `r_i = (x1 + t_i x2 - e^t_i)^2 + (x3 + x4 sin t_i - cos t_i)^2`, `t_i = i / 5`, `i = 1 .. 20`.
    """
    t = counted(20, x) / 5
    return (x[0] + t * x[1] - t.exp()) ** 2 + (x[2] + x[3] * t.sin() - t.cos()) ** 2


def osborne1(x: Tensor) -> Tensor:
    """Two exponentials.

    `r_i = y_i - (x1 + x2 e^(-t_i x4) + x3 e^(-t_i x5))`, `t_i = 10 (i - 1)`, `i = 1 .. 33`.
    """
    t = 10 * (counted(33, x) - 1)
    return constant(data.OSBORNE1, x) - (
        x[0] + x[1] * torch.exp(-t * x[3]) + x[2] * torch.exp(-t * x[4])
    )


def biggs_exp6(x: Tensor) -> Tensor:
    """Three exponentials.

    `r_i = x3 e^(-t_i x1) - x4 e^(-t_i x2) + x6 e^(-t_i x5) - y_i`, `t_i = i / 10`, `i = 1 .. 13`;
    the data are the model at (1, 10, 1, 5, 4, 3).
    """
    t = counted(13, x) / 10
    y = torch.exp(-t) - 5 * torch.exp(-10 * t) + 3 * torch.exp(-4 * t)
    return (
        x[2] * torch.exp(-t * x[0]) - x[3] * torch.exp(-t * x[1]) + x[5] * torch.exp(-t * x[4]) - y
    )


def osborne2(x: Tensor) -> Tensor:
    """A decay and three bells.

    `r_i = y_i - (x1 e^(-t_i x5) + sum_k x_(k+1) exp(-(t_i - x_(k+8))^2 x_(k+5)))`, `k = 1 .. 3`,
    `t_i = (i - 1) / 10`, `i = 1 .. 65`.
    """
    t = (counted(65, x) - 1) / 10
    bells = torch.exp(-((t[:, None] - x[8:11]) ** 2) * x[5:8])
    return constant(data.OSBORNE2, x) - (x[0] * torch.exp(-t * x[4]) + bells @ x[1:4])


# Published to six digits; refined by Newton's method to those of a double.
DATA_FITS = (
    Problem(
        "bard",
        number=8,
        dimension=3,
        start=repeated(1.0),
        residuals=bard,
        minimum=8.214877306578966e-3,
        minimizers=(repeated(0.08241055974978898, 1.1330360920297222, 2.3436951786425366),),
        local_minima=(17.4286,),
    ),
    Problem(
        "gaussian",
        number=9,
        dimension=3,
        start=repeated(0.4, 1.0, 0.0),
        residuals=gaussian,
        minimum=1.127932769618648e-8,
        minimizers=(repeated(0.39895613783875668, 1.0000190844878057, 0.0),),
    ),
    Problem(
        "meyer",
        number=10,
        dimension=3,
        start=repeated(0.02, 4000.0, 250.0),
        residuals=meyer,
        minimum=87.9458551708511,
        minimizers=(repeated(0.0056096364710280525, 6181.346346286372, 345.2236346241365),),
    ),
    Problem(
        "gulf",
        number=11,
        dimension=3,
        start=repeated(5.0, 2.5, 0.15),
        residuals=gulf,
        minimum=0.0,
        minimizers=(repeated(50.0, 25.0, 1.5),),
    ),
    Problem(
        "box3d",
        number=12,
        dimension=3,
        start=repeated(0.0, 10.0, 20.0),
        residuals=box3d,
        minimum=0.0,
        minimizers=(repeated(1.0, 10.0, 1.0), repeated(10.0, 1.0, -1.0)),
    ),
    Problem(
        "kowalik_osborne",
        number=15,
        dimension=4,
        start=repeated(0.25, 0.39, 0.415, 0.39),
        residuals=kowalik_osborne,
        minimum=3.075056038492368e-4,
        minimizers=(
            repeated(
                0.1928069345790379, 0.19128232873436657, 0.12305650692632063, 0.13606233068379464
            ),
        ),
        local_minima=(1.02734e-3,),
    ),
    Problem(
        "brown_dennis",
        number=16,
        dimension=4,
        start=repeated(25.0, 5.0, -5.0, -1.0),
        residuals=brown_dennis,
        minimum=85822.20162635627,
        minimizers=(
            repeated(
                -11.594439904762163, 13.203630051207202, -0.4034394881768596, 0.23677877445573622
            ),
        ),
    ),
    Problem(
        "osborne1",
        number=17,
        dimension=5,
        start=repeated(0.5, 1.5, -1.0, 0.01, 0.02),
        residuals=osborne1,
        minimum=5.464894697482906e-5,
        minimizers=(
            repeated(
                0.375410052106952,
                1.93584691271237,
                -1.46468713661342,
                0.0128675346400573,
                0.0221226996616726,
            ),
        ),
    ),
    Problem(
        "biggs_exp6",
        number=18,
        dimension=6,
        start=repeated(1.0, 2.0, 1.0, 1.0, 1.0, 1.0),
        residuals=biggs_exp6,
        minimum=0.0,
        minimizers=(
            repeated(1.0, 10.0, 1.0, 5.0, 4.0, 3.0),
            repeated(4.0, 10.0, 3.0, 5.0, 1.0, 1.0),
        ),
        local_minima=(5.6556499255e-3, 0.306366772625),
    ),
    Problem(
        "osborne2",
        number=19,
        dimension=11,
        start=repeated(1.3, 0.65, 0.65, 0.7, 0.6, 3.0, 5.0, 7.0, 2.0, 4.5, 5.5),
        residuals=osborne2,
        minimum=4.013773629354773e-2,
        minimizers=(
            repeated(
                *(1.3099771546273007, 0.43155379460298904, 0.633661698960724, 0.5994305347859163),
                *(0.7541832263280115, 0.9042885798596335, 1.365811835237028, 4.823698817227157),
                *(2.3986848661317546, 4.568874597667672, 5.6753414705806415),
            ),
        ),
    ),
)
